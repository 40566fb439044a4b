"""The norm after a model's last block, found where its kind keeps it."""

from __future__ import annotations

from torch import nn

from ..weights.leftovers import FINAL_NORMS


def find_final_norm(model: nn.Module, blocks_name: str) -> nn.Module | None:
    """The module that stands between the last block and the lm_head, as the model has it now: an adapter may have
    trained it. None: none goes by a name that is known here.

    Args:
        blocks_name: path of the list of blocks (`Backbone.blocks_name`).
    """
    decoder = model.get_submodule(blocks_name.rpartition(".")[0])
    return next((norm for name in FINAL_NORMS if isinstance(norm := getattr(decoder, name, None), nn.Module)), None)
