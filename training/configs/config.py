"""One YAML file configures every stage: `python -m training.<room>.<stage> --config training/configs/demo.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from nla_sdk.errors import InputError
from nla_sdk.halves.demo_base import DEMO_BASE_ID

from .data import Build, Extract, Readout, Split
from .fit import AR, AV, Expert, Grpo
from .label import Label, ProviderSettings
from .overrides import apply
from .section import Section, read_yaml

READOUT = "readout.jsonl"
EXTENDS = "extends"


class Config(Section):
    """All stages of one pair."""

    base: str
    layer: int = Field(ge=0)
    seed: int = 0
    marker: str = Field("㊗", min_length=1)
    centred: bool = Field(True, description="The AV is given v − mean.")
    out: Path
    after: Path | None = Field(
        None,
        description="`out:` of a finished run that this one goes on from: the AV and the AR start from its halves, "
        "which write the rows of `expert`.",
    )
    tables: Path | None = Field(
        None, description="`out:` of the run whose tables are read; default: `after`, or this run's own."
    )
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
    def _goes_on(self):
        """The trainers of a run `after` another start from its halves, unless they are told to start from others."""
        if self.after is None:
            return self
        if self.after.absolute() == self.out.absolute():
            raise ValueError(f"`after` is this run's own `out`, {self.out}: give it a folder of its own")
        for role in ("av", "ar"):
            settings = getattr(self, role)
            if settings.continue_from is None:
                started = settings.model_copy(update={"continue_from": self.half_before(role)})
                setattr(self, role, started)
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

    @property
    def tables_from(self) -> Path:
        """The folder whose tables and statistics the trainers read."""
        return self.tables or self.after or self.out

    def half(self, role: str) -> Path:
        """The finished half that the trainer of `role` leaves: the best by its held-out metric."""
        return self.out / role / "final"

    def half_before(self, role: str) -> Path:
        """The half that writes what a round of training begins with: of the run before, where there is one."""
        return (self.after or self.out) / role / "final"

    @property
    def base_id(self) -> str:
        """The base's public name: what contracts and adapters say."""
        return DEMO_BASE_ID if self.base == "demo" else self.base

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
        """Read a config file.

        With `extends: other.yaml` (relative to the file) it says only what is other than there; a section is taken key
        by key, a list whole.

        Args:
            overrides: values to take instead of the file's, by dotted name: {"av.lr": 3e-5}.
        Raises:
            InputError: it is missing or malformed, or an override is; the message names the key.
        Example:
            >>> Config.load(Path("training/configs/demo.yaml"), {"av.lr": 3e-5}).av.lr
            3e-05
        """
        values = _whole(path)
        if overrides and isinstance(values, dict):
            values = apply(values, cls, overrides)
        return cls.checked(values, f"The config {path}", overrides or {})


def _whole(path: Path, before: Sequence[Path] = ()) -> Any:
    """What a config file holds, over what the one that it extends does."""
    values = read_yaml(path, "config")
    if not isinstance(values, dict) or EXTENDS not in values:
        return values
    named = values.pop(EXTENDS)
    if not isinstance(named, str) or not named:
        raise InputError(f"The config {path}: {EXTENDS}: found {named!r:.60}; expected the name of a config file.")
    if path.resolve() in before:
        raise InputError(f"The config {path} extends itself, through {before[-1].name}.")
    found = _whole(path.parent / named, (*before, path.resolve()))
    return _over(found, values) if isinstance(found, dict) else found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged
