"""The contract of a checkpoint or table, `nla_meta.yaml`: every dialect in, one canonical form out.

The contract decides everything that code must not guess: which base model and layer, which marker token is overwritten
and at what norm, the exact prompts, how many blocks the AR runs. `Contract.load` reads any dialect found in published
files (`dialects.py`), fills what a file lacks from a known release (`releases.yaml`), refuses what is missing or
malformed with the key and the file named, and keeps every key it does not know. `Contract.verify` holds it against the
live tokenizer. Needs pydantic and PyYAML only: cards and tables are read without torch.

Example:
    >>> contract = Contract.load("my-av", known=known_release("owner/my-av"))
    >>> contract = contract.verify(tokenizer)
    >>> ids = contract.av_prompt_ids(tokenizer)
    >>> ids[contract.find_marker(ids)] == contract.injection_token_id
    True
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ..errors import ContractError, MissingFileError
from . import dialects
from .file import SIDECAR_NAME, parse, sidecar_path, write
from .prompts import ar, av, verify
from .refusals import malformed, require
from .values import (
    Count,
    Dtype,
    FileName,
    Index,
    Positive,
    Precision,
    PromptStyle,
    RepoId,
    Role,
    Text,
    TokenIds,
    TokenizerChoice,
)


class Contract(BaseModel):
    """What a checkpoint (`nla_model`) or table (`nla_dataset`) promises; immutable, see `replace`.

    Build it with `load` or `from_dict`; the constructor takes the same keys as keyword arguments and checks the same.
    Attributes a file need not give are None where nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nla_model", "nla_dataset"] = Field(description="A checkpoint or a table.")
    role: Role | None = Field(
        None, description="The half: av (vector to text) or ar (text to vector); None for most tables."
    )
    base_model: Text | None = Field(None, description="Hub id or folder of the base model.")
    base_revision: Text | None = Field(None, description="Commit, tag or branch of the base model.")
    d_model: Count | None = Field(None, description="Width of the residual stream and of every vector.")
    layer: Index | None = Field(None, description="Decoder block whose output is read, counted from 0.")
    injection_scale: Positive | None = Field(
        None, description="Norm an activation is scaled to before it is injected; None = as it is."
    )
    mse_scale: Positive | None = Field(None, description="Norm both vectors are scaled to in the loss; None = raw.")
    injection_char: Text | None = Field(None, description="The marker, whose embedding the activation overwrites.")
    injection_token_id: Index | None = Field(None, description="Token id of the marker.")
    injection_left_neighbor_id: Index | None = Field(None, description="Token id just before the marker.")
    injection_right_neighbor_id: Index | None = Field(None, description="Token id just after the marker.")
    av_template: Text | None = Field(None, description="AV prompt, byte for byte, with one {injection_char}.")
    ar_template: Text | None = Field(None, description="AR prompt, byte for byte, with one {explanation}.")
    critic_suffix_ids: TokenIds | None = Field(None, description="Token ids every AR prompt ends in.")
    prompt_style: PromptStyle | None = Field(
        None, description="AV prompt as raw text, or as one user message of the chat template; AR prompts are raw."
    )
    tokenizer: TokenizerChoice | None = Field(
        None,
        description="What reads texts where they differ: tokenizer.json (file) or transformers' class (class).",
    )
    ar_num_blocks: Count | None = Field(None, description="B: blocks 0 … B−1 run, hidden_states[B] is read.")
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
    activation_statistics: FileName | None = Field(
        None, description="File beside the contract that tells right activations from wrong ones."
    )
    centred_norm: Positive | None = Field(None, description="Median norm of the centred training vectors.")
    baseline_mse: Positive | None = Field(None, description="Direction mse of predicting the mean: FVE's denominator.")
    pair: RepoId | None = Field(None, description="Repository of the other half.")
    provenance: dict[Any, Any] = Field(
        default_factory=dict, description="What it was made from: hashes, code version, settings."
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _extras: dict[Any, Any] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr(default="Contract(…)")

    # --- in ----------------------------------------------------------------------------------------------------------
    def __init__(self, **values: Any) -> None:
        self._read(values, "Contract(…)", None)

    @classmethod
    def from_dict(
        cls, d: Mapping, *, source: str = "<dict>", known: Mapping | None = None, given: Mapping | None = None
    ) -> Contract:
        """A contract from a mapping in any dialect.

        Args:
            d: what a sidecar holds. Not changed.
            source: the file's name, for messages.
            known: a mapping in any dialect (a release's entry) that fills what `d` lacks; where both speak, `d` wins.
            given: a mapping in any dialect that stands above `d`: what the user says (see `NLAPair.from_pretrained`).
                Of what only one half has a use for, the other takes nothing.
        Raises:
            ContractError: something is missing, malformed or contradictory; names the key, the file and what to do.
            UnstatedPromptError: an AV whose `prompt_style` nobody states.
        Example:
            >>> sidecar = {"role": "critic", "base_checkpoint": "owner/lm", "extraction": {"layer": 2, "d_model": 64},
            ...            "critic": {"num_hidden_layers": 2}, "prompt_templates": {"critic": "{explanation}>"}}
            >>> Contract.from_dict(sidecar).ar_num_blocks
            3
        """
        contract = cls.__new__(cls)
        contract._read(d, source, known, given)
        return contract

    @classmethod
    def load(cls, path: str | os.PathLike, *, known: Mapping | None = None, given: Mapping | None = None) -> Contract:
        """Read a contract file, a folder's `nla_meta.yaml`, or a table's `<name>.parquet.nla_meta.yaml`.

        Args:
            path: the file, the folder, or the `.parquet` file.
            known: see `from_dict`. With it the file may be absent altogether.
            given: see `from_dict`.
        Raises:
            MissingFileError: there is no such file, and no `known` to stand in for it.
            ContractError: the file is no YAML mapping, or its content is refused (see `from_dict`).
        """
        file = sidecar_path(path)
        if file.is_file():
            return cls.from_dict(parse(file.read_bytes(), str(file)), source=str(file), known=known, given=given)
        if known is not None:
            return cls.from_dict({}, source=f"{file} (absent; known release)", known=known, given=given)
        if not file.parent.is_dir():
            raise MissingFileError(f"{file.parent} does not exist, so it holds no contract. Check the path.")
        raise MissingFileError(
            f"{file} does not exist: a checkpoint needs its contract beside it ({SIDECAR_NAME}), a table "
            f"<name>.parquet.{SIDECAR_NAME}. Ask its publisher for it, or write one: Contract.from_dict(…).save(…)."
        )

    def _read(self, d: Mapping, source: str, known: Mapping | None, given: Mapping | None = None) -> None:
        if not isinstance(d, Mapping):
            raise ContractError(f"{source}: expected a mapping of keys to values, found a {type(d).__name__}.")
        reading = dialects.read(d, known, type(self).model_fields, source, given)
        try:
            super().__init__(**reading.values)
        except ValidationError as error:
            raise ContractError(malformed(error, reading.keys, reading.origins, source)) from None
        self._origins = {name: reading.origins.get(name, "default") for name in type(self).model_fields}
        self._extras, self._source = reading.extras, source
        require(self)
        av.require_style(self)

    # --- out ---------------------------------------------------------------------------------------------------------
    @property
    def origins(self) -> dict[str, str]:
        """Where each attribute came from: "given", "sidecar", "release", "derived" or "default"."""
        return dict(self._origins)

    @property
    def extras(self) -> dict[Any, Any]:
        """The keys nobody here knows, where they stood; they are written back unchanged."""
        return copy.deepcopy(self._extras)

    @property
    def source(self) -> str:
        """The file it was read from, as named in messages."""
        return self._source

    def to_dict(self) -> dict[Any, Any]:
        """The canonical form: attribute names at the top level, then the unknown keys as they were.

        None is left out, except for a scale that is explicitly null, which means raw; absent is something else.
        """
        canonical: dict[Any, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            explicit_null = name in dialects.SCALES and self._origins[name] != "default"
            if (value is not None and value != {}) or (value is None and explicit_null):
                canonical[name] = copy.deepcopy(value)
        return canonical | self.extras

    def save(self, path: str | os.PathLike) -> Path:
        """Write the canonical form, atomically: a reader sees the old file or the new one, never half of one.

        Args:
            path: a `.yaml` file, a folder (made if need be), or a `.parquet` file, beside which the sidecar is put.
        Returns:
            The file written.
        Raises:
            ContractError: an unknown key or the provenance holds something that YAML cannot hold.
        """
        file = sidecar_path(path)
        write(file, self.to_dict())
        return file

    def replace(self, **changes: Any) -> Contract:
        """A copy with some attributes changed and everything checked again; None takes an attribute away.

        A scale set to None is raw. Changed attributes get the origin "derived", the others keep theirs.
        """
        kept = {key: value for key, value in self.to_dict().items() if self._origins.get(key) != "default"}
        contract = type(self).from_dict(kept | changes, source=self._source)
        contract._origins |= {
            name: "derived" if name in changes else self._origins[name]
            for name in self._origins
            if contract._origins[name] != "default"
        }
        return contract

    def __repr__(self) -> str:
        what = {"nla_dataset": "table"}.get(self.kind, str(self.role))
        facts = [what, f"base_model={self.base_model!r}", f"layer={self.layer}", f"d_model={self.d_model}"]
        return f"Contract({', '.join(facts)}, from {self._source!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Contract) else NotImplemented

    # --- prompts, and the live tokenizer: methods, defined where the rest of their subject is ------------------------
    av_prompt = av.av_prompt
    ar_prompt = ar.ar_prompt
    av_prompt_ids = av.av_prompt_ids
    ar_prompt_ids = ar.ar_prompt_ids
    ar_prompt_ids_batch = ar.ar_prompt_ids_batch
    find_marker = av.find_marker
    verify = verify.verify

    def prompt_texts(self) -> list[str]:
        """Its templates' text around their fields: what a tokenizer must at least agree on."""
        return [text for name in ("av_template", "ar_template") if (text := getattr(self, name))]

    @property
    def ar_prefix(self) -> str:
        """The AR template's text before the explanation."""
        return ar.around_explanation(self)[0]

    @property
    def ar_suffix(self) -> str:
        """The AR template's text after the explanation; its last token is where the AR reads."""
        return ar.around_explanation(self)[1]
