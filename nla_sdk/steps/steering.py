"""`NLAPair.steer` and `complete`: what the source writes, with a direction in its stream and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event

import torch

from ..calls.held import model_types, refuse_foreign
from ..calls.inputs import Chat, Mean, OnToken, Texts
from ..calls.rows import spoken
from ..calls.steered import Completion, Steered
from ..calls.steering import Known, complete, steer
from ..errors import MissingMeanError
from ..halves.measured import statistics_at
from ..io.origins import check_origin
from ..model.injection import VectorsLike
from ..model.running.watching import Watch
from ..model.statistics.means import ActivationMean
from ..results import Activations, Results
from ..sampling import Sampling
from ..vectors.kinds import Kind, Vectors
from .steps import Steps


class Steering(Steps):
    """See `NLAPair`."""

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
        """Have the source model write on from a prompt, with a direction added to its residual stream and without.

        What `strength` × a vector is added to is the output of block `layer`, at every token but BOS, of the prompt and
        of what is written. The vector is, with a = the typical length of v − μ at that layer (the contract's
        `centred_norm`, else measured), μ the mean activation:

        - of a text a·u, u the direction of `reconstruct(text)` − μ: a strength of 1 puts in what the text says, as
          strongly as an activation of that layer would;
        - of a direction d a·d/‖d‖; of an activation v a·(v − μ)/‖v − μ‖; of a difference itself: its length counts.

        Args:
            prompt: a text, a chat, or a list of them.
            towards: a text, or vectors [d_model] or [n, d_model].
            strength: a number, or several; below 0 the other way, 0 nothing. The demo model goes on in whole sentences
                at 0.5 and repeats itself at 2 (docs/vectors.md).
            layer: default: of Vectors and Activations their own, else the pair's.
            kind: of the vectors, where they do not say it or wrongly; bare ones are directions.
            max_new_tokens, temperature, seed: of what is written; temperature 0 is greedy.
            cancel: an event; once it is set the call raises CancelledCallError.
            force: take vectors of another model, with a warning.
            mean: μ and a, as `nla mean` writes them, where the pair does not know its own.
        Returns:
            A Steered; a list (Results) where prompts, directions or strengths are several: as many of each, or one.
        Raises:
            MissingHalfError: a text, and the pair has no AR. LayerError: no such block.
            MissingMeanError: μ or a is needed, and nobody knows it.
            ForeignActivationError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, InputError,
            EmptyBatchError, TextError. NonFiniteOutputError: so strong that the model gives no numbers.
        Example:
            >>> pair.steer("My favourite thing is", "Prose about fish, sea, whales.").steered  # doctest: +SKIP
            ' to be able to see the sea. I love to fish, …'
        """
        source = self.source
        if isinstance(towards, Vectors):
            refuse_foreign(
                replace(towards, layer=self.layer), self.origin, model_types(source.model.config), force=force
            )
        elif isinstance(towards, Activations):
            said = {name: getattr(towards, name) for name in ("model", "revision", "precision")}
            check_origin([("all rows", said)], self.origin, "The Activations", force=force)

        return steer(
            prompt,
            towards,
            strength,
            layer=layer,
            kind=kind,
            sampling=Sampling(max_new_tokens, temperature, seed=seed),
            source=source,
            adapter=self.source_adapter,
            known=self._known(mean, force),
            watch=Watch(cancel=cancel),
        )

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
        """Have the source model write on from a prompt, as `steer` does beside what it writes with a vector.

        Args:
            prompt: a text or a chat.
            max_new_tokens: most tokens.
            temperature: 0 is greedy.
            seed: of the sampling.
            on_token: called with what each token adds to the text and its id, as soon as it is written. What it raises
                ends the call.
            cancel: an event; once it is set the call raises CancelledCallError.
        Returns:
            A Completion, with .text .tokens .ids .finished.
        Raises:
            InputError, EmptyBatchError, TextError, CancelledCallError.
            NonFiniteOutputError: the source gives NaN or infinity.
        Example:
            >>> pair.complete("The cat sat on the", max_new_tokens=8).text  # doctest: +SKIP
            ' mat, and it was a very nice'
        """
        return complete(
            prompt,
            sampling=Sampling(max_new_tokens, temperature, seed=seed),
            source=self.source,
            adapter=self.source_adapter,
            on_token=on_token,
            watch=Watch(cancel=cancel),
        )

    def _known(self, mean: Mean = None, force: bool = False) -> Known:
        """What steering is to know of the source's activations."""
        given = mean if mean is None or isinstance(mean, ActivationMean) else ActivationMean.load(mean)
        of_pair = self._mean_of(given, force)

        def mean_of(layer: int | None) -> ActivationMean:
            """Of a layer that the pair does not read too: measured on the base."""
            at = self.layer if layer is None else layer
            reads = any(at == half.contract.layer or spoken(at, half.contract) is not None for half in self._halves)
            if reads or (given is not None and given.layer == at):
                return of_pair(layer)
            if (measured := statistics_at(self.base, at)) is None:
                raise MissingMeanError(
                    f"How long directions are at layer {at} is not known: the pair reads layer {self.layer}, and its "
                    "base is not in memory, or large and on a CPU. Measure it (nla mean REF --layer … -o "
                    "mean.safetensors) and pass mean='mean.safetensors' (--mean); a difference needs none."
                )
            return measured.as_mean()

        def rest_of(texts: Sequence[str], layer: int | None) -> torch.Tensor:
            reconstructor = self._need(self.reconstructor, "steering towards a text", "AR")
            of = None if layer is None else spoken(layer, reconstructor.contract)
            return self._centred(self._reconstructed(texts, [of] * len(texts)), [of] * len(texts), mean_of)

        return Known(self.d_model, self.layer, rest_of, mean_of)
