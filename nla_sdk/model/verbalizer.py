"""AV: vectors → text. One marker token's embedding is overwritten with the activation; the model writes what it reads.

All AV prompts are the same tokens, so nothing is ever padded, and everything before the marker is computed once and its
KV cache reused for every row and every later call. Rows that have finished leave the batch. A sampled row draws from a
generator of its own, keyed on (seed, sample, the vector's bytes), so no result depends on the batch a row was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch

from ..contract import Contract
from ..contract.injection import Injection
from ..errors import InjectionError, InputError, LayerError, NonFiniteOutputError, ZeroActivationError
from ..results import Explanation
from ..sampling import GREEDY, Sampling
from .backbone import Backbone
from .decoding.drawing import draw, row_generator
from .decoding.prefixes import Prefixes
from .faults import beyond, first_rows, no_numbers
from .injection import Positions, inject, markers_of, normed, refuse_lost
from .output import Stop, parse_output
from .weights.loading import text_config

ROWS_PER_BATCH = 64
DEFAULT_NEW_TOKENS = 120
Result = TypeVar("Result")


class Verbalizer:
    """The AV half of a pair.

    Args:
        backbone: the base (with the AV's adapter) or the AV's own full checkpoint.
        adapter: the adapter's name on the backbone; None for a full checkpoint.
        contract: the AV's, verified.
        mean: float32 [d], the activation mean of a centred pair; None otherwise.
        ref: what messages call it.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        contract: Contract,
        mean: torch.Tensor | None = None,
        ref: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.ref = ref or f"the AV on {backbone.ref}"
        self.adapter = adapter
        self.contract = contract
        self.injection = self._possible(contract)
        self.mean = mean
        self.prompt_ids = list(contract.av_prompt_ids(backbone.tokenizer))
        self.marker = contract.find_marker(self.prompt_ids)
        self.stop = Stop.of(contract)
        self.end_ids = end_token_ids(backbone) | self.stop.tokens
        self._prefixes = Prefixes(backbone)
        self._shown: set = set()  # adapters as they were then, see `Backbone.active`, and numbers of markers
        self._vocabulary: torch.Tensor | None = None

    def _possible(self, contract: Contract) -> Injection:
        """How vectors are put in, once it is known that what comes after can see them."""
        how, backbone = contract.injection, self.backbone
        assert how is not None, "no AV is read without it"
        if how.block is None:
            return how
        if how.block >= backbone.num_blocks:
            raise LayerError(
                f"{self.ref} puts vectors in after block {how.block}; {backbone.ref} has blocks 0 to "
                f"{backbone.num_blocks - 1}. Correct `injection.block`, or load the base it was trained on."
            )
        shared = getattr(text_config(backbone.model.config), "num_kv_shared_layers", None) or 0
        if shared and how.block >= (last := backbone.num_blocks - shared - 1):
            raise InjectionError(
                f"{self.ref} puts vectors in after block {how.block}; in {backbone.ref} the blocks after {last} take "
                "their keys and values from earlier ones, so no other token would see it. Correct `injection.block`."
            )
        return how

    def restrict(self, tokens: Iterable[int] | None) -> None:
        """Write these tokens (and the ones that end an output) only; None: any token again.

        The lm_head over a vocabulary of 262,144 is most of what a token costs a small base on a CPU. What is written
        changes where the AV wants another token: with the tokens of its training labels, 98 of 128 explanations of the
        bundled AV were the same, the others differed by a word or two that no label holds.

        Example:
            >>> pair.verbalizer.restrict(token for ids in pair_labels for token in ids)  # doctest: +SKIP
        Raises:
            InputError: a token is not of the vocabulary, or there is none.
            LoadError: the model makes its logits in a way that is not known here (`Backbone.cap`).
        """
        if tokens is None:
            self._vocabulary = None
            return
        known = sorted({int(token) for token in tokens} | self.end_ids)
        size = self.backbone.vocabulary_size
        if len(known) <= len(self.end_ids) or not 0 <= known[0] <= known[-1] < size:
            raise InputError(f"Cannot write {len(known)} tokens from {known[:1]} on: expected ids below {size:,}.")
        _ = self.backbone.cap  # found or refused now, not at the first token
        self._vocabulary = torch.tensor(known, device=self.backbone.device)

    def prepare(self, vectors: torch.Tensor) -> torch.Tensor:
        """Raw activations [n, d] → what is injected: centred where the contract says so, then scaled.

        Raises:
            ZeroActivationError: a vector equals the activation mean, so nothing is left of it.
        """
        if self.mean is not None:
            vectors = vectors - self.mean.to(vectors.device)
            if (nothing := (vectors == 0).all(dim=-1)).any():
                raise ZeroActivationError(
                    f"The activation in row {int(nothing.nonzero()[0])} equals the pair's activation mean, which is "
                    "subtracted first: no direction is left to explain."
                )
        return normed(vectors, self.injection)

    def __call__(
        self,
        vectors: torch.Tensor,
        sampling: Sampling = GREEDY,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Explanation]:
        """Explain vectors.

        Args:
            vectors: raw float32 [rows, d_model].
            sampling: how to write.
            progress: called with the number of explanations just finished.
        Returns:
            rows × n explanations, the samples of one vector together.
        Raises:
            ZeroActivationError: see `prepare`.
            InjectionError, NonFiniteOutputError: see `injected` and `tokens`.
        """
        generators = None
        if sampling.temperature > 0:
            generators = [
                row_generator(vector, sampling.seed, sample) for vector in vectors for sample in range(sampling.n)
            ]
        inputs = self.prepare(vectors)
        if generators is not None:
            inputs = inputs.repeat_interleave(sampling.n, dim=0)
        texts_each = sampling.n if generators is None else 1  # greedy samples of one vector are one text
        try:
            outputs = self.write(
                inputs,
                sampling,
                generators=generators,
                progress=progress and (lambda done: progress(done * texts_each)),
            )
        except NonFiniteOutputError as error:
            raise error.numbered(lambda row: row * texts_each // sampling.n) from None
        return [explanation for explanation in outputs for _ in range(texts_each)]

    def write(
        self,
        inputs: torch.Tensor | None,
        sampling: Sampling = GREEDY,
        *,
        generators: Sequence[torch.Generator] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Explanation]:
        """Write from what is injected, as it is: for controls that are no activations.

        Args:
            inputs: [rows, d_model], what takes the place of the marker's embedding; None: nothing does, and the model
                sees the marker itself (one output).
            sampling: how to write; its `n` and `seed` have been used up: by the rows and by the generators.
            generators: one per row, for a temperature above 0.
        Returns:
            One explanation per row.
        Raises:
            InputError: a temperature above 0 and no generators.
        """
        return [
            self.parse(tokens, finished)
            for tokens, finished in self.tokens(inputs, sampling, generators=generators, progress=progress)
        ]

    def parse(self, tokens: Sequence[int], finished: bool) -> Explanation:
        """The explanation in tokens that were written, as the contract's `output` says; see `parse_output`."""
        raw = self.backbone.tokenizer.decode(tokens, skip_special_tokens=True)
        return parse_output(raw, finished, len(tokens), form=self.contract.output_form, stop=self.stop)

    def tokens(
        self,
        inputs: torch.Tensor | None,
        sampling: Sampling = GREEDY,
        *,
        generators: Sequence[torch.Generator] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[tuple[list[int], bool]]:
        """Like `write`, but the tokens written for each row (without an end token) and whether it came to an end.

        Raises:
            NonFiniteOutputError: the model gives NaN or infinity in place of logits; names the rows and the cause.
        """
        if sampling.temperature > 0 and generators is None:
            raise InputError(f"temperature={sampling.temperature} needs a generator for each row; there are none.")
        outputs: list[tuple[list[int], bool]] = []
        parts = [None] if inputs is None else inputs.split(ROWS_PER_BATCH)
        with torch.no_grad(), self.backbone.using(self.adapter):
            for number, rows in enumerate(parts):
                first = number * ROWS_PER_BATCH
                draw = None if generators is None else generators[first : first + ROWS_PER_BATCH]
                try:
                    outputs += self._write(rows, sampling, draw)
                except NonFiniteOutputError as error:
                    raise error.numbered(lambda row, first=first: first + row) from None
                if progress is not None:
                    progress(1 if rows is None else len(rows))
        return outputs

    def reset(self) -> None:
        """Forget the prompt's KV cache: to be called when the adapter's weights have changed."""
        self._prefixes.clear()
        self._shown.clear()

    def injected(self, forward: Callable[[], Result], positions: Positions, inputs: torch.Tensor) -> Result:
        """`forward()`, a run of the prompt, with `inputs` put in at its markers, as the contract says.

        The first time with an adapter (and after `reset`), and with as many markers, they are shown to reach the model:
        two vectors a marker are injected and must come to the module after the site, where the run ends each time. The
        caller holds the backbone, and `forward` may run several times.

        Args:
            positions: of the markers among the tokens that `forward` runs: one int, several in each row, or int64
                [rows] or [rows, markers].
            inputs: [rows, d_model] or [rows, markers, d_model], what `prepare` gives.
        Raises:
            InjectionError: they do not. NonFiniteOutputError: `inputs` are no numbers in the model's dtype.
        """
        backbone, how, what = self.backbone, self.injection, f"The activation for {self.ref}"
        inputs = inputs.to(backbone.device)
        if lost := first_rows(~inputs.to(backbone.dtype).isfinite().flatten(1).all(dim=-1)):
            raise beyond(f"{what}, scaled as its contract says,", lost, backbone.dtype)
        following = 0 if how.block is None else how.block + 1

        def enter(vectors: torch.Tensor | None) -> torch.Tensor:
            if vectors is None:
                return backbone.entering(forward, following)
            with inject(backbone.site(how), positions, vectors, how=how, what=what):
                return backbone.entering(forward, following)

        if (shown := (backbone.active, markers_of(positions))) not in self._shown:
            seer = "the final norm" if following == backbone.num_blocks else f"block {following}"
            seer = seer if following else "the first block"
            refuse_lost(enter, backbone.d_model, len(inputs), positions, what, how, seer)
            self._shown.add(shown)
        with inject(backbone.site(how), positions, inputs, how=how, what=what):
            return forward()

    def _write(
        self,
        inputs: torch.Tensor | None,
        sampling: Sampling,
        generators: Sequence[torch.Generator] | None,
    ) -> list[tuple[list[int], bool]]:
        """Tokens written for each row, and whether it came to an end."""
        backbone, ignore_end = self.backbone, sampling.ignore_end
        limit = sampling.max_new_tokens or self.contract.max_new_tokens or DEFAULT_NEW_TOKENS
        rows = 1 if inputs is None else len(inputs)
        fresh = self._prefixes.of(self.prompt_ids[: self.marker], rows)
        tail = torch.tensor([self.prompt_ids[self.marker :]], device=backbone.device).expand(rows, -1)
        written: list[list[int]] = [[] for _ in range(rows)]
        finished = [False] * rows
        alive = list(range(rows))

        def prompt() -> tuple[torch.Tensor, Any]:
            cache = fresh()  # a run that was ended early has added to its own
            return self._logits(tail, cache), cache

        logits, cache = prompt() if inputs is None else self.injected(prompt, 0, inputs)
        for step in range(limit):
            chosen = draw(logits, sampling.temperature, generators, alive)
            # NaN is the largest to argmax and all there is to softmax, so the number chosen tells of the whole row.
            if lost := first_rows(~logits.gather(1, chosen[:, None]).isfinite()[:, 0]):
                rows_lost = [alive[at] for at in lost]
                row = rows_lost[0]
                raise no_numbers(
                    f"What {self.ref} computes for its {'first' if step == 0 else f'{step + 1}.'} token",
                    rows_lost,
                    backbone,
                    [*self.prompt_ids, *written[row]],
                    injected=None if inputs is None else (self.marker, inputs[row], self.injection),
                )
            if self._vocabulary is not None:
                chosen = self._vocabulary[chosen]
            going = []
            for at, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
                if token in self.end_ids and not ignore_end:
                    finished[row] = True
                    continue
                written[row].append(token)
                if not ignore_end and self.stop.closes(written[row], backbone.tokenizer.decode):
                    finished[row] = True
                else:
                    going.append(at)
            if not going or step == limit - 1:
                break
            if len(going) < len(alive):
                keep = torch.tensor(going, device=backbone.device)
                cache.batch_select_indices(keep)
                chosen = chosen[keep]
                alive = [alive[at] for at in going]
            logits = self._logits(chosen[:, None], cache)
        return list(zip(written, finished, strict=True))

    def _logits(self, tokens: torch.Tensor, cache) -> torch.Tensor:
        """[rows, vocabulary] after `tokens`; of the restricted vocabulary where there is one."""
        model = self.backbone.model
        if self._vocabulary is None:
            return model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        decoder = getattr(model, model.base_model_prefix)
        return self.logits_of(decoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1])

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """[n, vocabulary] logits over what may be written, differentiable, from states [n, d] after the final norm."""
        return self.backbone.logits(states, self._vocabulary)

    def places_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where token ids stand among what may be written, to index logits with; −1: nowhere."""
        if self._vocabulary is None:
            return tokens
        at = torch.searchsorted(self._vocabulary, tokens).clamp(max=len(self._vocabulary) - 1)
        return torch.where(self._vocabulary[at] == tokens, at, -1)


def end_token_ids(backbone: Backbone) -> frozenset[int]:
    """Tokens that end an output: the tokenizer's and the generation config's EOS."""
    ids: set[int] = set()
    for source in (backbone.tokenizer, backbone.model.generation_config, backbone.model.config.get_text_config()):
        found = getattr(source, "eos_token_id", None)
        ids.update(found if isinstance(found, (list, tuple)) else [] if found is None else [found])
    return frozenset(ids)
