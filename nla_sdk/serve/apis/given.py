"""An Input of our own API → rows that the pair's methods take, some at a time, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...calls.asking import questions_for
from ...calls.rows import layer_of_each
from ...errors import InputError, NLAError
from ...io.text import check_texts
from ..requests.texts import read, reading, require_source, wanted_positions
from ..served import Served
from ..shapes.own import CheckRequest, Input

if TYPE_CHECKING:
    from ...pair import NLAPair


@dataclass(frozen=True)
class Given:
    """Rows.

    Attributes:
        layer: that they are of; of several the pair's.
        facts: what is known of each: position, token, norm, text.
        take: some of them, as the pair's methods take activations.
        options: keywords that those methods are told with them.
        layers: of each row, as it is said to those methods; None: the pair's.
        length: tokens of the text.
        warning: what looks wrong with vectors; None: nothing, or they are read of texts.
        vectors: float32 [rows, d_model], where there is one a row.
    """

    layer: int
    facts: list[dict[str, Any]]
    take: Callable[[Sequence[int]], Any]
    options: dict[str, Any]
    layers: Sequence[int | None]
    length: int | None = None
    warning: str | None = None
    vectors: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.facts)

    def options_of(self, rows: Sequence[int]) -> dict[str, Any]:
        """The keywords for some of the rows: a layer of each is that of each of these."""
        layer = self.options.get("layer")
        return self.options if not isinstance(layer, list) else {**self.options, "layer": [layer[row] for row in rows]}


def given(of: Served, shape: Input, *, look: bool = True) -> Given:
    """Rows as they are asked for.

    Args:
        look: whether vectors are held against what the pair reads, for a warning.
    Raises:
        as `NLAPair.extract`; InputError: more rows than one request may have, or lists of several lengths.
    """
    pair, tag = of.pair, {} if shape.model_tag is None else {"model_tag": shape.model_tag}
    if shape.vectors is not None:
        return _of_vectors(pair, shape, tag, look)
    require_source(of.settings)
    if shape.texts is not None:
        check_texts(shape.texts, "The text")
        acts, take = read(pair, list(shape.texts), -1, shape.layer)
        length = None
    else:
        text = reading(pair, of.settings, shape)
        wanted = wanted_positions(shape.positions, len(text), of.limits.positions)
        acts, take = read(pair, [text.given], wanted, one_layer(shape))
        length = len(text)
    columns = zip(acts.positions, acts.tokens, acts.norms.tolist(), acts.texts, strict=True)
    facts = [
        {"position": position, "token": token, "l2_norm": norm, "text_index": whose}
        for position, token, norm, whose in columns
    ]
    layers = layers_said(pair, one_layer(shape), len(facts))
    return Given(layer_told(pair, layers), facts, take, tag, layers, length, None, acts.vectors)


def _of_vectors(pair: NLAPair, shape: Input, tag: dict[str, Any], look: bool) -> Given:
    assert shape.vectors is not None
    vectors = as_array(shape.vectors)
    how = None if pair.verbalizer is None else pair.verbalizer.contract.injection
    if vectors.ndim == 2 and how is not None and how.markers not in (1, "any"):
        vectors = vectors[None]  # one prompt's
    options = said_of_vectors(shape)
    warning = None
    if look and not shape.force and shape.kind in (None, "activation") and not isinstance(shape.layer, list):
        flat = vectors.reshape(-1, vectors.shape[-1])
        try:
            report = pair.check_activations(flat, wait=False, layer=shape.layer)
            warning = report.cause if report.verdict == "suspect" else None
        except NLAError:  # rows say themselves what is wrong with them
            warning = None
    one_each = vectors if vectors.ndim == 2 else vectors[:, 0] if vectors.shape[1] == 1 else None
    facts: list[dict[str, Any]] = [{} for _ in vectors]
    layers = layers_said(pair, one_layer(shape), len(vectors))
    return Given(
        layer_told(pair, layers),
        facts,
        lambda rows: vectors[list(rows)],
        options | tag,
        layers,
        None,
        warning,
        one_each,
    )


def layers_said(pair: NLAPair, layer: int | Sequence[int] | None, count: int) -> list[int | None]:
    """The layer of each row, None where it is the pair's.

    Raises:
        InputError: not as many are named as there are rows.
    """
    return [None if one == pair.layer else one for one in layer_of_each(layer, count, "rows")]


def layer_told(pair: NLAPair, layers: Sequence[int | None]) -> int:
    """The layer that rows are said to be of: of several the pair's."""
    only = next(iter(layers)) if len(set(layers)) == 1 else None
    return pair.layer if only is None else only


