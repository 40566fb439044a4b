"""Reading what labelers and auditors reply, and the mechanical checks every label passes before it is accepted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from nla_sdk.io.text import FAULTS, fault_of

from .faults import Transient

FEWEST_WORDS, MOST_WORDS = 5, 120  # what is asked for is 25 to 45; beyond these it is no label at all

_TAGGED = re.compile(r"<explanation>(.*?)</explanation>", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"(i['’]?m sorry|i am sorry|sorry,|i (can ?not|can['’]t|won['’]t|am unable|am not able|must decline)|"
    r"i['’]?m (unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


class AuditVerdict(BaseModel):
    """An auditor's reply."""

    verdict: Literal["accept", "repair", "reject"]
    explanation: str = ""
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return {key: "" if item is None else item for key, item in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True)
class Audit:
    """What an audit decided: the row's status, its explanation (None: rejected), and why."""

    status: Literal["accepted", "repaired", "rejected"]
    explanation: str | None
    reason: str | None


def explanation_in(reply: str, marker: str) -> str:
    """The explanation of a labeler's reply, on one line.

    Raises:
        Transient: it isn't between tags, or fails `checked`.
    """
    tagged = _TAGGED.findall(reply)
    if not tagged:
        if _REFUSAL.match(reply.strip()):
            raise Transient("the reply is a refusal in words")
        raise Transient("no <explanation>…</explanation> in the reply")
    return checked(tagged[-1], marker)  # the last one: what comes before may be a draft


def checked(explanation: str, marker: str, *, any_length: bool = False) -> str:
    """`explanation` on one line, if it can serve as a label.

    Args:
        any_length: what somebody wrote into a file of labels is as long as they wanted it to be.
    Raises:
        Transient: it is empty, far too short or long, a refusal, or holds tags or the injection marker.
    """
    line = " ".join(explanation.split())
    words = len(line.split())
    if not line:
        raise Transient("the explanation is empty")
    if (fault := fault_of(line)) is not None:
        raise Transient(f"the explanation holds {FAULTS[fault]}")
    if not any_length and not FEWEST_WORDS <= words <= MOST_WORDS:
        raise Transient(f"the explanation has {words} words, expected {FEWEST_WORDS} to {MOST_WORDS}")
    if re.search(r"</?explanation>", line, re.IGNORECASE):
        raise Transient("the explanation holds an <explanation> tag")
    if marker in line:
        raise Transient(f"the explanation holds the marker {marker}")
    if _REFUSAL.match(line):
        raise Transient("the explanation is a refusal in words")
    return line


def audit_in(reply: str, label: str, marker: str) -> Audit:
    """What an auditor's reply makes of `label`. Code fences and prose around the JSON object are overlooked.

    Raises:
        Transient: no such object in the reply, or a repaired label that fails `checked`.
    """
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise Transient("no JSON object in the auditor's reply")
    try:
        verdict = AuditVerdict.model_validate_json(reply[start : end + 1])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Transient(f"malformed JSON from the auditor: {where + ': ' if where else ''}{first['msg']}") from None
    reason = " ".join(verdict.reason.split())[:300] or None
    if verdict.verdict == "reject":
        return Audit("rejected", None, reason or "the auditor gave no reason")
    if verdict.verdict == "accept":
        return Audit("accepted", label, None)
    repaired = checked(verdict.explanation, marker)
    return Audit("accepted" if repaired == label else "repaired", repaired, None)
