"""`Client`: the methods of `NLAPair`, of a pair that `nla serve` serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from .calls.asking import slice_of
from .calls.comparing import Comparison, Signs, signs_of
from .calls.directions import Shown
from .calls.inputs import Chat, Mean, OnText, OnToken, Progress, Texts, check_text_input, is_text
from .calls.rows import Layers, layer_of_each
from .calls.steered import Completion, Steered
from .claims.receipts import Check
from .errors import EmptyBatchError, InputError
from .model.injection import VectorsLike
from .model.running.watching import Watch
from .results import Activations, Answer, Explanation, Results, RoundTrip, Score
from .sampling import Sampling, whole_number
from .serve.remote import answers, checking, sets, steering
from .serve.remote.asking import Asked, asked, several_texts, text_fields
from .serve.remote.connection import Connection
from .serve.remote.rows import made, refuse, writing, written
from .vectors.kinds import Kind, Vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .calls.inputs import Writing


class Client:
    """A pair that `nla serve` serves, with the methods of `NLAPair`: same arguments, same results, same errors.

    What only a pair in memory can do is missing or refused by name: `mean=`, saving, exporting, the contract. Calls are
    made from any thread; one that the server tells to come back later (429) is sent again when it says.

    Args:
        url: `http://127.0.0.1:5009`, as `nla serve` prints it.
        secret: that the server was started with. It is shown nowhere.
        timeout: seconds without a byte from the server after which a call is given up.
    Raises:
        InputError: the address is none, or no header can hold the secret. Methods: what those of `NLAPair` raise;
        ServerError: the server cannot be reached, or refuses in a way that has no class here (`.status`).
    Example:
        >>> served = Client("http://127.0.0.1:5009")  # doctest: +SKIP
        >>> served.round_trip("The cat sat on the mat.").gain  # doctest: +SKIP
        0.61
    """

    def __init__(self, url: str, secret: str | None = None, *, timeout: float = 300.0) -> None:
        self._server = Connection(url, secret, timeout)

    def __repr__(self) -> str:
        return f"Client({self._server.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept; a later call opens new ones."""
        self._server.close()

    # --- what is served -----------------------------------------------------------------------------------------------
    @cached_property
    def pair(self) -> answers.ServedPair:
        """What the server says of its pair, asked for once; its verdict and its warning among it."""
        return made(answers.ServedPair.of, self._server.call("GET", "/v1/pair"))

    @property
    def layer(self) -> int:
        """The block whose output the pair reads, 0-indexed."""
        return self.pair.layer

    @property
    def d_model(self) -> int:
        """The length of an activation."""
        return self.pair.d_model

    @property
    def baseline_mse(self) -> float | None:
        """mse of predicting the mean direction; None where the pair's contract has none."""
        return self.pair.baseline_mse

    @property
    def matched(self) -> bool:
        """Whether the halves name each other."""
        return self.pair.matched

    @property
    def norm_matters(self) -> bool:
        """Whether a vector of another norm but the same direction is other words to the AV."""
        return self.pair.norm_matters

    # --- doing --------------------------------------------------------------------------------------------------------
    def extract(
        self, text: str | Chat | Texts, positions: int | str | Sequence[int] = -1, layer: int | None = None
    ) -> Activations:
        """See `NLAPair.extract`. A character that several tokens spell is shown whole in each of them."""
        check_text_input(text)
        where = positions if isinstance(positions, (int, str)) else list(positions)
        more = {"positions": where} if layer is None else {"positions": where, "layer": whole_number("layer", layer)}
        reads = [self._server.call("POST", "/v1/extract", text_fields(one) | more) for one in several_texts(text)[0]]
        return made(answers.activations, reads, self.pair)

    @overload
    def explain(
        self,
        activation: VectorsLike | Activations | Vectors,
        *,
        n: Literal[1] = 1,
        signs: Literal["+", "-"] = "+",
        **writing: Unpack[Writing],
    ) -> Explanation | Results[Explanation]: ...
    @overload
    def explain(
        self, activation: VectorsLike | Activations | Vectors, *, n: int, signs: Signs = "+", **writing: Unpack[Writing]
    ) -> Results[Explanation] | Results[Results[Explanation]]: ...
    @overload
    def explain(
        self, activation: VectorsLike | Activations | Vectors, *, signs: Literal["±"], **writing: Unpack[Writing]
    ) -> Results[Explanation] | Results[Results[Explanation]]: ...
    def explain(
        self,
        activation: VectorsLike | Activations | Vectors,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        layer: Layers | None = None,
        model_tag: str | None = None,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
        signs: Signs = "+",
    ) -> Explanation | Results[Explanation] | Results[Results[Explanation]]:
        """See `NLAPair.explain`. With `signs="±"` a text is told when it is whole, not as it grows."""
        if is_text(activation):
            raise InputError(
                "The activation is a text or a list of texts that is no array of numbers. explain takes activations: "
                "client.explain(client.extract(text)); round_trip takes a text as well."
            )
        best_of = whole_number("best_of", best_of, 1)
        if best_of != 1 and n != 1:
            raise InputError(f"n={n} and best_of={best_of}: ask for several explanations or for the best one.")
        sampling, watch = Sampling(max_new_tokens, temperature, n, seed), Watch(progress, on_text, cancel)
        if signs not in ("+", "-", "±"):
            raise InputError(f"signs={signs!r}: expected '+', '-', '±'.")
        said = {"layer": layer, "force": force, "kind": kind, "direction": direction, "mean": mean}
        of = asked(activation, self.pair, model_tag=model_tag, **said)
        each = sampling.n * len(signs_of(signs))
        fields = {**writing(sampling), "n": sampling.n, "best_of": best_of, "signs": signs}
        return self._written("/v1/explain", of, fields, watch, answers.explanation, each=each, costs=best_of)

    def ask(
        self,
        vectors: VectorsLike | Activations | Sequence[Activations] | Vectors | str | Chat | Texts,
        question: str | Sequence[str],
        *,
        layer: Layers | None = None,
        positions: int | str | Sequence[int] | tuple[int, int] = -1,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
    ) -> Answer | Results[Answer] | Results[Results[Answer]]:
        """See `NLAPair.ask`. Of a text the activations come here and go back."""
        sampling, watch = Sampling(max_new_tokens, temperature, n, seed), Watch(progress, on_text, cancel)
        if is_text(vectors):
            vectors, layer = self._read_sets(vectors, positions, layer), None
        said = {"layer": layer, "force": force, "kind": kind, "direction": direction, "mean": mean}
        of_sets, single = sets.sets_of(vectors, self.pair, **said)
        found = Results[Any]()
        for one in sets.asks(of_sets, question):
            fields = {**writing(sampling), "n": sampling.n, "question": one.questions}
            here = watch.numbered(lambda row, first=one.first: first * sampling.n + row)
            found += self._written("/v1/ask", one.of, fields, here, answers.explanation, each=sampling.n)
        return found[0] if single and isinstance(question, str) else found

    def reconstruct(self, text: str | Sequence[str], *, layer: int | None = None) -> torch.Tensor:
        """See `NLAPair.reconstruct`."""
        texts = _explanations(text)
        more = {"vectors_out": True} if layer is None else {"vectors_out": True, "layer": whole_number("layer", layer)}
        rows = self._server.call("POST", "/v1/reconstruct", {"explanations": texts, **more})
        vectors = made(lambda: torch.stack([answers.vector(row["reconstruction"]) for row in rows["rows"]]))
        return vectors[0] if isinstance(text, str) else vectors

    @overload
    def round_trip(self, activation: str | Chat, **writing: Unpack[Writing]) -> RoundTrip: ...
    @overload
    def round_trip(self, activation: Texts, **writing: Unpack[Writing]) -> Results[RoundTrip]: ...
    @overload
    def round_trip(
        self, activation: VectorsLike | Activations | Vectors, **writing: Unpack[Writing]
    ) -> RoundTrip | Results[RoundTrip]: ...
    def round_trip(
        self,
        activation: str | Chat | Texts | VectorsLike | Activations | Vectors,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        layer: Layers | None = None,
        model_tag: str | None = None,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
    ) -> RoundTrip | Results[RoundTrip]:
        """See `NLAPair.round_trip`."""
        best_of = whole_number("best_of", best_of, 1)
        sampling, watch = Sampling(max_new_tokens, temperature, seed=seed), Watch(progress, on_text, cancel)
        said = {"layer": layer, "force": force, "kind": kind, "direction": direction, "mean": mean}
        of = asked(activation, self.pair, model_tag=model_tag, **said)
        fields = {**writing(sampling), "best_of": best_of, "vectors_out": True, "shuffled": False}
        return self._written("/v1/round-trip", of, fields, watch, answers.trip, costs=best_of)

    def score(
        self,
        text: str | Sequence[str],
        activation: VectorsLike | Activations | Vectors,
        *,
        force: bool = False,
        layer: int | None = None,
        kind: Kind | None = None,
        mean: Mean = None,
    ) -> Score | Results[Score]:
        """See `NLAPair.score`."""
        texts = _explanations(text)
        of = asked(activation, self.pair, force=force, layer=layer, kind=kind, mean=mean)
        rows = self._server.call("POST", "/v1/score", {**of.fields, "explanations": texts})
        scores = made(lambda: Results(answers.score(row) for row in rows["rows"]))
        return scores[0] if isinstance(text, str) and of.single else scores

    def check(
        self,
        explanation: str | Sequence[str],
        activation: VectorsLike | Activations,
        text: str | Chat | Texts | None = None,
        *,
        position: int | Sequence[int] = -1,
        samples: int = 0,
        nearby: int = 0,
        dictionary: Any = None,
        steering: bool = False,
        meaning: Any = None,
        seed: int = 0,
        force: bool = False,
        layer: int | None = None,
        cancel: Event | None = None,
    ) -> Check | Results[Check]:
        """See `NLAPair.check`. `dictionary=` and `meaning=` are refused: they are models and files of the caller's."""
        checking.refuse_unsent(dictionary=dictionary, meaning=meaning)
        texts = _explanations(explanation)
        read = activation if isinstance(activation, Activations) else None
        of = asked(activation, self.pair, force=force, layer=layer)
        known = checking.known(text, position, read, len(texts))
        fields = {**of.fields, "explanations": texts, **known, "seed": seed}
        fields |= {"samples": samples, "nearby": nearby, "steering": steering}
        answer = self._server.call("POST", "/v1/check", fields, cancel=cancel)
        found = made(lambda: Results(checking.checks(texts, answer)))
        return found[0] if isinstance(explanation, str) else found

    def compare(
        self,
        a: Any,
        b: Any,
        *,
        signs: Literal["+", "±"] = "+",
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        layer: Layers | None = None,
        model_tag: str | None = None,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
    ) -> Comparison | Results[Comparison]:
        """See `NLAPair.compare`. Texts are told (`on_text`, `progress`) when all are whole, not as they grow."""
        sampling, watch = Sampling(max_new_tokens, temperature, seed=seed), Watch(progress, on_text, cancel)
        if signs not in ("+", "±"):
            raise InputError(f"signs={signs!r}: expected '+' (a − b) or '±' (b − a too).")
        said = {"layer": layer, "force": force, "kind": kind, "direction": direction, "mean": mean}
        sides = [asked(one, self.pair, model_tag=model_tag, **said) for one in (a, b)]
        body = {"a": sides[0].fields, "b": sides[1].fields, **writing(sampling), "signs": signs, "vectors_out": True}
        answer = self._server.call("POST", "/v1/compare", body, cancel=cancel)
        found = made(lambda: Results(answers.comparison(row) for row in answer["rows"]))
        answers.tell_compared(found, [len(side) for side in sides], watch)
        return found[0] if all(side.single for side in sides) else found

    def steer(
        self,
        prompt: str | Chat | Texts,
        towards: str | list[str] | VectorsLike | Vectors | Activations,
        strength: float | Sequence[float] = 0.5,
        *,
        layer: int | None = None,
        kind: Kind | None = None,
        max_new_tokens: int = 40,
        temperature: float = 0.0,
        seed: int = 0,
        cancel: Event | None = None,
        force: bool = False,
        mean: Mean = None,
    ) -> Steered | Results[Steered]:
        """See `NLAPair.steer`."""
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        said = {"layer": layer, "kind": kind, "force": force, "mean": mean}
        asks, single = steering.asks(prompt, towards, strength, self.pair, **said)
        found = Results[Steered]()
        for one in asks:
            rows = self._server.call("POST", "/v1/steer", {**one.fields, **writing(sampling)}, cancel=cancel)
            found += made(one.results, rows)
        return found[0] if single else found

    def complete(
        self,
        prompt: str | Chat,
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        on_token: OnToken | None = None,
        cancel: Event | None = None,
    ) -> Completion:
        """See `NLAPair.complete`."""
        body = {**text_fields(prompt, "prompt"), **writing(Sampling(max_new_tokens, temperature, seed=seed))}
        if on_token is None:
            return made(answers.completion, self._server.call("POST", "/v1/complete", body, cancel=cancel), prompt)

        def frames() -> Iterator[dict[str, Any]]:
            for frame in self._server.stream("/v1/complete", {**body, "stream": True}, cancel=cancel):
                refuse(frame)
                yield frame

        return answers.completed(frames(), prompt, on_token)

    # --- how ----------------------------------------------------------------------------------------------------------
    def _written(self, path: str, of: Asked, fields: dict[str, Any], watch: Watch, make: Any, **costs: int) -> Any:
        return written(self._server, path, of, fields, watch, make, pair=self.pair, **costs)

    def _read_sets(self, text: Any, positions: Any, layer: Layers | None) -> Activations | list[Activations]:
        """Of each text what stands at its positions; `(a, b)` is a slice."""
        texts, single = several_texts(text)
        reads = []
        for one, at in zip(texts, layer_of_each(layer, len(texts), "texts"), strict=True):
            where: Any = positions
            if isinstance(positions, tuple):
                tokens = self._server.call("POST", "/v1/tokenize", text_fields(one))
                where = slice_of(positions, made(lambda tokens=tokens: int(tokens["prompt_length"])))
            reads.append(self.extract(one, where, at))
        return reads[0] if single else reads


def _explanations(text: str | Sequence[str]) -> list[str]:
    """Explanations as a list.

    Raises:
        InputError, EmptyBatchError, TextError.
    """
    check_text_input(text, "explanation")
    if not isinstance(text, (str, list, tuple)):
        raise InputError(f"Expected an explanation or a list of them, got a {type(text).__name__}.")
    if not isinstance(text, str) and not text:
        raise EmptyBatchError("The list of explanations is empty; expected at least one.")
    return [text] if isinstance(text, str) else list(text)
