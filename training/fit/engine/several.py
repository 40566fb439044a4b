"""The vectors of several layers that go into one prompt, from the tables that `extract` made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nla_sdk.errors import InputError
from nla_sdk.io.tables import read_table, usable_vectors

from ...configs.config import Config


def refuse_several(config: Config, stage: str) -> None:
    """Refuse an AV that is given several vectors where a row has one.

    Raises:
        InputError: `av.injection.layers` names some.
    """
    if layers := config.av.injection.layers:
        raise InputError(
            f"{stage} gives the AV one vector a row, and av.injection.layers has {len(layers)} a prompt: only "
            "training.fit.av trains such an AV; in Python pair.explain takes [rows, markers, d_model]."
        )


class Layers:
    """The activations of `av.injection.layers`, to be had by a row's id. Without such layers it changes nothing.

    Raises:
        InputError: a layer's table is missing.
    """

    def __init__(self, config: Config) -> None:
        self.layers, self.own = config.av.injection.layers, config.layer
        self._tables: dict[int, tuple[Mapping[str, int], torch.Tensor]] = {}
        for layer in self.layers:
            if layer == self.own:
                continue
            path = config.activations.with_name(f"activations_L{layer}.parquet")
            if not path.is_file():
                raise InputError(
                    f"{path} does not exist, and av.injection.layers names layer {layer}: put it into extract.layers "
                    "and run `python -m training.data.extract` again."
                )
            table = read_table(path, ["row_id", "activation_vector"], ["row_id"])
            places = {row_id: at for at, row_id in enumerate(table.column("row_id").to_pylist())}
            self._tables[layer] = places, torch.from_numpy(usable_vectors(table, name=str(path)).copy())

    def stacked(self, own: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """What goes into each row's prompt.

        Args:
            own: float32 [n, d], the rows' vectors of the pair's own layer.
            rows: of the training table, with their `row_id`.
        Returns:
            `own` where one vector goes in; else float32 [n, layers, d], in the order of `av.injection.layers`.
        Raises:
            InputError: a row's activation is in no table of another layer, as of published rows.
        """
        if not self.layers:
            return own
        return torch.stack([own if layer == self.own else self._of(layer, rows) for layer in self.layers], dim=1)

    def _of(self, layer: int, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        places, vectors = self._tables[layer]
        if missing := next((row["row_id"] for row in rows if row["row_id"] not in places), None):
            raise InputError(
                f"The activation of row {missing} at layer {layer} is in no table here. Rows of published tables have "
                "the vector of one layer only: leave them out (build.published)."
            )
        return vectors[[places[row["row_id"]] for row in rows]]
