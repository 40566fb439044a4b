"""Whether a batch of vectors looks like the activations a pair reads, and if not, what it probably is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from ...errors import SuspectActivationsWarning
from .states import ActivationStatistics, margins

ROWS_SHOWN = 5
PADDINGS = ("left padding", "right padding")
UNIT = 2.0  # norms up to this, where activations have far more, are of directions or normalised vectors


@dataclass(frozen=True)
class ActivationReport:
    """What `check_activations` found.

    Attributes:
        verdict: "ok", "suspect", or "unknown" (there is nothing to compare with).
        cause: what the batch probably is, or why nothing is known; "" where it is ok.
        looks_like: the state it comes nearest to: "block 12", "final norm", "no BOS", …; None where unknown.
        margin: by how much the likeliest other state beats the pair's own, in nats a row (negative: it doesn't).
        threshold: the margin from which a batch of so many rows is suspect.
        norm, expected_norm: median ‖v‖ of the batch, and of right activations.
        cosine: of the batch's mean with the mean of right activations.
        spread: 1 − ‖mean of unit vectors‖²: 0 for rows of one direction.
        rows: suspect rows among others that are right, with what each looks like.
    """

    verdict: str
    cause: str = ""
    looks_like: str | None = None
    margin: float | None = None
    threshold: float | None = None
    norm: float | None = None
    expected_norm: float | None = None
    cosine: float | None = None
    spread: float | None = None
    rows: tuple[tuple[int, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the batch; also where nothing is known."""
        return self.verdict != "suspect"

    def warn(self, what: str = "The activations", *, first: int = 0, stacklevel: int = 2) -> None:
        """Warn if the batch is suspect.

        Args:
            what: they are called in the message.
            first: the number of the batch's first row in its file.
        """
        if self.ok:
            return
        rows = ""
        if self.rows:
            named = [f"row {first + row} ({_said(state)})" for row, state in self.rows[:ROWS_SHOWN]]
            more = f" and {len(self.rows) - ROWS_SHOWN} more" if len(self.rows) > ROWS_SHOWN else ""
            rows = f": {', '.join(named)}{more}"
        warnings.warn(
            f"{what} do not look like those the pair reads: {self.cause}{rows}. Explanations of them mean little; "
            "force=True (nla: --force) silences this.",
            SuspectActivationsWarning,
            stacklevel=stacklevel + 1,
        )


def check(statistics: ActivationStatistics, vectors: torch.Tensor, *, scaled: bool = True) -> ActivationReport:
    """Compare norm, mean direction and spread of a batch with those of every state of the base.

    Args:
        vectors: float32 [n, d_model], raw, finite, none of them zero.
        scaled: whether another norm changes what the pair makes of a vector (centred pairs, raw injection); where it
            does not, a right direction of another norm is no fault.
    """
    vectors = vectors.detach().cpu().float()
    own, names = statistics.own, statistics.states
    norms = vectors.double().norm(dim=-1)
    low, middle, high = statistics.log_norm.double().exp().tolist()
    unit = vectors.double() / norms[:, None]
    average = unit.mean(0)
    facts = {
        "norm": float(norms.median()),
        "expected_norm": middle,
        "cosine": float(average @ statistics.mean_direction.double() / average.norm().clamp_min(1e-12)),
        "spread": float(1 - average.norm() ** 2),
        "threshold": statistics.threshold(len(vectors)),
    }
    # Of vectors of quite another norm only the direction is compared.
    wrong_norm = not low / 3 <= facts["norm"] <= high * 3
    compared = (unit * middle).float() if wrong_norm else vectors
    nearest, found = _classify(statistics, compared)
    margin, likely = float(found.amax()), int(found.argmax())
    facts |= {"margin": margin, "looks_like": names[own if margin <= facts["threshold"] else likely]}
    far = nearest > statistics.far
    unlike = bool(far.double().mean() > 0.5)
    if (unlike or margin > facts["threshold"]) and _less_the_mean(statistics, vectors, facts):
        cause = "they look as if a mean had been subtracted; raw activations are expected"
        return ActivationReport("suspect", cause, **facts)
    if unlike or (wrong_norm and facts["norm"] <= UNIT < middle and margin > facts["threshold"]):
        return ActivationReport("suspect", _unlike(facts), **facts)
    if margin > facts["threshold"]:
        return ActivationReport("suspect", _like(statistics, names[likely]), **facts)
    if wrong_norm and scaled:
        cause = f"their median norm is {facts['norm']:.4g} where {middle:.4g} is expected: scaled or normalised"
        return ActivationReport("suspect", cause, **facts)
    if odd := _odd_rows(statistics, compared, far):
        return ActivationReport("suspect", "some rows are something else", **facts, rows=odd)
    return ActivationReport("ok", **facts)


