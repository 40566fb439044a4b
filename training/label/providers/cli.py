"""The Claude and Gemini command-line clients: one process a call, the prompt on stdin, a JSON object on stdout.

The prompt never becomes an argument: it may be longer than one may be, and on Windows a `.cmd` shim would have its
shell read it. The processes run in an empty folder, so that no project's instructions get into a label, with the
environment as it is: the clients find their own login there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod

from ...configs.label import ProviderSettings as Settings
from ..faults import PATIENCE, LabelError, QuotaWall, Refused, Transient, reset_announced, scrub
from .protocol import Completion, LabelRequest

_QUOTA = re.compile(
    r"usage limit reached|hit your \w* ?limit|out of extra usage|exhausted your|exceeded your current quota|"
    r"daily quota|quota exceeded|RESOURCE_EXHAUSTED|rate_limit|\b429\b",
    re.IGNORECASE,
)
_LASTING = re.compile(
    r"usage limit|hit your|extra usage|exceeded your current quota|daily quota|per day", re.IGNORECASE
)
_LOGIN = re.compile(
    r"invalid api key|/login|not logged in|unauthenticated|authentication|unauthorized|oauth token|set an auth method",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"issue with the selected model|model[ _]not[ _]found|not_found_error|model \S+ .*not (exist|found)", re.I
)
_REFUSED = re.compile(
    r"usage policy|unable to respond to this request|blocked.*safety|prohibited_content", re.IGNORECASE
)


class _Cli(ABC):
    """Finding the program, running it, and faults by what it prints."""

    retries = True
    program: str

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        first, *rest = settings.command or [self.program]
        program = shutil.which(first)  # also finds Windows' .cmd and .exe by the bare name
        if program is None:
            raise LabelError(
                f"{settings.name}: {first} was not found. Install and log in to the {self.program} command-line "
                "client, or name it in the config (`command:`)."
            )
        self._command = [os.path.abspath(program), *rest, *self._arguments()]
        self._folder = tempfile.TemporaryDirectory(prefix="nla-label-", ignore_cleanup_errors=True)
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._closed = False

    def complete(self, request: LabelRequest) -> Completion:
        started: dict = {"start_new_session": True}  # so that all it starts can be ended with it
        if sys.platform == "win32":
            started = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            with self._lock:
                if self._closed:
                    raise Transient("stopped")
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=self._folder.name,
                    **started,
                )
                self._running.add(process)
        except OSError as error:
            raise LabelError(f"{self.settings.name}: {self._command[0]} cannot be run ({error.strerror}).") from None
        try:
            out, err = process.communicate(request.prompt.encode(), timeout=self.settings.timeout)
        except subprocess.TimeoutExpired:
            raise Transient(f"no answer in {self.settings.timeout:g} s", lost=True) from None
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
        printed, complaint = (scrub(part.decode("utf-8", "replace")).strip() for part in (out, err))
        try:
            answer = json.loads(printed[printed.index("{") :])  # some versions print a line of their own first
        except ValueError:
            answer = None
        if process.returncode == 0 and isinstance(answer, dict):
            try:
                return self._read(answer)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Transient(f"malformed JSON from {self.program} ({type(error).__name__})", lost=True) from None
        stated = self._complaint(answer) if isinstance(answer, dict) else None  # not its numbers and ids as well
        raise self._fault(stated or f"{printed}\n{complaint}".strip(), process.returncode)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _end(process)
        self._folder.cleanup()

    @abstractmethod
    def _arguments(self) -> list[str]:
        """What follows the program's name."""

    @abstractmethod
    def _read(self, answer: dict) -> Completion:
        """The completion in the program's JSON object."""

    @abstractmethod
    def _complaint(self, answer: dict) -> str | None:
        """What an answer says went wrong; None: nothing."""

    def _fault(self, complaint: str, code: int | None = None) -> Exception:
        name, brief = self.settings.name, " ".join(complaint.split())[-160:] or "no output"
        if _QUOTA.search(complaint):
            resets_at = reset_announced(complaint)
            pause = None if resets_at is None else max(0.0, resets_at - time.time())
            if pause is not None and pause <= PATIENCE:
                return Transient(brief, retry_after=pause)
            if pause is not None or _LASTING.search(complaint):
                return QuotaWall(brief, resets_at=resets_at)
            return Transient(brief)
        if _REFUSED.search(complaint):
            return Refused(brief)
        if code == 41 or _LOGIN.search(complaint):  # 41: Gemini CLI's "not authenticated"
            return LabelError(f"{name}: the command-line client is not logged in ({brief}). Log in with it once.")
        if _MODEL.search(complaint):
            return LabelError(f"{name}: no such model ({brief}). Check `model:` in the config.")
        return Transient(f"{self.program} gave no answer (exit code {code}): {brief}")


class Claude(_Cli):
    """`claude -p`: reports tokens and cost."""

    program = "claude"

    def _arguments(self) -> list[str]:
        # No tools: a text that gives orders must find nothing to give them to.
        model = ["--model", self.settings.model] if self.settings.model else []
        return ["-p", "--output-format", "json", *model, "--tools", ""]

    def _read(self, answer: dict) -> Completion:
        if complaint := self._complaint(answer):
            raise self._fault(complaint)
        text = answer.get("result")
        if not isinstance(text, str):
            raise ValueError("no result")
        usage = answer.get("usage") or {}
        models = answer.get("modelUsage") or {}
        inputs = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return Completion(
            text,
            self.settings.model or (next(iter(models)) if len(models) == 1 else self.settings.kind),
            sum(int(usage.get(part) or 0) for part in inputs),
            int(usage.get("output_tokens") or 0),
            float(answer.get("total_cost_usd") or 0.0),
        )

    def _complaint(self, answer: dict) -> str | None:
        if answer.get("is_error") or answer.get("subtype", "success") != "success":
            return str(answer.get("result") or answer.get("subtype") or "error")
        return None


class Gemini(_Cli):
    """`gemini -o json`: reports tokens, no cost."""

    program = "gemini"

    def _arguments(self) -> list[str]:
        return ["--output-format", "json", *(["--model", self.settings.model] if self.settings.model else [])]

    def _read(self, answer: dict) -> Completion:
        if complaint := self._complaint(answer):
            raise self._fault(complaint)
        if not isinstance(answer.get("response"), str):
            raise ValueError("no response")
        models = (answer.get("stats") or {}).get("models") or {}
        tokens = [model.get("tokens") or {} for model in models.values()]  # it may ask a second model for routing
        return Completion(
            answer["response"],
            self.settings.model or (next(iter(models)) if len(models) == 1 else self.settings.kind),
            sum(int(used.get("prompt") or 0) for used in tokens),
            sum(int(used.get("candidates") or 0) + int(used.get("thoughts") or 0) for used in tokens),
        )

    def _complaint(self, answer: dict) -> str | None:
        error = answer.get("error")
        return str(error.get("message") if isinstance(error, dict) else error) if error else None


def _end(process: subprocess.Popen) -> None:
    """End a process and all it started; nothing happens if they are gone."""
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also children that outlived the one we started
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.close()