def sets_given(of: Served, shape: Input, questions: Sequence[str]) -> Given:
    """Sets of vectors, each to be asked a question: one question is put to every set, one set gets every question.

    Raises:
        as `given`; InputError: their numbers differ.
    """
    pair, options = of.pair, dict[str, Any]()
    if shape.model_tag is not None:
        raise InputError(f"model_tag={shape.model_tag!r}: a question is asked without one; leave it out.")
    sets: list[Any]
    if shape.vectors is not None:
        vectors = as_array(shape.vectors)
        sets = [vectors] if vectors.ndim == 2 else list(vectors)
        options = said_of_vectors(shape)
    elif shape.texts is not None:
        rows = given(of, shape)
        sets = [rows.take([row]) for row in range(len(rows))]
        sets = [one[0] if isinstance(one, list) else one for one in sets]  # each is of a layer of its own
    else:
        require_source(of.settings)
        text = reading(pair, of.settings, shape)
        wanted = wanted_positions(shape.positions, len(text), of.limits.positions)
        acts, take = read(pair, [text.given], wanted, one_layer(shape))
        sets = [take(range(len(acts)))]
    each = questions_for(list(questions), len(sets))
    count = len(each)
    sets = sets * (count // len(sets))
    facts = [{"question": question} for question in each]
    layers = layers_said(pair, one_layer(shape), count)
    return Given(layer_told(pair, layers), facts, lambda rows: [sets[row] for row in rows], options, layers)


def said_of_vectors(shape: Input) -> dict[str, Any]:
    """What a request says of its vectors, as the pair's methods take it."""
    said = {name: getattr(shape, name) for name in ("kind", "direction", "layer") if getattr(shape, name) is not None}
    return said | ({"force": True} if shape.force else {})


def scoring(rows: Given) -> dict[str, Any]:
    """Keywords with which rows are scored.

    Raises:
        InputError: they are of several layers.
    """
    options = {name: value for name, value in rows.options.items() if name in ("kind", "force")}
    if len(layers := set(rows.layers)) > 1:
        raise InputError("The rows are of several layers; score those of one layer at a time.")
    return options if layers == {None} else {**options, "layer": layers.pop()}


def checking(rows: Given) -> dict[str, Any]:
    """Keywords with which explanations of rows are checked.

    Raises:
        InputError: they are directions, or of several layers.
    """
    if (kind := rows.options.get("kind", "activation")) != "activation":
        raise InputError(f"The vectors are of kind {kind!r}; claims are checked against activations.")
    return {name: value for name, value in scoring(rows).items() if name != "kind"}


def known(of: Served, shape: CheckRequest, rows: Given) -> dict[str, Any]:
    """The texts that rows were read in and where, as `NLAPair.check` takes them; nothing where nobody knows.

    Raises:
        InputError: not as many are told as there are rows.
    """
    if shape.vectors is None:
        if shape.texts is not None:
            return {"text": list(shape.texts), "position": -1}
        given = reading(of.pair, of.settings, shape).given
        return {"text": [given] * len(rows), "position": [facts["position"] for facts in rows.facts]}
    if shape.known is None:
        return {}
    require_source(of.settings)
    if len(shape.known) not in (1, len(rows)):
        raise InputError(f"known names {len(shape.known)} texts for {len(rows)} rows; expected one of each, or one.")
    each = [one for one in shape.known for _ in range(len(rows) // len(shape.known))]
    texts = [reading(of.pair, of.settings, one) for one in each]
    at = [wanted_positions(one.position, len(text), 1)[0] for one, text in zip(each, texts, strict=True)]
    return {"text": [text.given for text in texts], "position": at}


def one_layer(shape: Input) -> Any:
    """A list of one layer as that layer."""
    return shape.layer[0] if isinstance(shape.layer, list) and len(shape.layer) == 1 else shape.layer


def as_array(vectors: Sequence[Any]) -> torch.Tensor:
    """Lists of numbers → float32 [n, d] or [n, k, d].

    Raises:
        InputError: they are not of one length.
    """
    try:
        return torch.tensor(vectors, dtype=torch.float64).float()
    except (ValueError, TypeError):
        raise InputError("The vectors are not of one length; expected [n][d_model] numbers.") from None
