"""One YAML file configures every stage: `python -m training.<room>.<stage> --config training/configs/demo.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from nla_sdk.halves.demo_base import DEMO_BASE_ID

from .data import Build, Extract, Readout, Split
from .fit import AR, AV, Expert, Grpo
from .label import Label, ProviderSettings
from .overrides import apply
from .section import Section, read_yaml

READOUT = "readout.jsonl"


class Config(Section):
    """All stages of one pair."""

    base: str
    layer: int = Field(ge=0)
    seed: int = 0
    marker: str = Field("㊗", min_length=1)
    centred: bool = Field(True, description="The AV is given v − mean.")
    out: Path
    extract: Extract
    split: Split = Split()
    readout: Readout | None = Field(None, description="Given: the pipeline makes <out>/readout.jsonl before labelling.")
    label: Label = Label()
    build: Build = Build()
    av: AV
    ar: AR
    expert: Expert = Expert()
    grpo: Grpo | None = None
    results: Path = Field(Path("results"), description="Finished tables are copied here and listed in MANIFEST.json.")

    @model_validator(mode="after")
    def _readout_has_a_file(self):
        """A provider of kind readout is the file that `training.label.readout` writes for this run."""
        sets = []
        for one in self.label.sets:
            providers = [
                ProviderSettings(kind="file", path=self.out / READOUT) if provider.kind == "readout" else provider
                for provider in one.providers
            ]
            if providers != one.providers:
                self.readout = self.readout or Readout()
            sets.append(one.model_copy(update={"providers": providers}))
        self.label = self.label.model_copy(update={"sets": sets})
        return self

    @model_validator(mode="after")
    def _vectors_of_several_layers(self):
        """Where the AV is given several vectors, all are read, `layer` is among them, and no one mean is theirs."""
        layers = self.av.injection.layers
        if layers and self.layer not in layers:
            raise ValueError(f"av.injection.layers {layers} lacks `layer` {self.layer}, whose vector the AR predicts")
        if layers and self.centred:
            raise ValueError("centred: the mean is of one layer, av.injection.layers names several; set it to false")
        if missing := [one for one in layers if one != self.layer and one not in self.extract.layers]:
            raise ValueError(f"extract.layers lacks {missing}, which av.injection.layers names")
        return self

    @property
    def activations(self) -> Path:
        """The table that `extract` makes of this config's layer."""
        return self.out / f"activations_L{self.layer}.parquet"

    def half(self, role: str) -> Path:
        """The finished half that the trainer of `role` leaves: the best by its held-out metric."""
        return self.out / role / "final"

    @property
    def base_id(self) -> str:
        """The base's public name: what contracts and adapters say."""
        return DEMO_BASE_ID if self.base == "demo" else self.base

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
        """Read a config file.

        Args:
            overrides: values to take instead of the file's, by dotted name: {"av.lr": 3e-5}.
        Raises:
            InputError: it is missing or malformed, or an override is; the message names the key.
        Example:
            >>> Config.load(Path("training/configs/demo.yaml"), {"av.lr": 3e-5}).av.lr
            3e-05
        """
        values = read_yaml(path, "config")
        if overrides and isinstance(values, dict):
            values = apply(values, cls, overrides)
        return cls.checked(values, f"The config {path}", overrides or {})
