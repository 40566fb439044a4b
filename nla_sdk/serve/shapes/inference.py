"""Bodies of the inference server's API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .common import LIMITS, Asked, Finite, Line, NewTokens, Position, Temperature, TextFields, Token, Told, Vector


class Generation(Asked):
    """How explanations are written."""

    temperature: Temperature = 0.7
    max_new_tokens: NewTokens = 200


class ExplainRequest(TextFields, Generation):
    """Activations of a text, to be explained."""

    positions: Annotated[list[Position], Field(max_length=LIMITS.positions)] | None = None
    reverse: bool = True
    stream: bool = False


class DescribeRequest(Generation):
    """Activations, to be explained."""

    activations: Annotated[list[Vector], Field(min_length=1, max_length=LIMITS.positions)]
    stream: bool = False


class ScoreRequest(Asked):
    """A description, held against an activation."""

    description: Line
    activation: Vector


class CompareRequest(Generation):
    """Two activations, whose difference is to be explained."""

    activation_a: Vector
    activation_b: Vector


class CompletionRequest(TextFields, Asked):
    """A text that the source goes on with."""

    completion_tokens: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 16
    temperature: Temperature = 0.7
    stream: bool = False


class ServedLimits(Told):
    """What one request may ask for."""

    max_input_chars: int
    max_positions_per_request: int
    max_new_tokens: int
    max_describe_batch: int
    max_description_chars: int
    max_completion_tokens: int


class Status(Told):
    """What is served."""

    status: str
    verbalizer_model: str | None
    d_model: int
    extraction_layer: int
    source_model: str | None
    source_truncated: bool
    reconstructor_available: bool
    completion_available: bool
    num_cuda_devices: int
    max_concurrent: int
    max_concurrent_explains: int
    source_max_concurrent: int
    reconstructor_max_concurrent: int
    max_describe_requests: int
    limits: ServedLimits
    verbalizer_device: str | None
    verbalizer_dtype: str | None
    verbalizer_quantization: str | None
    source_device: str | None
    source_dtype: str | None
    source_quantization: str | None
    reconstructor_device: str | None
    reconstructor_dtype: str | None
    reconstructor_quantization: str | None


class ReadToken(Told):
    """A token and the activation at it."""

    token: str
    token_id: int
    position: int
    activation: list[Finite]
    l2_norm: float


class Extracted(Told):
    """The activations of a text."""

    layer_index: int
    tokens: list[ReadToken]


class Described(Told):
    """A description, and how near it comes to its activation where there is a reconstructor."""

    description: str
    mse: float | None = None
    cosine_similarity: float | None = None


class Explained(Token, Described):
    """A token with its description."""

    l2_norm: float
    generated: bool = False


class Explanations(Told):
    """The descriptions of a text's tokens."""

    layer_index: int
    results: list[Explained]


class Descriptions(Told):
    """The descriptions of activations."""

    results: list[Described]


class Scored(Told):
    """How near a description comes to an activation."""

    mse: float
    cosine_similarity: float


class Compared(Described):
    """The description of a difference, and its length."""

    diff_norm: float
