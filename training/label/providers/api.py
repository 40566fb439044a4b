"""The Anthropic and OpenAI APIs, and whatever speaks like them, through the vendors' own SDKs.

The SDKs retry on their own; that is turned off, because retries are counted, capped and paced in one place (`passes`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

from ...configs.label import ProviderSettings as Settings
from ..budget import Price
from ..faults import KEY_VARIABLES, LabelError, QuotaWall, Refused, Transient, too_many_requests
from .protocol import Completion, LabelRequest

_NO_CREDIT = ("insufficient_quota", "credit balance", "billing", "exceeded your current quota")


class _Api(ABC):
    """What both have in common: one client, and faults by HTTP status."""

    retries = True
    module: str
    client_class: str
    key_variable: str

    def __init__(self, settings: Settings, price: Price | None) -> None:
        self.settings, self._price = settings, price
        self._key_variable = settings.key_env or self.key_variable
        KEY_VARIABLES.add(self._key_variable)
        try:
            self._sdk = __import__(self.module)
        except ImportError:
            raise LabelError(
                f"The provider {settings.name} needs the package {self.module}: pip install 'nla-sdk[label]'"
            ) from None
        key = os.environ.get(self._key_variable)
        if not key:
            if not (settings.kind == "openai" and settings.base_url):
                raise LabelError(f"{settings.name}: no key. Put it into the environment variable {self._key_variable}.")
            key = "none"  # servers of one's own mostly ask for none, and the SDK insists on one
        self._client = getattr(self._sdk, self.client_class)(
            api_key=key, base_url=settings.base_url, timeout=settings.timeout, max_retries=0
        )

    def complete(self, request: LabelRequest) -> Completion:
        sdk = self._sdk
        try:
            answer = self._send(request.prompt)
        except sdk.APITimeoutError:
            raise Transient(f"no answer in {self.settings.timeout:g} s", lost=True) from None
        except sdk.APIConnectionError as error:
            raise Transient(f"connection failed: {error.__cause__ or error}", lost=True) from None
        except sdk.APIStatusError as error:
            raise self._fault(error) from None
        except (sdk.APIError, ValueError) as error:  # ValueError: the body is no JSON
            raise Transient(f"malformed response ({type(error).__name__})", lost=True) from None
        try:
            completion, refusal, cut = self._read(answer)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:  # JSON, but no completion
            raise Transient(f"malformed response ({type(error).__name__})", lost=True) from None
        if refusal:
            raise Refused(f"refused ({refusal})", cost_usd=completion.cost_usd)
        if cut:
            raise Transient(f"cut off at max_tokens: {self.settings.max_tokens}", cost_usd=completion.cost_usd)
        return completion

    def close(self) -> None:
        self._client.close()

    @abstractmethod
    def _send(self, prompt: str):
        """The SDK's answer to one prompt."""

    @abstractmethod
    def _read(self, answer) -> tuple[Completion, str | None, bool]:
        """The completion; what says that it is a refusal, if it is; whether it was cut off."""

    def _completion(self, text: str, model: str | None, tokens_in: int, tokens_out: int) -> Completion:
        if model and ("\\" in model or model.startswith(("/", "."))):  # llama.cpp may tell the path of its file
            model = None
        cost = None if self._price is None else self._price.of(tokens_in, tokens_out)
        return Completion(text, model or str(self.settings.model), tokens_in, tokens_out, cost)

    def _fault(self, error) -> Exception:
        status, name = error.status_code, self.settings.name
        message = _message_of(error.body) or f"HTTP {status}"
        if status == 401 or status == 403:
            return LabelError(
                f"{name}: the key in the environment variable {self._key_variable} was not accepted (HTTP {status})."
            )
        if status == 404:
            return LabelError(
                f"{name}: no such model, or not for the key in {self._key_variable} (HTTP 404). Check `model:` and "
                "`base_url:` in the config."
            )
        if status in (400, 402, 429) and any(sign in f"{message} {error.body}".lower() for sign in _NO_CREDIT):
            return QuotaWall(f"HTTP {status}: {message}")
        if status == 429:
            return too_many_requests(f"HTTP 429: {message}", error.response.headers)
        if status in (408, 409) or status >= 500:
            fault = too_many_requests(f"HTTP {status}: {message}", error.response.headers)
            return fault if isinstance(fault, Transient) else Transient(fault)  # an outage is no quota
        return Refused(f"HTTP {status}: {message}")


class Anthropic(_Api):
    """The Messages API."""

    module, client_class, key_variable = "anthropic", "Anthropic", "ANTHROPIC_API_KEY"

    def _send(self, prompt: str):
        return self._client.messages.create(
            model=self.settings.model,
            max_tokens=self.settings.max_tokens,
            messages=[{"role": "user", "content": prompt}],
        )

    def _read(self, answer) -> tuple[Completion, str | None, bool]:
        text = "".join(block.text for block in answer.content if block.type == "text")
        completion = self._completion(text, answer.model, answer.usage.input_tokens, answer.usage.output_tokens)
        refusal = "stop_reason: refusal" if answer.stop_reason == "refusal" else None
        return completion, refusal, answer.stop_reason == "max_tokens"


class OpenAI(_Api):
    """Chat Completions, the endpoint that compatible servers have."""

    module, client_class, key_variable = "openai", "OpenAI", "OPENAI_API_KEY"

    def _send(self, prompt: str):
        # OpenAI's newer models refuse max_tokens; other servers may not know its successor yet.
        elsewhere = self.settings.base_url or os.environ.get("OPENAI_BASE_URL")
        options: dict[str, Any] = {"max_tokens" if elsewhere else "max_completion_tokens": self.settings.max_tokens}
        if self.settings.temperature is not None:
            options["temperature"] = self.settings.temperature
        return self._client.chat.completions.create(
            model=self.settings.model, messages=[{"role": "user", "content": prompt}], **options
        )

    def _read(self, answer) -> tuple[Completion, str | None, bool]:
        choice, usage = answer.choices[0], answer.usage  # compatible servers may leave the usage out
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        refusal = None
        if choice.message.refusal:
            refusal = "message.refusal"
        elif choice.finish_reason == "content_filter":
            refusal = "finish_reason: content_filter"
        completion = self._completion(choice.message.content or "", answer.model, read, written)
        return completion, refusal, choice.finish_reason == "length"


def _message_of(body: object) -> str | None:
    """What an error body says, in both vendors' forms."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return message if isinstance(message, str) else None
    return None
