"""Decoder blocks as plain functions of tensors, without the Python that a model's own modules run for each.

Only kinds of block whose forward is known here, in float32 on a CPU, with nothing watching them: `read_blocks` says so
by giving none. Whoever uses them first compares them with the model's own (`steps`, `whole`): what a model does beside
what is known here shows there, and then it runs as transformers has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ..running.norm import find_final_norm
from ..weights.loading import text_config
from .parts import Stacked, hooked, read_part

if TYPE_CHECKING:
    from ..backbone import Backbone

CLOSE = 1e-3  # of a state: float32 rounds 1e-6, another computation is another by far
Norm = Callable[[torch.Tensor], torch.Tensor]
Turns = tuple[torch.Tensor, torch.Tensor]
"""cos and sin of the rotary embedding, [rows, 1, tokens, head_dim] each."""

PRE_NORM = {"before_attention": "input_layernorm", "before_mlp": "post_attention_layernorm"}
KINDS = {  # decoder layers by class: which of their norms stands where; another layout would be another forward
    "LlamaDecoderLayer": PRE_NORM,
    "MistralDecoderLayer": PRE_NORM,
    "Qwen2DecoderLayer": PRE_NORM,
    "Qwen3DecoderLayer": PRE_NORM,
    "Gemma3DecoderLayer": {
        "before_attention": "input_layernorm",
        "after_attention": "post_attention_layernorm",
        "before_mlp": "pre_feedforward_layernorm",
        "after_mlp": "post_feedforward_layernorm",
    },
}


@dataclass(frozen=True, eq=False)
class Block:
    """One decoder block.

    Attributes:
        qkv, out, gate_up, down: its products.
        norms: by place; `after_…` where the kind has them.
        q_norm, k_norm: of each head, where the kind has them.
        act: between gate and up.
        heads, kv_heads, head_dim, scaling: of its attention.
        layer_type: which rotary embedding it takes, where the model has several.
    """

    qkv: Stacked
    out: Stacked
    gate_up: Stacked
    down: Stacked
    norms: dict[str, Norm]
    q_norm: Norm | None
    k_norm: Norm | None
    act: Callable[[torch.Tensor], torch.Tensor]
    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    layer_type: str | None

    def queries(self, x: torch.Tensor, turns: Turns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [rows, tokens, d] → queries [rows, heads, tokens, head_dim], keys and values [rows, kv_heads, …]."""
        q, k, v = (self._of_heads(one, x) for one in self.qkv(self.norms["before_attention"](x).flatten(0, 1)))
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        return turned(q.transpose(1, 2), turns), turned(k.transpose(1, 2), turns), v.transpose(1, 2)

    def _of_heads(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        # Of few rows it is a column; attention over heads whose numbers are apart falls back to a slow way.
        return flat.contiguous().view(*x.shape[:2], -1, self.head_dim)

    def after_attention(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The block's output, [rows, tokens, d], from its input and [rows, tokens, heads · head_dim]."""
        (out,) = self.out(attended.flatten(0, 1))
        x = self._add(x, out, "after_attention")
        gate, up = self.gate_up(self.norms["before_mlp"](x).flatten(0, 1))
        (out,) = self.down(self.act(gate).mul_(up))
        return self._add(x, out, "after_mlp")

    def _add(self, x: torch.Tensor, out: torch.Tensor, place: str) -> torch.Tensor:
        out = out.reshape(x.shape)
        norm = self.norms.get(place)
        return x + (out if norm is None else norm(out))


@dataclass(frozen=True, eq=False)
class Blocks:
    """A model's decoder blocks, and what goes before and after them.

    Attributes:
        blocks: in order; only as many as were asked for.
        embed: token ids → [rows, tokens, d].
        rotary: positions int64 [rows, tokens] → by layer type, cos and sin.
        norm: the final one.
        window: how many tokens the narrowest of its attentions sees; None: all see all. Longer runs are not its.
    """

    blocks: Sequence[Block]
    embed: Callable[[torch.Tensor], torch.Tensor]
    rotary: Callable[[torch.Tensor], dict[str | None, Turns]]
    norm: Callable[[torch.Tensor], torch.Tensor]
    window: int | None


def read_blocks(backbone: Backbone, count: int | None = None) -> Blocks | None:
    """The first `count` blocks (None: all) as they compute now, adapters included; None: they are not of a known kind.

    The caller holds the backbone.
    """
    if backbone.device.type != "cpu" or backbone.dtype != torch.float32 or backbone.quantization is not None:
        return None
    decoder = backbone.model.get_submodule(backbone.blocks_name.rpartition(".")[0])
    rotary, config = getattr(decoder, "rotary_emb", None), text_config(decoder.config)
    norm = find_final_norm(backbone.model, backbone.blocks_name)
    outside = (backbone.model, decoder, rotary, norm, backbone.embedding)
    if not isinstance(rotary, nn.Module) or norm is None or any(hooked(module) for module in outside if module):
        return None
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return None
    if getattr(config, "use_bidirectional_attention", None) or not _plain_rotary(config):
        return None
    blocks, windows = [], []
    for module in backbone.blocks[:count]:
        if (block := _read_block(module)) is None:
            return None
        blocks.append(block)
        windows.append(getattr(module.self_attn, "sliding_window", getattr(config, "sliding_window", None)))
    kinds = {block.layer_type for block in blocks}

    def turns(positions: torch.Tensor) -> dict[str | None, Turns]:
        like = backbone.blocks[0].input_layernorm.weight
        asked = {kind: rotary(like, positions) if kind is None else rotary(like, positions, kind) for kind in kinds}
        return {kind: (cos[:, None], sin[:, None]) for kind, (cos, sin) in asked.items()}

    narrow = [window for window in windows if window is not None]
    return Blocks(blocks, backbone.embedding, turns, norm, min(narrow, default=None))


def _plain_rotary(config: Any) -> bool:
    """Whether a position's turn is the same however long the text is: `dynamic` and `longrope` look at the length."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
    return all(one.get("rope_type", "default") in ("default", "linear", "llama3", "yarn") for one in each)


def _read_block(module: nn.Module) -> Block | None:
    kind = type(module)
    if kind.__name__ not in KINDS or not kind.__module__.startswith("transformers.models."):
        return None
    attention, mlp = module.self_attn, module.mlp
    if any(hooked(one) for one in (module, attention, mlp)) or getattr(attention, "attn_logit_softcapping", None):
        return None
    own = kind.__name__.removesuffix("DecoderLayer")
    if type(attention).__name__ != f"{own}Attention" or type(mlp).__name__ != f"{own}MLP":
        return None  # somebody has put another in its place
    if attention.training and attention.attention_dropout:
        return None
    stacks = []
    for owner, names in (
        (attention, ("q_proj", "k_proj", "v_proj")),
        (attention, ("o_proj",)),
        (mlp, ("gate_proj", "up_proj")),
        (mlp, ("down_proj",)),
    ):
        parts = [read_part(getattr(owner, name)) for name in names]
        if any(part is None for part in parts):
            return None
        stacks.append(Stacked([part for part in parts if part is not None]))
    norms = {place: read_norm(getattr(module, name)) for place, name in KINDS[kind.__name__].items()}
    of_heads = {name: read_norm(getattr(attention, name)) for name in ("q_norm", "k_norm") if hasattr(attention, name)}
    if None in (*norms.values(), *of_heads.values()):
        return None
    qkv, head_dim = stacks[0], attention.head_dim
    q_size, k_size = (last - first for first, last in qkv.bounds[:2])
    several = kind.__name__ == "Gemma3DecoderLayer"
    return Block(
        *stacks,
        norms={place: norm for place, norm in norms.items() if norm is not None},
        q_norm=of_heads.get("q_norm"),
        k_norm=of_heads.get("k_norm"),
        act=mlp.act_fn,
        heads=q_size // head_dim,
        kv_heads=k_size // head_dim,
        head_dim=head_dim,
        scaling=attention.scaling,
        layer_type=attention.layer_type if several else None,
    )


def read_norm(module: nn.Module) -> Norm | None:
    """An RMS norm as one call: x · weight / √(mean x² + ε), of Gemma x · (1 + weight) / √(…); None: it is another."""
    name = type(module).__name__
    if (
        not name.endswith("RMSNorm")
        or hooked(module)
        or type(module).__module__.split(".")[:2] != ["transformers", "models"]
    ):
        return None
    weight = module.weight.detach()
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if eps is None or weight.dtype != torch.float32:
        return None
    if name == "Gemma3RMSNorm":
        weight = 1.0 + weight

    def norm(x: torch.Tensor) -> torch.Tensor:
        # Three passes over x; functional.rms_norm makes six of it on a CPU.
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        return (x * size.add_(eps).rsqrt_()).mul_(weight)

    return norm


def turned(x: torch.Tensor, turns: Turns) -> torch.Tensor:
    """x [rows, heads, tokens, head_dim], its halves turned by the angles of its position."""
    cos, sin = turns
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def attend(block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool):
    """[rows, tokens, heads · head_dim] from queries [rows, heads, tokens, head_dim], keys and values [rows, kv_heads,
    length, head_dim].

    A single token's queries that share a key head stand as if they were several tokens: nothing is copied.
    """
    rows, heads, tokens, width = q.shape
    if tokens == 1:
        packed = q.reshape(rows, block.kv_heads, heads // block.kv_heads, width)
        out = functional.scaled_dot_product_attention(packed, k, v, attn_mask=mask, scale=block.scaling)
        return out.reshape(rows, 1, heads * width)
    if heads != block.kv_heads:
        k, v = (one.repeat_interleave(heads // block.kv_heads, dim=1) for one in (k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=block.scaling)
    return out.transpose(1, 2).reshape(rows, tokens, heads * width)
