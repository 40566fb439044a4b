"""The norm after a model's last block, found where its kind keeps it."""

from __future__ import annotations

from torch import nn

from ...errors import LoadError

NAMES = ("norm", "final_layernorm", "ln_f", "final_norm", "norm_f")


def final_norm(model: nn.Module, blocks_name: str) -> nn.Module:
    """The module that stands between the last block and the lm_head, as the model has it now: an adapter may have
    trained it.

    Args:
        blocks_name: path of the list of blocks (`Backbone.blocks_name`).
    Raises:
        LoadError: none goes by a name that is known here.
    """
    decoder = model.get_submodule(blocks_name.rpartition(".")[0])
    for name in NAMES:
        if isinstance(norm := getattr(decoder, name, None), nn.Module):
            return norm
    raise LoadError(
        f"{type(decoder).__name__} has no final norm by a known name ({', '.join(NAMES)}), and the contract says "
        "`ar.final_norm: kept`. It cannot be run as it was trained."
    )
