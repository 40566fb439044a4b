"""The two passes over a row: a labeler writes, an auditor accepts, repairs or rejects.

Each pass asks its providers in their order until one gives an answer that can be read. What was answered is in the
cache, on the disk, before it counts, so a row is asked about once, whatever happens to the process.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from nla_sdk.io.progress import say

from ..configs.label import Label, LabelSet, ProviderSettings
from ..runs.patience import patiently
from . import answers, extractive
from .budget import Budget, Price, Prices, price_of
from .cache import Cache, key_of
from .faults import Fault, LabelError, NoLabel, QuotaWall, Transient, scrub
from .parallel import Stopped, in_parallel
from .prompts import templates
from .providers.choose import provider_of
from .providers.protocol import Completion, LabelRequest, Provider

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string()),
        pa.field("api_explanation", pa.string()),
        pa.field("label_status", pa.string(), nullable=False),
        pa.field("labeler_model", pa.string()),
        pa.field("auditor_model", pa.string()),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("cost_usd", pa.float64()),
        pa.field("label_note", pa.string()),
    ]
)
"""A label table: one row per row of the split, in its order. `api_explanation` is null unless the status is accepted or
repaired; the other statuses are rejected (by the auditor), failed (no provider answered) and none (not in the file)."""

BACKOFF = 1.0
"""Seconds before the second call; doubled with each further one, plus up to as much again at random."""

LONGEST_BACKOFF = 60.0
PROBE = 900.0
"""Seconds between looks at a quota that doesn't say when it resets."""


class NoAnswer(Exception):
    """Every provider failed for this row."""


