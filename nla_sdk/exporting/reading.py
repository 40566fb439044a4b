"""What was written, read back with transformers alone, as code that knows only the reference layout reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ..contract import Contract
from ..errors import ExportError
from ..model.quiet import quiet
from ..model.reconstructor import Reconstructor
from ..model.verbalizer import Verbalizer
from ..model.weights.leftovers import FINAL_NORMS
from ..model.weights.loading import find_blocks
from .prompts import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD_FILE = "value_head.safetensors"
TEXTS = ("", "a note on the weather", "The history of a small harbour town, its fishermen and one long winter.", "42")
_ROWS = 4
_CLOSE = {"av": 2e-2, "ar": 1e-3}
"""How far a float32 export of a float32 pair may be off before something else than rounding is at work."""


def av_shift(folder: Path, verbalizer: Verbalizer, scale: float, dtype: torch.dtype) -> float:
    """The largest change of a likely token's log-probability after the prompt, over a few vectors of fixed seed.

    Likely are the tokens that either gives a hundredth or more.

    Raises:
        ExportError: the tokenizer reads the prompt otherwise, or the model is another one.
    """
    contract, backbone = verbalizer.contract, verbalizer.backbone
    model, tokenizer = _load(folder)
    ids = rendered(tokenizer, contract.av_prompt())
    if ids != list(verbalizer.prompt_ids):
        raise ExportError(
            f"transformers reads the tokenizer that was written as {type(tokenizer).__name__}, which makes other "
            "tokens of the AV's prompt than the pair's. Nothing has been written."
        )
    vectors = torch.randn(_ROWS, backbone.d_model, generator=torch.Generator().manual_seed(0))
    vectors *= scale / vectors.norm(dim=-1, keepdim=True)
    at = ids.index(int(contract.injection_token_id or 0))

    def overwrite(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, at] = vectors.to(output)
        return output

    rows = torch.tensor([ids]).expand(_ROWS, -1)
    with torch.no_grad(), backbone.using(verbalizer.adapter):
        handle = backbone.embedding.register_forward_hook(overwrite)
        try:
            before = backbone.model(input_ids=rows.to(backbone.device), use_cache=False, logits_to_keep=1).logits[:, -1]
        finally:
            handle.remove()
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(rows).clone()
        embeddings[:, at] = vectors.to(embeddings)
        after = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1]
    one, other = (functional.log_softmax(logits.float().cpu(), dim=-1) for logits in (before, after))
    likely = torch.maximum(one, other) > -4.6
    shift = float((one - other)[likely].abs().max())
    _hold("av", shift, verbalizer.backbone.dtype, dtype, "the next token's log-probability by")
    return shift


def ar_distance(folder: Path, reconstructor: Reconstructor, contract: Contract, dtype: torch.dtype) -> float:
    """The largest ‖â − b̂‖ between directions before and after, over a few texts.

    Raises:
        ExportError: the model is another one.
    """
    model, tokenizer = _load(folder)
    after = torch.stack([reconstruct(model, tokenizer, folder, contract.ar_prompt(text)) for text in TEXTS])
    with torch.no_grad(), reconstructor.backbone.using(reconstructor.adapter):
        prompts = [ids for ids, _ in contract.ar_prompt_ids_batch(reconstructor.backbone.tokenizer, list(TEXTS))]
        before = reconstructor.forward(prompts).cpu()
    one, other = (functional.normalize(vectors.float(), dim=-1) for vectors in (before, after))
    distance = float((one - other).norm(dim=-1).max())
    _hold("ar", distance, reconstructor.backbone.dtype, dtype, "directions by")
    return distance


def reconstruct(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, prompt: str) -> torch.Tensor:
    """The state of a prompt's last token, without final norm, through the head: float32 [d]."""
    from safetensors.torch import load_file

    stack, _ = find_blocks(model, model.config.num_hidden_layers)
    decoder = model.get_submodule(stack.rpartition(".")[0])
    for name in FINAL_NORMS:
        if hasattr(decoder, name):
            setattr(decoder, name, nn.Identity())
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        state = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()
    return load_file(folder / HEAD_FILE)["weight"].float() @ state


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _hold(role: str, found: float, was: torch.dtype, written: torch.dtype, what: str) -> None:
    """Both in float32, only rounding may stand between before and after."""
    exact = was == written == torch.float32
    if not found <= (_CLOSE[role] if exact else float("inf")):
        raise ExportError(
            f"The exported {role.upper()}, read back with transformers alone, is off: {what} {found:.3g}, where "
            f"rounding explains {_CLOSE[role]:g} at most. Its architecture has something that this export does not "
            "know. Nothing has been written."
        )
