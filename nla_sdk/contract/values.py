"""The types of a contract's values: generous in how they are written, strict in what they mean."""

from __future__ import annotations

import math
import numbers
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..io.sidecars import precision_of

MARKER_FIELD = "{injection_char}"
EXPLANATION_FIELD = "{explanation}"

_ROLES = {"av": "av", "actor": "av", "ar": "ar", "critic": "ar"}


def number(value: Any) -> float:
    """Any finite number, also as a string (`39.19`, `1e4`, `20_000`): YAML 1.1 reads `1e4` as text.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, (str, numbers.Real)) and not isinstance(value, bool):
        try:
            finite = float(value)
        except (ValueError, OverflowError):
            finite = math.nan
        if math.isfinite(finite):
            return finite
    raise ValueError("expected a number")


def whole_number(value: Any) -> int:
    """Any whole number below 2³¹, also as a string or as a float without a fraction.

    Raises:
        ValueError: it is none, or larger: no model is so wide, and tokenizers take no such id.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        whole = int(value)
    else:
        try:
            real = number(value)
        except ValueError:
            real = math.nan
        if not real.is_integer():
            raise ValueError("expected a whole number")
        whole = int(real)
    if abs(whole) >= 2**31:
        raise ValueError("expected a whole number below 2,147,483,648")
    return whole


def agree(a: Any, b: Any, d_model: Any = None) -> bool:
    """Whether two values mean the same: numbers by value, as files round √d_model to a few digits."""
    numeric = []
    for value in (a, b):
        try:
            numeric.append(math.sqrt(whole_number(d_model)) if value == "sqrt_d_model" else number(value))
        except ValueError:
            return a == b
    return math.isclose(*numeric, rel_tol=1e-4)


def lower(value: Any) -> Any:
    """Text in lower case without blanks around it; anything else as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def over(above: Any, below: Any) -> Any:
    """Two mappings as one, leaf by leaf: where both have a key, what stands above wins."""
    if not (isinstance(above, Mapping) and isinstance(below, Mapping)):
        return above
    return {**below, **{key: over(value, below[key]) if key in below else value for key, value in above.items()}}


def role(value: Any) -> Any:
    """`actor` → `av`, `critic` → `ar`; what is no role as it is."""
    return _ROLES.get(lower(value), value) if isinstance(value, str) else value


def _dtype(value: Any) -> Any:
    return precision_of(value) if isinstance(value, str) else value


def _bare_file_name(value: str) -> str:
    """No path that a file names is trusted: a downloaded contract must not point outside its own folder."""
    if not re.fullmatch(r"\w[\w.+ -]*", value):
        raise ValueError("expected a bare file name beside the contract, without folders")
    return value


def _repo_id(value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value) or ".." in value:
        raise ValueError("expected a repository id such as owner/name")
    return value


def _repo_folder(value: str) -> str:
    if value.startswith(("/", ".")) or "\\" in value or ".." in value.split("/"):
        raise ValueError("expected a subfolder of the same repository, or owner/name/subfolder of another")
    return value


def short(value: Any) -> str:
    """A value as messages show it: no file can flood a terminal."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    return shortener.repr(value)


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, BeforeValidator(whole_number), Field(ge=1)]
Index = Annotated[int, BeforeValidator(whole_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(number), Field(gt=0)]
TokenIds = Annotated[list[Index], Field(min_length=1)]
Role = Annotated[Literal["av", "ar"], BeforeValidator(role)]
PromptStyle = Annotated[Literal["raw", "chat"], BeforeValidator(lower)]
TokenizerChoice = Annotated[Literal["file", "class"], BeforeValidator(lower)]
Dtype = Annotated[Literal["float16", "bfloat16", "float32"], BeforeValidator(_dtype)]
Precision = Annotated[Text, BeforeValidator(_dtype)]
FileName = Annotated[Text, AfterValidator(_bare_file_name)]
RepoId = Annotated[Text, AfterValidator(_repo_id)]
RepoFolder = Annotated[Text, AfterValidator(_repo_folder)]
Temperature = Annotated[float, BeforeValidator(number), Field(ge=0)]
Share = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]
Indices = Annotated[list[Index], Field(min_length=1)]

Layers = Annotated[Literal["any"] | Indices, BeforeValidator(lower)]
InjectionSite = Annotated[Literal["embedding", "block"], BeforeValidator(lower)]
InjectionRule = Annotated[Literal["replace", "add"], BeforeValidator(lower)]
InjectionNorm = Annotated[Literal["fixed", "sqrt_d", "match", "raw", "multiply"], BeforeValidator(lower)]
Markers = Annotated[Literal["any"] | Count, BeforeValidator(lower)]
OutputForm = Annotated[Literal["tagged", "opened", "lines", "dashes", "span", "answer"], BeforeValidator(lower)]
OutputStop = Annotated[Literal["closing_tag", "eos", "budget"] | Index, BeforeValidator(lower)]
FinalNorm = Annotated[Literal["kept", "dropped"], BeforeValidator(lower)]
StateNorm = Annotated[Literal["raw", "sqrt_d"], BeforeValidator(lower)]
ReadingPosition = Annotated[Literal["last", "marker", "turn"], BeforeValidator(lower)]
Truncation = Annotated[Literal["explanation", "left", "right", "refuse"], BeforeValidator(lower)]
Heads = Annotated[Literal["one", "per_layer", "none"], BeforeValidator(lower)]
Target = Annotated[Literal["raw", "centred"], BeforeValidator(lower)]
WeightsKind = Annotated[Literal["full", "lora"], BeforeValidator(lower)]
FieldName = Annotated[Literal["depth", "layer", "question", "model_tag"], BeforeValidator(lower)]


class FieldRule(BaseModel):
    """What a field of a template may be, and how it is made.

    Attributes:
        values: the only values that were trained; None: any.
        nearest: a number becomes the nearest of `values`; else one that is not among them is refused.
        rule: of `depth`, the percentage of a vector's block L among n: `start` is round(100·L/n), `middle`
            round(100·(L + ½)/n).
        blocks: n, where it is not the base's own number of blocks.
        default: what stands there if nobody says it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: Annotated[list[int | str], Field(min_length=1)] | None = None
    nearest: bool = False
    rule: Annotated[Literal["start", "middle"], BeforeValidator(lower)] | None = None
    blocks: Count | None = None
    default: int | str | None = None
