"""Rows that a server answers with → the results that a pair's methods return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ...calls.comparing import Comparison, Signed
from ...calls.inputs import OnToken
from ...calls.scoring import DirectionTrip
from ...calls.steered import Completion, Moved, Steered
from ...model.running.watching import Watch
from ...results import SCORE_COLUMNS, WORSE, Activations, Answer, Explanation, RoundTrip, Score

Row = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class ServedPair:
    """What a server says of its pair.

    Attributes:
        name: what the server was started with.
        av, ar, base: what the halves and the base are called; None of a half that it lacks.
        layer, layers: the block that is read, and all that may be; None: that one only.
        d_model, num_layers: the length of an activation, the blocks of the base.
        kind: "pair", "av", "ar" or "oracle".
        centred, norm_matters, matched, baseline_mse: as of `NLAPair`.
        verdict: {"value", "reason"} of its evaluation; None: it was never evaluated.
        warning: why its words are not to be believed as they stand; None: they read contents, as was measured.
        evaluation: what was measured, by name.
        calibration: what the probabilities of claims rest on (ECE, AUROC, how often each kind holds), if there are any.
        precision, version: that the source runs at; of the server's nla-sdk.
        facts: all that it says, these too.
    """

    name: str
    base: str
    layer: int
    d_model: int
    kind: str
    av: str | None = None
    ar: str | None = None
    layers: Any = None
    num_layers: int | None = None
    centred: bool = False
    norm_matters: bool = False
    matched: bool = True
    baseline_mse: float | None = None
    verdict: dict[str, Any] | None = None
    warning: str | None = None
    evaluation: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    precision: str | None = None
    version: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, said: Row) -> ServedPair:
        """From the server's JSON."""
        known = {one.name for one in fields(cls)} - {"facts"}
        return cls(**{name: value for name, value in said.items() if name in known}, facts=dict(said))

    def __repr__(self) -> str:
        verdict = "not evaluated" if self.verdict is None else self.verdict.get("value")
        note = f"\n  {self.warning}" if self.warning else ""
        return f"ServedPair({self.name!r}, {self.kind}, layer {self.layer} of {self.base}, verdict: {verdict}){note}"


def vector(numbers: Any) -> torch.Tensor:
    """float32 [d_model], to the last digit what the server has: JSON holds doubles."""
    return torch.tensor(numbers, dtype=torch.float64).to(torch.float32)


def score(row: Row) -> Score:
    """A score's columns."""
    return Score(**_scores(row))


def _scores(row: Row) -> dict[str, Any]:
    needed = {name: row[name] for name in ("cosine", "mse", "matched")}
    return {name: row.get(name) for name in SCORE_COLUMNS} | needed


def explanation(row: Row) -> Explanation:
    """An explanation's columns; of an answer with its question, of a turned direction with its sign."""
    facts: dict[str, Any] = {"status": _status(row["explanation_status"]), "raw": row["explanation_raw"]}
    facts["tokens"] = row["tokens_written"]
    if row.get("best_of") is not None:
        facts |= {"best_of": row["best_of"], "score": score(row)}
    if row.get("question") is not None:
        return Answer(row["api_explanation"], question=row["question"], layer=row.get("activation_layer"), **facts)
    if row.get("sign") is not None:
        return Signed(row["api_explanation"], sign=row["sign"], **facts)
    return Explanation(row["api_explanation"], **facts)


def _status(said: str) -> str:
    """Of the text alone: a table's also says where it does worse than no words."""
    return "ok" if said == WORSE else said.removesuffix(f"; {WORSE}")


def trip(row: Row) -> RoundTrip:
    """A round trip's columns, both vectors among them."""
    scores = _scores(row)
    chosen = {"score": Score(**scores), "best_of": row["best_of"]} if row.get("best_of") is not None else {}
    words = Explanation(
        row["api_explanation"],
        status=_status(row["explanation_status"]),
        raw=row["explanation_raw"],
        tokens=row["tokens_written"],
        **chosen,
    )
    whole: dict[str, Any] = {**scores, "explanation": words, "activation": vector(row["activation_vector"])}
    whole["reconstruction"] = vector(row["reconstruction"])
    return DirectionTrip(**whole, kind=row["kind"]) if row.get("kind") else RoundTrip(**whole)


def comparison(row: Row) -> Comparison:
    """A comparison's columns, its vector among them."""

    def words(name: str) -> Explanation | None:
        text = row[name]
        if text is None:
            return None
        facts = {"status": row[f"{name}_status"], "raw": row[f"{name}_raw"], "tokens": row[f"{name}_tokens_written"]}
        return Explanation(text, **facts)

    a, b, difference = words("a"), words("b"), words("difference")
    assert a is not None and b is not None and difference is not None
    of = vector(row["activation_vector"])
    return Comparison(a, b, difference, words("reverse"), row["norm"], row["cosine"], of)


def steered(row: Row, prompt: Any, towards: str) -> Steered:
    """What was written with a vector and without; the prompt and the vector's name are the caller's."""
    moved = tuple(Moved(**one) for one in row["moved"])
    said = {name: row[name] for name in ("strength", "layer", "plain", "steered")}
    return Steered(prompt=prompt, towards=towards, moved=moved, **said)


def completion(row: Row, prompt: Any) -> Completion:
    """What was written on from a prompt."""
    ids = tuple(int(one["token_id"]) for one in row["tokens"][row["prompt_length"] :])
    pieces = tuple(map(str, row["pieces"]))
    return Completion(prompt, str(row["completion"]), pieces, ids, bool(row["finished"]))


def completed(frames: Iterable[Row], prompt: Any, on_token: OnToken) -> Completion:
    """The same of a stream, told token by token."""
    pieces, ids, last = list[str](), list[int](), dict[str, Any]()
    for frame in frames:
        if frame["type"] == "token":
            pieces.append(str(frame["piece"]))
            ids.append(int(frame["token"]["token_id"]))
            on_token(pieces[-1], ids[-1])
        elif frame["type"] == "done":
            last = dict(frame)
    return Completion(prompt, str(last["completion"]), tuple(pieces), tuple(ids), bool(last["finished"]))


def activations(reads: Sequence[Row], pair: ServedPair) -> Activations:
    """What was read of each text, one after the other."""
    rows = [(at, row) for at, read in enumerate(reads) for row in read["rows"]]
    return Activations(
        vectors=torch.stack([vector(row["activation_vector"]) for _, row in rows]),
        tokens=[row["token"] for _, row in rows],
        positions=[int(row["position"]) for _, row in rows],
        texts=[at for at, _ in rows],
        layer=int(reads[0]["layer"]),
        model=pair.base,
        precision=pair.precision,
    )


def tell_compared(found: Sequence[Comparison], counts: Sequence[int], watch: Watch) -> None:
    """Tell a caller of a comparison's texts, numbered as `NLAPair.compare` numbers them: of a, of b, of differences."""
    texts = [str(found[at].a) for at in range(counts[0])] + [str(found[at].b) for at in range(counts[1])]
    texts += [str(text) for one in found for text in (one.difference, one.reverse) if text is not None]
    for number, text in enumerate(texts):
        if watch.on_text is not None:
            watch.on_text(number, text)
    if watch.progress is not None:
        watch.progress(len(texts))
