"""The whole evaluation file: what was measured of a pair, on what, and the verdict; or what somebody published of one.

`training.evaluate` writes it, `training.evaluate verify` recomputes it, cards are rendered from it and can say nothing
else. A **measured** file has its rows beside it and names the SHA-256 of everything it was measured from; a
**published** file holds figures that exist without rows, each of which may be absent. The verdict must follow from the
figures: there is no `Evaluation` in which it does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..publishing.publisher import Sending, publisher
from ..publishing.pushed import Pushed
from .ages import since, younger
from .claims import Claims, PublishedFigure, TokenClass
from .measures import Ablation, Collapse, Content, Control, Identity, Matching, RoundTripFigures, Signal
from .parts import Cost, Data, Figure, Part, Settings, Subject
from .verdict import Verdict, decide

VERSION = 3
VERSIONS = (1, 2, VERSION)  # that are read; a file keeps the one it was written with
EVALUATION, ROWS, VARIANTS = "evaluation.json", "rows.parquet", "variants.parquet"
CLAIMS_TABLE = "claims.parquet"


class Evaluation(Part):
    """The whole file."""

    schema_version: Literal[1, 2, 3] = VERSION
    origin: Literal["measured", "published"]
    published_at: str | None = Field(None, description="Of published figures: where they stand.")
    subject: Subject
    data: Data
    settings: Settings | None = None
    inputs: dict[str, str] = Field(
        {}, description="SHA-256 by name: contracts, adapters, heads, means, the parquet, paraphraser and embedder."
    )
    versions: dict[str, str] = Field({}, description="Code (commit) that computed the figures, and libraries.")
    measured_by: list[str] = Field(
        [], description="Code (commit) of every run that measured rows: more than one if it was killed and resumed."
    )
    round_trip: RoundTripFigures
    ablation: Ablation | None = None
    true_labels: Ablation | None = Field(None, description="The AR on the written labels, where the data have them.")
    identity: Identity | None = None
    true_labels_identity: Identity | None = None
    content: Content | None = None
    matching: list[Matching] | None = since(3, "Do explanations find their texts among others.")
    controls: list[Control] = []
    collapse: Collapse | None = None
    signal: Signal | None = None
    claims: Claims | None = since(2, "What the words are worth.")
    token_classes: list[TokenClass] | None = since(2, "Beside the mean direction of each class.")
    published: list[PublishedFigure] | None = since(2, "Others' figures of other pairs, to be read beside.")
    cost: Cost | None = None
    verdict: Verdict
    files: dict[str, str] = Field({}, description="SHA-256 of the tables beside the file.")
    created: str | None = Field(None, description="UTC, ISO 8601.")

    @property
    def gain(self) -> Figure | None:
        """Of the round trip over the empty explanation: measured over all rows, or what the ablation implies."""
        if self.round_trip.gain is not None:
            return self.round_trip.gain
        delta = self.ablation.deltas.get("empty") if self.ablation else None
        return delta.gain if delta else None

    def push_to_hub(
        self,
        repo: str,
        tables: str | os.PathLike,
        *,
        benchmark: str | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> list[Pushed]:
        """Put this evaluation beside the weights it was measured on, in place of the one that is there.

        The weights there are fetched, and the file is verified against them and its tables as
        `python -m training.evaluate verify` does. The file, its tables, report, figures and calibration of claims, the
        card with its model-index, and with a benchmark `.eval_results` are replaced; everything else stays.

        Args:
            repo: OWNER/NAME of a half, or the stem of a pair's two names (ada/cat of ada/cat-av and ada/cat-ar), for
                both.
            tables: the folder that holds the file and its tables, or the file.
            benchmark: a dataset on the Hub that holds the table it was measured on.
            token: that may write; None: HF_TOKEN, or that of `hf auth login`.
            commit_message: the title begins with it.
            create_pr: open pull requests, on anybody's repositories.
        Returns:
            The address of each repository, or pull request.
        Raises:
            RefusedError: it is of other weights, tables or data than those, or the card there is not nla-sdk's and
                would be replaced; nothing was sent.
            EvaluationError: the file in `tables` is another evaluation. MissingRepositoryError: there is no such half.
            InputError: pip install "nla-sdk[publish,eval]" was not done.
        Example:
            >>> load("results/mine/evaluation.json").push_to_hub("ada/cat", "results/mine")  # doctest: +SKIP
            ['https://huggingface.co/ada/cat-av', 'https://huggingface.co/ada/cat-ar']
        """
        with publisher() as found:
            how = Sending(token=token, commit_message=commit_message, create_pr=create_pr)
            return found.push_evaluation(self, Path(tables), repo, benchmark=benchmark, how=how)

    # Here and not in `consistency`, so that no evaluation, read or made, can state a verdict that its figures refute.
    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        trip = self.round_trip
        if trip.evaluated + trip.empty + (trip.untagged or 0) + trip.failed != trip.attempted:
            raise ValueError(
                f"round_trip: {trip.evaluated} evaluated + {trip.empty} empty + "
                + (f"{trip.untagged} untagged + " if trip.untagged else "")
                + f"{trip.failed} failed rows are not the "
                f"{trip.attempted} attempted"
            )
        if young := dict(younger(self, self.schema_version)):
            said = ", ".join(list(young)[:3]) + (f" and {len(young) - 3} more" if len(young) > 3 else "")
            since = " and ".join(map(str, sorted(set(young.values()))))
            raise ValueError(f"schema version {self.schema_version} has no {said}: that is of version {since}")
        if self.origin == "measured":
            wanted = ("sha256", "rows", "documents")
            named = all(getattr(self.data, name) is not None for name in wanted)
            if not named or self.settings is None or not self.inputs or ROWS not in self.files:
                raise ValueError(
                    "a measured file names its data, its settings, and the SHA-256 of its inputs and of its rows"
                )
            if self.inputs.get(self.data.name) != self.data.sha256:
                raise ValueError(f"data.sha256 is not the SHA-256 that inputs have for {self.data.name}")
        if self.origin == "published" and self.published_at is None:
            raise ValueError("published figures need `published_at`: where they were published")
        expected = decide(self)
        if self.verdict.value != expected.value:
            raise ValueError(
                f"the verdict is {self.verdict.value}, but its figures give {expected.value} ({expected.reason})"
            )
        if not self.verdict.states(expected.thresholds):
            raise ValueError("the verdict's thresholds are not those of this nla-sdk: a file does not choose its own")
        if self.verdict.reason != expected.reason:
            raise ValueError(f"the verdict's reason is not the one its figures give: {expected.reason}")
        return self
