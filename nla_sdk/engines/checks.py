"""What an inference server would get wrong without a word, refused; and what can be seen of whether it has the AV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..contract import Contract
from ..contract.prompts.prompt import Prompt
from ..contract.prompts.tokens import pieces, plain
from ..errors import PairError
from ..model.weights.loading import text_config
from .connection import EngineError
from .server import Server

if TYPE_CHECKING:
    from ..model.verbalizer import Verbalizer

TAKEN = frozenset({"gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
"""Model types of which both servers take a prompt's embeddings as they enter the first block."""
SCALED_AGAIN = frozenset({"gemma", "gemma2"})
"""Model types whose embeddings both servers multiply by √d once more, whoever made them."""
FARTHEST = 0.1
"""Nats that a server's greedy tokens may be less likely here than the likeliest, on average. bfloat16 moves an answer
only where two tokens are all but as likely as each other; another model's tokens are off by whole nats."""


class UnservableError(PairError, ValueError):
    """An AV needs more than prompt embeddings say, or writes by a rule of its own, so that no server can run it."""

    remedy = "Run it here (without av_engine=, --av-engine), or choose an AV that embeddings are enough for."


class ServedModelError(EngineError):
    """An inference server serves another model than the AV, or one that sees nothing of the vectors."""

    remedy = "Export the AV (nla export) and start the server on what was written; docs/howto/engines.md."


def refuse(contract: Contract, config: Any, ref: str) -> None:
    """Refuse an AV that a server would run otherwise than it was trained, all reasons at once.

    Args:
        config: of the model that it runs on.
        ref: what messages call the AV.
    Raises:
        UnservableError: names them.
    """
    text, injection, found = text_config(config), contract.injection, []
    if injection is not None and injection.site == "block":
        found.append(
            f"its vectors go in after block {injection.block} (`injection.site: block`), and what is sent stands "
            "before the first one."
        )
    if getattr(text, "hidden_size_per_layer_input", None):
        found.append(
            f"its model ({text.model_type}) looks every token up in a second table, per layer; where embeddings are "
            "sent there are no ids, and the pad token's rows would be taken."
        )
    elif text.model_type in SCALED_AGAIN:
        found.append(f"vLLM and SGLang multiply embeddings that are sent to a {text.model_type} by √d once more.")
    elif text.model_type not in TAKEN:
        found.append(
            f"it is not known here whether vLLM and SGLang take the embeddings of a {text.model_type} as they enter "
            f"the first block; of {', '.join(sorted(TAKEN))} they do."
        )
    if contract.output_no_repeats:
        found.append(
            "it says no item of a list twice (`output.no_repeats`), which is a rule of nla-sdk's decoding; "
            "contract={'output.no_repeats': False} (nla: --contract output.no_repeats=false) lets it repeat itself."
        )
    if found:
        raise UnservableError(f"{ref} cannot be run by an inference server: {' Also: '.join(found)}")


def refuse_other_model(server: Server, contract: Contract, tokenizer: Any, prompt: Prompt | None, ref: str) -> None:
    """Hold the tokens that the server makes of the AV's prompt against the pair's.

    Of weights this tells nothing. Where the server has no /tokenize, nothing is told at all.

    Args:
        prompt: the AV's default one; None: it has none.
    Raises:
        ServedModelError: another vocabulary, or a chat template that an export of this AV has not.
    """
    for text in contract.prompt_texts():
        theirs, ours = server.reads(text), plain(tokenizer, text)
        if theirs is not None and theirs != list(ours):
            at = next((n for n, two in enumerate(zip(theirs, ours, strict=False)) if two[0] != two[1]), 0)
            expected = pieces(tokenizer, list(ours[at : at + 4]))
            raise ServedModelError(
                f"{server} makes other tokens of {ref}'s prompt than its own tokenizer: {theirs[at : at + 4]} where "
                f"that has {expected}. It serves a model of another vocabulary; start it on the exported AV."
            )
    exported = prompt is not None and len(prompt.positions) == 1 and not contract.fields
    if not exported or (chat := server.reads_chat(contract.av_prompt())) is None:
        return
    assert prompt is not None
    if chat != list(prompt.ids):
        raise ServedModelError(
            f"{server} has a chat template that does not make {ref}'s prompt of its message, as an export's does: it "
            "serves the base, or another AV. Export the pair (nla export) and start the server on its folder `av`."
        )


def hold_to_local(server: Server, local: Verbalizer, prompt: Prompt, vectors: torch.Tensor, tokens: list[int]) -> None:
    """Hold greedy tokens of the server against the same AV in memory, which reads them token by token.

    Args:
        vectors: [d_model] or [markers, d_model], what was put in.
        tokens: that the server wrote, of all that there are.
    Raises:
        ServedModelError: they are not what this AV writes.
    """
    if not tokens:
        return
    backbone = local.backbone
    ids = torch.tensor([[*prompt.ids, *tokens]], device=backbone.device)
    with torch.no_grad(), backbone.using(local.adapter):
        logits = local.injected(
            lambda: backbone.model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits,
            list(prompt.positions),
            vectors[None],
        )
    logits = logits[0, :-1].float().cpu()
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    off = float((logits.amax(dim=-1) - chosen).mean())
    if not off <= FARTHEST:
        raise ServedModelError(
            f"{server} writes what {local.ref} would not: its tokens are {off:.2f} nats less likely than the "
            f"likeliest, on average over {len(tokens)}; rounding explains {FARTHEST:g} at most. It serves another "
            "model, an older export, or one that sees another vector. Export the pair anew, start the server on that."
        )


def probes(vectors: torch.Tensor) -> list[torch.Tensor]:
    """Vectors whose explanations cannot all be the same: what was given, turned round, and noise of its length."""
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    length = vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return [vectors, -vectors, noise * length]


def refuse_blind(server: Server, written: Sequence[Sequence[int]]) -> None:
    """Refuse a server that writes one text whatever it is sent.

    Raises:
        ServedModelError: `written`, the tokens for `probes`, are all the same.
    """
    if len({tuple(one) for one in written}) == 1:
        raise ServedModelError(
            f"{server} writes the same tokens for a vector, for its opposite and for noise: its model sees nothing of "
            "them, or it is no AV. Start it on the exported AV."
        )


def check_length(server: Server, prompt: int, limit: int) -> None:
    """Refuse what has no room in the server's context.

    Raises:
        EngineError: that is so.
    """
    if server.longest is not None and prompt + limit > server.longest:
        raise EngineError(
            f"{server} takes {server.longest} tokens in all; a prompt of {prompt} and {limit} more have no room. "
            f"Start it with a longer context ({prompt + limit} at least), or ask for fewer (max_new_tokens)."
        )