class PassProvider:
    """One provider in a pass's list, and what is known of it.

    Attributes:
        open_at: when its quota resets (seconds since the epoch); 0 while it is open.
        ready_at: when it asked to be called again.
    """

    def __init__(self, settings: ProviderSettings, prices: Prices) -> None:
        self.settings = settings
        self.price: Price | None = price_of(settings, prices)
        self.provider: Provider = provider_of(settings, self.price)
        self.open_at = self.ready_at = 0.0
        # What an answer depends on, beside text and prompt. The address too: local servers answer to any name.
        self.identity = json.dumps(
            [settings.kind, settings.model, settings.base_url, settings.max_tokens, settings.temperature]
        )

    def dearest(self, prompt: str) -> float:
        """USD that one call cannot exceed: two bytes a token is more tokens than tokenizers make of prose."""
        return self.price.of(len(prompt.encode()) // 2, self.settings.max_tokens) if self.price else 0.0


Reader = Callable[[PassProvider, str], Any]
"""A reply → what it says; raises a fault where it cannot be read."""


@dataclass(frozen=True)
class Answer:
    """What a pass got, from which of its providers, and what that reads as."""

    source: PassProvider
    completion: Completion
    value: Any


class Passes:
    """Labels rows of one set.

    Args:
        label_set: who labels and who audits.
        settings: attempts, and whether to wait for quotas.
    Attributes:
        run: names the table being made; what its rows were given is remembered under it.
        stop: once set, no further call is begun.
        say: tells a line to whoever runs the command.
        calls: whether rows may take calls; else each is looked up or made here.
    Raises:
        LabelError: a provider cannot work at all (no key, not installed).
        InputError: a file of labels cannot be read.
    """

    def __init__(
        self, label_set: LabelSet, settings: Label, prices: Prices, cache: Cache, budget: Budget, marker: str
    ) -> None:
        self.settings, self.cache, self.budget, self.marker = settings, cache, budget, marker
        self.run = ""
        self.say: Callable[[str], object] = say
        self.stop = threading.Event()
        self.labelers = [PassProvider(provider, prices) for provider in label_set.providers]
        self.auditors = [PassProvider(auditor, prices) for auditor in label_set.auditors]
        self.calls = bool(self.auditors) or not all(labeler.settings.is_offline for labeler in self.labelers)
        self._announced = 0.0
        self._lock = threading.Lock()

    def label(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's columns (`SCHEMA`, without row_id and doc_id).

        Raises:
            LabelError: labelling cannot go on: a cap, a quota, a key.
            Stopped: another row met with that.
        """
        text, guesses = row["detokenized_text_truncated"], row.get("next_tokens") or ()
        if text is None or not text.strip():
            return self._row("failed", note=f"the text is {'null' if text is None else 'empty'}")
        offline = all(labeler.settings.is_offline for labeler in self.labelers)
        request = LabelRequest(text, guesses, "" if offline else templates.labeler_prompt(text, guesses))
        try:
            label = self._answer(row["row_id"], "label", self.labelers, request, self._read_label)
        except NoAnswer as error:
            only_files = all(labeler.settings.kind == "file" for labeler in self.labelers)
            missing = only_files and isinstance(error.__cause__, NoLabel)
            return self._row("none" if missing else "failed", note=str(error))
        if not self.auditors:
            return self._row("accepted", label, explanation=label.value)
        request = LabelRequest(text, guesses, templates.auditor_prompt(text, label.value))
        try:
            audit = self._answer(
                row["row_id"],
                "audit",
                self.auditors,
                request,
                lambda source, reply: answers.audit_in(reply, label.value, self.marker),
            )
        except NoAnswer as error:
            return self._row("failed", label, note=f"auditor: {error}")
        verdict: answers.Audit = audit.value
        return self._row(verdict.status, label, audit, explanation=verdict.explanation, note=verdict.reason)

    def close(self) -> None:
        """Let go of every provider."""
        for source in (*self.labelers, *self.auditors):
            source.provider.close()

    def _read_label(self, source: PassProvider, reply: str) -> str:
        if source.settings.is_offline:
            return answers.checked(reply, self.marker, any_length=True)
        return answers.explanation_in(reply, self.marker)

    def _row(
        self,
        status: str,
        label: Answer | None = None,
        audit: Answer | None = None,
        *,
        explanation: str | None = None,
        note: str | None = None,
    ) -> dict[str, Any]:
        paid = [answer.completion for answer in (label, audit) if answer is not None]
        costs = [completion.cost_usd for completion in paid]
        return {
            "api_explanation": explanation,
            "label_status": status,
            "labeler_model": label.completion.model if label else None,
            "auditor_model": audit.completion.model if audit else None,
            "prompt_sha256": self._prompt_sha256(label, audit),
            "tokens": sum(completion.tokens_in + completion.tokens_out for completion in paid),
            "cost_usd": None if None in costs else float(sum(costs)),
            "label_note": note,
        }

    def _prompt_sha256(self, label: Answer | None, audit: Answer | None) -> str:
        labeler = label.source if label else self.labelers[0]
        auditor = audit.source if audit else (self.auditors[0] if self.auditors else None)
        return prompt_sha256(labeler.settings, auditor.settings if auditor else None)

    def _answer(
        self, row_id: str, step: str, sources: Sequence[PassProvider], request: LabelRequest, read: Reader
    ) -> Answer:
        if kept := self.cache.accepted(self.run, row_id, step):
            index, completion = kept
            if index < len(sources) and (answer := self._readable(sources[index], completion, read)):
                return answer
        left, faults = list(enumerate(sources)), []
        while True:
            shut = []
            for index, source in left:
                try:
                    return self._from(index, source, row_id, step, request, read)
                except QuotaWall as wall:
                    shut.append((index, source))
                    source.open_at = max(source.open_at, wall.resets_at or time.time() + PROBE)
                    last_wall = wall
                except Fault as fault:
                    faults.append((source, fault))
            if not shut:
                reasons = "; ".join(
                    f"{source.settings.name}: {fault}" if len(sources) > 1 else str(fault) for source, fault in faults
                )
                raise NoAnswer(reasons) from faults[-1][1]
            self._wait_for_quota([source for _, source in shut], last_wall)
            left = shut

    def _readable(self, source: PassProvider, completion: Completion, read: Reader) -> Answer | None:
        try:
            return Answer(source, completion, read(source, completion.text))
        except Fault:  # bought by a version of this code that asked less of an answer
            return None

    def _from(
        self, index: int, source: PassProvider, row_id: str, step: str, request: LabelRequest, read: Reader
    ) -> Answer:
        """One provider's answer: bought before, or now."""
        if source.settings.is_offline and index == 0:  # costs nothing, never fails otherwise than before
            completion = source.provider.complete(request)
            return Answer(source, completion, read(source, completion.text))
        key = key_of(request.text, request.prompt, source.identity)
        bought = self.cache.get(key)
        answer = self._readable(source, bought, read) if bought else None
        if answer is None:
            if time.time() < source.open_at:
                raise QuotaWall("its quota is used up", resets_at=source.open_at)
            answer = self._buy(source, request, read)
        self.cache.accept(key, answer.completion, self.run, row_id, step, index)
        return answer

    def _buy(self, source: PassProvider, request: LabelRequest, read: Reader) -> Answer:
        return patiently(
            lambda: self._call(source, request, read),
            again=lambda error: isinstance(error, Transient),
            attempts=self.settings.max_attempts if source.provider.retries else 1,
            pause=BACKOFF,
            longest=LONGEST_BACKOFF,
            asked=lambda fault: fault.retry_after,
            sleep=self._sleep,
        )

    def _call(self, source: PassProvider, request: LabelRequest, read: Reader) -> Answer:
        if (pause := source.ready_at - time.time()) > 0:  # another row's call was told to come back later
            self._sleep(pause)
        if self.stop.is_set():
            raise Stopped
        with self.budget.call(source.dearest(request.prompt)) as report:
            try:
                completion = source.provider.complete(request)
            except Transient as fault:
                if fault.retry_after:
                    source.ready_at = max(source.ready_at, time.time() + fault.retry_after)
                raise
            report(completion.cost_usd or 0.0)
            # A server that echoes what it was sent must not get a key into the cache and the table.
            text, model = scrub(completion.text), scrub(completion.model)
            completion = Completion(text, model, completion.tokens_in, completion.tokens_out, completion.cost_usd)
            return Answer(source, completion, read(source, text))

    def _wait_for_quota(self, shut: Sequence[PassProvider], wall: QuotaWall) -> None:
        first = min(shut, key=lambda source: source.open_at)
        names = " and ".join(source.settings.name for source in shut)
        when = datetime.fromtimestamp(first.open_at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        if not self.settings.wait_for_quota:
            raise LabelError(
                f"The quota of {names} is used up ({wall}). Everything done is kept: run the same command again after "
                f"the reset (try {when}), or with --wait-for-quota, or add another provider to the config."
            )
        with self._lock:
            if self._announced < first.open_at:
                self._announced = first.open_at
                self.say(f"The quota of {names} is used up ({wall}); waiting until {when}.")
                sys.stderr.flush()
        while (left := first.open_at - time.time()) > 0:  # by the clock on the wall: a laptop may sleep meanwhile
            self._sleep(min(left, 30.0))

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped


def label_rows(
    rows: Sequence[Mapping[str, Any]], passes: Passes, show: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """The finished rows, in their order; `show` is called after each."""
    made: list[dict] = [{} for _ in rows]
    threads = passes.settings.concurrency if passes.calls else 1
    with closing(in_parallel(passes.label, rows, threads, passes.stop)) as done:
        for index, labelled in done:
            made[index] = {"row_id": rows[index]["row_id"], "doc_id": rows[index]["doc_id"], **labelled}
            show()
    return made


def prompt_sha256(labeler: ProviderSettings, auditor: ProviderSettings | None) -> str:
    """One hash over how a row was asked about: templates, temperature and length; of an offline labeler its version."""
    parts: list[Any] = []
    for settings, template in ((labeler, templates.LABELER), (auditor, templates.AUDITOR)):
        if settings is None:
            continue
        if settings.is_offline:
            parts.append(extractive.VERSION if settings.kind == "extractive" else settings.kind)
        else:
            parts.append([template, templates.source_of(template), settings.temperature, settings.max_tokens])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
