"""What a row of a training table is: the reference pipeline's columns, and what stands in them.

Files travel both ways under these names. `prompt` holds the literal `<INJECT>` where the marker goes, `response` the
explanation between its tags, `activation_vector` the RAW activation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nla_sdk.contract import MARKER_FIELD
from nla_sdk.io.tables import vector_column
from nla_sdk.model.output import CLOSE_TAG, OPEN_TAG

INJECT = "<INJECT>"  # the reference tables hold this literal where the marker goes
USABLE = ("accepted", "repaired")  # the label statuses that are trained on
ABOUT_ROW = ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family", "row_id")
ABOUT_LABEL = ("labeler_model", "auditor_model", "label_status", "prompt_sha256", "tokens", "cost_usd")
_TYPES = {
    "n_raw_tokens": pa.int32(),
    "activation_layer": pa.int32(),
    "tokens": pa.int32(),
    "cost_usd": pa.float64(),
}
_TAGGED = re.compile(rf"{re.escape(OPEN_TAG)}(.*?){re.escape(CLOSE_TAG)}", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Some activations in a row, with their labels.

    Attributes:
        rows: of each activation, the `ABOUT_ROW` columns.
        vectors: float32 [n, d], raw.
        labels: of each activation, its labels: `api_explanation` and the `ABOUT_LABEL` columns.
    """

    rows: list[dict[str, Any]]
    vectors: np.ndarray
    labels: list[list[dict[str, Any]]]


def schema(d_model: int, *, labelled: bool = True) -> pa.Schema:
    """The columns of a table with vectors of `d_model` numbers; `labelled` is off for the RL table."""
    names = [*ABOUT_ROW[:-1], "activation_vector"]
    names += ["api_explanation", "prompt", "response", *ABOUT_LABEL] if labelled else ["prompt"]
    types = _TYPES | {"activation_vector": pa.list_(pa.float32(), d_model)}
    return pa.schema([(name, types.get(name, pa.string())) for name in [*names, "row_id"]])


def table_of(block: Block, picked: Sequence[tuple[int, Mapping[str, Any] | None]], prompt: str) -> pa.Table:
    """The table of the picked (row of the block, its label) pairs; labels of None make the rows of the RL table."""
    labelled = not picked or picked[0][1] is not None
    at = [row for row, _ in picked]
    columns: dict[str, Any] = {name: [block.rows[row].get(name) for row in at] for name in ABOUT_ROW}
    columns["activation_vector"] = vector_column(block.vectors[at])
    columns["prompt"] = [prompt] * len(at)
    if labelled:
        columns["api_explanation"] = [label["api_explanation"] for _, label in picked]
        columns["response"] = [response_of(label["api_explanation"]) for _, label in picked]
        columns |= {name: [label.get(name) for _, label in picked] for name in ABOUT_LABEL}
    wanted = schema(block.vectors.shape[1], labelled=labelled)
    return pa.table({field.name: columns[field.name] for field in wanted}, schema=wanted)


def prompt_column(template: str) -> str:
    """The `prompt` column of an AV template."""
    return template.replace(MARKER_FIELD, INJECT)


def response_of(explanation: str) -> str:
    """The `response` column of the reference tables.

    Example:
        >>> response_of("A cat.")
        '<explanation>\\nA cat.\\n</explanation>'
    """
    return f"{OPEN_TAG}\n{explanation}\n{CLOSE_TAG}"


def explanation_of(response: str | None) -> str | None:
    """The explanation inside a `response`, None if it has no tags.

    Example:
        >>> explanation_of(response_of("A cat."))
        'A cat.'
    """
    found = _TAGGED.search(response or "")
    return found[1].strip() if found else None


def target_text(response: str, template: str) -> str:
    """What the model is to write after the prompt, from the `response` column.

    A prompt that itself opens the tag is answered without the tag and its line breaks.
    """
    if not template.endswith(OPEN_TAG):
        return response
    return response.removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG).strip() + CLOSE_TAG
