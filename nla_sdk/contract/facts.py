"""The facts of a contract: every attribute, its type, and what it means. `Contract` (`model.py`) is what they do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .values import (
    Count,
    Dtype,
    FieldName,
    FieldRule,
    FileName,
    FinalNorm,
    Heads,
    Index,
    Indices,
    InjectionNorm,
    InjectionRule,
    InjectionSite,
    Layers,
    Markers,
    OutputForm,
    OutputStop,
    Positive,
    Precision,
    PromptStyle,
    ReadingPosition,
    RepoFolder,
    RepoId,
    Role,
    Share,
    StateNorm,
    Target,
    Temperature,
    Text,
    TokenIds,
    TokenizerChoice,
    Truncation,
    WeightsKind,
)


class Facts(BaseModel):
    """What a checkpoint (`nla_model`) or table (`nla_dataset`) promises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nla_model", "nla_dataset"] = Field(description="A checkpoint or a table.")
    role: Role | None = Field(
        None, description="The half: av (vector to text) or ar (text to vector); None for most tables."
    )
    base_model: Text | None = Field(None, description="Hub id or folder of the base model.")
    base_revision: Text | None = Field(None, description="Commit, tag or branch of the base model.")
    d_model: Count | None = Field(None, description="Width of the residual stream and of every vector.")
    layer: Index | None = Field(None, description="Decoder block whose output is read, counted from 0.")
    layers: Layers | None = Field(
        None,
        description="Blocks it may read where they are several, or any; `layer` is read unless another is said.",
    )
    source_model: Text | None = Field(
        None, description="Fine-tune of the base that activations were read from: Hub id or folder; None = the base."
    )
    injection_site: InjectionSite | None = Field(
        None, description="Where the vector goes: the marker's embedding, or its state after a block."
    )
    injection_block: Index | None = Field(None, description="The block after which it goes, counted from 0.")
    injection_rule: InjectionRule | None = Field(
        None, description="Whether the vector replaces what stands there or is added to it."
    )
    injection_norm: InjectionNorm | None = Field(
        None,
        description="Norm it gets first: fixed (scale), sqrt_d (√d_model), match (that of the state at the marker), "
        "raw (its own), multiply (its own times scale).",
    )
    injection_scale: Positive | None = Field(None, description="The norm of `fixed`, the factor of `multiply`.")
    injection_coefficient: Positive = Field(1.0, description="Factor of the vector once it has its norm.")
    injection_markers: Markers = Field(
        1, description="Consecutive markers, one vector each: a number, or any (as many as there are vectors)."
    )
    injection_layers: Indices | None = Field(
        None, description="Block that each marker's vector is read from, where they are several."
    )
    mse_scale: Positive | None = Field(None, description="Norm both vectors are scaled to in the loss; None = raw.")
    injection_char: Text | None = Field(None, description="The marker, in whose place the activation goes.")
    injection_token_id: Index | None = Field(None, description="Token id of the marker.")
    injection_left_neighbor_id: Index | None = Field(None, description="Token id just before the marker.")
    injection_right_neighbor_id: Index | None = Field(None, description="Token id just after the marker.")
    av_template: Text | None = Field(None, description="AV prompt, byte for byte, with one {injection_char}.")
    ar_template: Text | None = Field(None, description="AR prompt, byte for byte, with one {explanation}.")
    critic_suffix_ids: TokenIds | None = Field(None, description="Token ids every AR prompt ends in.")
    prompt_style: PromptStyle | None = Field(
        None, description="AV prompt as raw text, or as one user message of the chat template."
    )
    bos: bool | None = Field(
        None,
        description="Whether the AV prompt begins with BOS; None = where the tokenizer has one, in our own files.",
    )
    system: str | None = Field(
        None, description="System message of the chat; None = what the chat template does without one."
    )
    enable_thinking: bool | None = Field(
        None, description="What the chat template is told of thinking; None = nothing is passed."
    )
    prefill: Text | None = Field(
        None, description="Beginning of the answer that is part of the prompt, behind the chat template's opening."
    )
    fields: dict[FieldName, FieldRule] = Field(
        default_factory=dict,
        description="Other fields of a template ({depth}, {layer}, {question}, {model_tag}): what each may be.",
    )
    output_form: OutputForm | None = Field(
        None,
        description="What it writes: tagged (<explanation>…</explanation>), opened (the tag is open in the prompt), "
        "lines, dashes, span, answer; None = what stands between tags if there are any.",
    )
    output_stop: OutputStop | None = Field(
        None,
        description="What ends it beside EOS: closing_tag, eos (nothing else), budget (max_new_tokens is its proper "
        "end), or a token id; None = closing_tag.",
    )
    output_temperature: Temperature | None = Field(None, description="Temperature that its author sampled with.")
    output_top_p: Share | None = Field(None, description="Nucleus that its author sampled from.")
    output_top_k: Count | None = Field(None, description="Tokens that its author sampled from.")
    output_no_repeats: bool = Field(
        False, description="Whether an item of a list (in quotes, or after About:) that it has said is not said again."
    )
    tokenizer: TokenizerChoice | None = Field(
        None,
        description="What reads texts where they differ: tokenizer.json (file) or transformers' class (class).",
    )
    ar_num_blocks: Count | None = Field(None, description="B: blocks 0 … B−1 run, hidden_states[B] is read.")
    ar_bos: bool | None = Field(None, description="Whether the AR prompt begins with BOS, where the tokenizer has one.")
    ar_final_norm: FinalNorm | None = Field(
        None, description="Whether the base's final norm stands between the state read and the head."
    )
    ar_state: StateNorm = Field("raw", description="The state as it is (raw), or rescaled to √d_model before the head.")
    ar_position: ReadingPosition = Field(
        "last", description="Token read: the prompt's last, the marker, or the last of the chat turn (turn)."
    )
    ar_prompt_style: PromptStyle = Field(
        "raw", description="AR prompt as raw text, or as one user message of the chat."
    )
    ar_truncation: Truncation = Field(
        "explanation",
        description="What a prompt over `max_length` loses: its explanation's end (explanation), its own beginning "
        "(left) or end (right), or refuse.",
    )
    ar_heads: Heads = Field("one", description="One linear head, one per_layer, or none (the state is the vector).")
    ar_head_file: FileName | None = Field(None, description="File of the head; None = the one of the usual names.")
    ar_head_key: Text | None = Field(None, description="Key of the head's weight in it; per_layer: with {layer}.")
    ar_target: Target | None = Field(
        None,
        description="What it predicts: the direction of the activation (raw), or of its rest over the mean (centred).",
    )
    head_bias: bool | None = Field(None, description="Whether the AR's linear head has a bias; None = as found.")
    quantization: Text | None = Field(None, description="Quantisation of the base in training (nf4); None = none.")
    compute_dtype: Dtype | None = Field(None, description="Dtype of the base's matrix products in training.")
    extraction_precision: Precision | None = Field(
        None, description="Precision the source ran at when read (nf4, float32, …); fp16 and its like are spelled out."
    )
    max_length: Count | None = Field(None, description="Most tokens an AR prompt may have; longer ones are cut.")
    max_new_tokens: Count | None = Field(None, description="Tokens the AV writes at most by default.")
    activation_mean: FileName | None = Field(
        None, description="File beside the contract with the mean activation of a centred pair."
    )
    activation_whitening: FileName | None = Field(
        None, description="File beside the contract with a matrix: what is left over the mean is multiplied by it."
    )
    activation_map: FileName | None = Field(
        None, description="File beside the contract with the linear map from the source's space to the pair's."
    )
    reconstruction_map: FileName | None = Field(
        None, description="File beside the contract with the linear map back to the source's space."
    )
    activation_statistics: FileName | None = Field(
        None, description="File beside the contract that tells right activations from wrong ones."
    )
    centred_norm: Positive | None = Field(None, description="Median norm of the centred training vectors.")
    baseline_mse: Positive | None = Field(None, description="Direction mse of predicting the mean: FVE's denominator.")
    weights_kind: WeightsKind | None = Field(None, description="A full checkpoint, or a lora; None = as its files are.")
    weights_adapters: list[RepoFolder] | None = Field(
        None, description="LoRAs that are active together, in order: subfolders of its repository, or of others."
    )
    weights_parent: RepoFolder | None = Field(
        None, description="Full checkpoint that the adapter was trained on, where that is not the base."
    )
    weights_rslora: bool | None = Field(
        None, description="Whether the adapter is rank-stabilised, where its own config does not say it."
    )
    weights_alpha: Positive | None = Field(
        None, description="The adapter's alpha, where its own config does not say it."
    )
    pair: RepoId | None = Field(None, description="Repository of the other half.")
    provenance: dict[Any, Any] = Field(
        default_factory=dict, description="What it was made from: hashes, code version, settings."
    )
