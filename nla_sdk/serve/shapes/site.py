"""Bodies of the public site's API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .common import LIMITS, Asked, Name, Position, Temperature, TextFields, Token, Told
from .inference import Explained


class Named(Asked):
    """Which source is meant."""

    modelId: Name
    nlaSourceId: Name


class ExplainRequest(Named, TextFields):
    """Activations of a text, to be explained; what a site's page sends besides is passed over."""

    text: Annotated[str, Field(max_length=LIMITS.site_text)] | None = None
    positions: Annotated[list[Annotated[Position, Field(ge=0)]], Field(min_length=1, max_length=LIMITS.positions)]
    temperature: Temperature = 0.7
    stream: bool = False
    priorCacheId: Annotated[str, Field(max_length=LIMITS.name)] | None = None
    tokens: list[Any] | None = None
    tokenSpans: list[Any] | None = None
    templateFormat: Name | None = None


class CompletionRequest(Asked, TextFields):
    """A text that the source goes on with."""

    modelId: Name
    nlaSourceId: Name | None = None
    text: Annotated[str, Field(max_length=LIMITS.site_text)] | None = None
    completion_tokens: Annotated[int, Field(ge=1, le=LIMITS.completion_tokens)] = 16
    temperature: Temperature = 0.7
    stream: bool = False


class Model(Told):
    """The model that a source reads."""

    id: str
    displayName: str
    openRouterAvailable: bool


class Source(Told):
    """The pair, as a source."""

    modelId: str
    id: str
    displayName: str
    description: str
    url: str | None
    author: str | None
    av: str | None
    ar: str | None
    layerNum: int
    norm: float | None
    createdAt: str
    model: Model


class Sources(Told):
    """The sources: here there is one."""

    sources: list[Source]


class Explanations(Told):
    """The descriptions of a text's tokens, and the key by which they are known later."""

    results: list[Explained]
    layer_index: int
    prompt_length: int
    cacheId: str


class Completion(Told):
    """What the source went on with."""

    completion: str
    full_text: str
    tokens: list[Token]
    prompt_length: int