def _classify(statistics: ActivationStatistics, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances [n] to the nearest state, and the mean margin [S] of every state over the layer's own."""
    distances = statistics.distances(vectors)
    return distances.amin(1), margins(statistics.scores(vectors), statistics.own).mean(0)


def _odd_rows(
    statistics: ActivationStatistics, vectors: torch.Tensor, far: torch.Tensor
) -> tuple[tuple[int, str], ...]:
    """Rows that are certainly something else, and what."""
    found = margins(statistics.scores(vectors), statistics.own)
    best, state = found.max(1)
    return tuple(
        (row, "" if far[row] else statistics.states[int(state[row])])
        for row in range(len(vectors))
        if far[row] or best[row] > statistics.certain
    )


def _said(state: str) -> str:
    if state in PADDINGS:
        return "padding"
    return {"": "like no state of the model", "BOS": "the BOS token", "no BOS": "read without BOS"}.get(state, state)


def _like(statistics: ActivationStatistics, state: str) -> str:
    layer = statistics.layer
    pair = f"the pair reads the output of block {layer} (hidden_states[{layer + 1}] of transformers)"
    if state.startswith("block "):
        block = int(state.removeprefix("block "))
        off = " (off by one)" if abs(block - layer) == 1 else ""
        return f"they look like the output of block {block}, hidden_states[{block + 1}]{off}; {pair}"
    if state == "embedding":
        return f"they look like token embeddings, hidden_states[0]; {pair}"
    if state == "final norm":
        return f"they look like the last of transformers' hidden_states, after the final norm; {pair}"
    if state == "final norm of the layer":
        return "they look as if the model's final norm had been applied to them; raw activations are expected"
    if state == "no BOS":
        return "they look as if they had been read without a BOS token before the text"
    if state == "BOS":
        return "they look like those at the BOS token, which says nothing of a text"
    return "they look like those at padding tokens"


def _less_the_mean(statistics: ActivationStatistics, vectors: torch.Tensor, facts: dict) -> bool:
    """Whether the vectors are right once the mean is added to them; very small ones would be the mean itself then."""
    if abs(facts["cosine"]) > 0.5 or not 0.1 < facts["norm"] / facts["expected_norm"] < 0.9:
        return False
    whole = vectors + statistics.mean
    low, _, high = statistics.log_norm.exp().tolist()
    nearest, found = _classify(statistics, whole)
    near = bool((nearest > statistics.far).double().mean() <= 0.5) and float(found.amax()) <= facts["threshold"]
    return near and low / 1.2 <= float(whole.norm(dim=-1).median()) <= high * 1.2


def _unlike(facts: dict) -> str:
    """What vectors that are like no state of the model may be."""
    norms = f"median norm {facts['norm']:.4g} where {facts['expected_norm']:.4g} is expected"
    likeness = f"cosine {facts['cosine']:.2f} with the mean activation"
    if facts["norm"] <= UNIT < facts["expected_norm"]:
        return (
            f"they look like directions (of a dictionary, a probe, a difference), not activations ({norms}, {likeness})"
        )
    return f"they look like another model's activations, or like directions ({norms}, {likeness})"
