"""AV: vectors → text. The activation is put in at a marker, as the contract says; the model writes what it reads.

Rows with one prompt run together, so nothing is ever padded, and everything before the first marker is computed once
and its KV cache reused for every such row and later call. Rows that have finished leave the batch. A sampled row draws
from a generator of its own, keyed on (seed, sample, the vector's bytes): no result depends on the batch a row was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..contract import Contract
from ..contract.prompts.prompt import Prompt
from ..errors import InjectionError, InputError, NonFiniteOutputError
from ..results import Explanation
from ..sampling import GREEDY, Sampling
from .backbone import Backbone
from .decoding.batches import Fields, Inputs, batches, numbers_of_vectors, of_each_row
from .decoding.drawing import end_token_ids, row_generator
from .decoding.prefixes import Prefixes
from .decoding.rows import Call
from .decoding.sharing import Sharing
from .decoding.stepping import decoder_of, steps_alike
from .faults import beyond, first_rows
from .injection import Positions, inject, markers_of, normed, refuse_lost, refuse_unseen
from .output import Stop, parse_output, text_so_far
from .running.watching import UNWATCHED, Watch
from .weights.loading import text_config
from .weights.transforms import Transform

if TYPE_CHECKING:
    from .fast.blocks import Blocks
    from .fast.head import Head

ROWS_PER_BATCH = 64
DEFAULT_NEW_TOKENS = 120
Result = TypeVar("Result")


class Verbalizer:
    """The AV half of a pair.

    Args:
        backbone: the base (with the AV's adapter) or the AV's own full checkpoint.
        adapter: the adapter's name on the backbone; None for a full checkpoint.
        contract: the AV's, verified.
        transform: what is done to vectors first; None: nothing.
        ref: what messages call it.
        fast: steps and logits from the model's weights where they are known to be the same; False: as transformers has
            them.
    Attributes:
        vocabulary: int64, ascending: the tokens it may write (`restrict`); None: all.
    Raises:
        LayerError, InjectionError: the block after which vectors go in is not there, or nothing would see them.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        contract: Contract,
        transform: Transform | None = None,
        ref: str | None = None,
        fast: bool = True,
    ) -> None:
        self.backbone, self.fast = backbone, fast
        self.ref = ref or f"the AV on {backbone.ref}"
        self.adapter = adapter
        self.contract = contract
        assert contract.injection is not None, "no AV is read without it"
        self.injection = contract.injection
        shared = getattr(text_config(backbone.model.config), "num_kv_shared_layers", None) or 0
        refuse_unseen(self.injection, self.ref, backbone.ref, backbone.num_blocks, shared)
        self.transform = transform or Transform(backbone.d_model)
        self.stop = Stop.of(contract)
        self.end_ids = end_token_ids(backbone) | self.stop.tokens
        self.prefixes = Prefixes(backbone)
        self.sharing = Sharing()
        self._shown: set = set()  # adapters as they were then, see `Backbone.active`, and numbers of markers
        self.vocabulary: torch.Tensor | None = None

    @property
    def mean(self) -> torch.Tensor | None:
        """float32 [d], the activation mean of a centred pair; None otherwise."""
        return self.transform.mean()

    @cached_property
    def default(self) -> Prompt:
        """The prompt where nothing is said of its fields. Raises as `prompt` does: an oracle may have no question."""
        return self.prompt()

    @property
    def prompt_ids(self) -> list[int]:
        """Token ids of the default prompt."""
        return list(self.default.ids)

    @property
    def marker(self) -> int:
        """Position of the first marker in it."""
        return self.default.marker

    def prompt(self, markers: int | None = None, fields: Mapping[str, str] | None = None) -> Prompt:
        """The prompt for so many vectors, with these texts in its fields and defaults in the others.

        Raises:
            as `Contract.prompt`; InjectionError: no token after the markers would see what goes in.
        """
        given = dict(fields or {})
        said = {name: given.get(name) for name in ("question", "model_tag")}
        defaults = self.contract.field_values(num_blocks=self.backbone.num_blocks, **said)
        prompt = self.contract.prompt(self.backbone.tokenizer, markers=markers, fields=defaults | given)
        if self.injection.block == self.backbone.num_blocks - 1 and prompt.positions[-1] < len(prompt.ids) - 1:
            raise InjectionError(
                f"{self.ref} puts vectors in after the last block of {self.backbone.ref}, and its prompt goes on after "
                "the marker: no other token would see them. Correct `injection.block`."
            )
        return prompt

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
            self.vocabulary = None
            return
        known = self.writable(tokens)
        _ = self.backbone.cap  # found or refused now, not at the first token
        self.vocabulary = torch.tensor(known, device=self.backbone.device)

    def writable(self, tokens: Iterable[int]) -> list[int]:
        """These tokens and the ones that end an output, in order.

        Raises:
            InputError: a token is not of the vocabulary, or there is none.
        """
        known = sorted({int(token) for token in tokens} | self.end_ids)
        size = self.backbone.vocabulary_size
        if len(known) <= len(self.end_ids) or not 0 <= known[0] <= known[-1] < size:
            raise InputError(f"Cannot write {len(known)} tokens from {known[:1]} on: expected ids below {size:,}.")
        return known

    def prepare(self, vectors: Inputs, layer: int | Sequence[int] | None = None, *, directions: bool = False) -> Any:
        """Raw activations → what is injected: transformed as the contract says, then with its norm and coefficient.

        Args:
            vectors: float32 [n, d_model], [n, markers, d_model], or one [markers, d_model] a row.
            layer: the block they were read from, for all or for each row; None: the contract's, of each marker its own.
            directions: they have no mean in them, see `Transform.turn`.
        Returns:
            The same shape. Of norm `match`, vectors of norm 1 times the coefficient.
        Raises:
            ZeroActivationError: a vector equals the activation mean, so nothing is left of it.
        """
        if directions:
            if not isinstance(vectors, torch.Tensor):
                return [self.prepare(row, directions=True) for row in vectors]
            return normed(self.transform.turn(vectors), self.injection)
        flat = isinstance(vectors, torch.Tensor) and vectors.ndim == 2
        if flat or (isinstance(vectors, torch.Tensor) and not isinstance(layer, Sequence)):
            layers = None if flat or layer is not None else self.injection.layers
            return normed(self.transform.apply(vectors, layers or layer), self.injection)
        layers = layer if isinstance(layer, Sequence) else [layer] * len(vectors)
        rows = [self.prepare(row[None], at)[0] for row, at in zip(vectors, layers, strict=True)]
        return torch.stack(rows) if isinstance(vectors, torch.Tensor) else rows

    def __call__(
        self,
        vectors: Inputs,
        sampling: Sampling = GREEDY,
        *,
        fields: Fields = None,
        layer: int | Sequence[int] | None = None,
        directions: bool = False,
        watch: Watch = UNWATCHED,
    ) -> list[Explanation]:
        """Explain vectors.

        Args:
            vectors: raw float32 [rows, d_model]; [rows, markers, d_model] where the contract has several markers; where
                it has `any` number, one [k, d_model] a row, k each its own.
            sampling: how to write.
            fields: texts of the template's fields (`Contract.field_values`), one mapping for all rows or one for each.
            layer: the block that the vectors were read from, for all or for each row, where a transform depends on it.
            directions: see `prepare`.
            watch: told of explanations by their number in what is returned; see `Watch`.
        Returns:
            rows × n explanations, the samples of one row together.
        Raises:
            ZeroActivationError: see `prepare`.
            UnseenValueError, InputError, MarkerError: see `prompt`.
            InjectionError, NonFiniteOutputError, CancelledCallError: see `injected` and `tokens`.
        Example:
            >>> oracle([tiles, one_tile], fields=[{"question": q} for q in questions])  # doctest: +SKIP
        """
        prompts = self._prompts(vectors, fields)
        generators = None
        if sampling.temperature > 0:
            generators = [
                row_generator(vector, sampling.seed, sample) for vector in vectors for sample in range(sampling.n)
            ]
        inputs = self.prepare(vectors, layer, directions=directions)
        if generators is not None:
            prompts = [prompt for prompt in prompts for _ in range(sampling.n)]
            if isinstance(inputs, torch.Tensor):
                inputs = inputs.repeat_interleave(sampling.n, dim=0)
            else:
                inputs = [row for row in inputs for _ in range(sampling.n)]
        texts_each = sampling.n if generators is None else 1  # greedy samples of one vector are one text
        try:
            outputs = self.write(
                inputs,
                sampling,
                prompts=prompts,
                generators=generators,
                watch=watch.numbered(lambda row: row, texts_each),
            )
        except NonFiniteOutputError as error:
            raise error.numbered(lambda row: row * texts_each // sampling.n) from None
        return [explanation for explanation in outputs for _ in range(texts_each)]

    def _prompts(self, vectors: Inputs, fields: Fields = None) -> list[Prompt]:
        """The prompt of each row, each made once."""
        made: dict[object, Prompt] = {}
        prompts = []
        for markers, texts in zip(numbers_of_vectors(vectors), of_each_row(fields, len(vectors)), strict=True):
            key = (markers, tuple(sorted(texts.items())))
            if key not in made:
                usual = not texts and markers == len(self.default.positions)
                made[key] = self.default if usual else self.prompt(markers, texts)
            prompts.append(made[key])
        return prompts

    def write(
        self,
        inputs: Inputs | None,
        sampling: Sampling = GREEDY,
        *,
        prompts: Sequence[Prompt] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        watch: Watch = UNWATCHED,
    ) -> list[Explanation]:
        """Write from what is injected, as it is: for controls that are no activations.

        Args:
            inputs: [rows, d_model], [rows, markers, d_model] or one [markers, d_model] a row, as `prepare` gives them;
                None: nothing is put in, and the model sees the marker itself (one output).
            sampling: how to write; its `n` and `seed` have been used up: by the rows and by the generators.
            prompts: of each row; None: the default one.
            generators: one per row, for a temperature above 0.
        Returns:
            One explanation per row.
        Raises:
            InputError: a temperature above 0 and no generators.
        """
        written = self.tokens(inputs, sampling, prompts=prompts, generators=generators, watch=watch)
        return [self.parse(tokens, finished) for tokens, finished in written]

    def parse(self, tokens: Sequence[int], finished: bool) -> Explanation:
        """The explanation in tokens that were written, as the contract's `output` says; see `parse_output`."""
        raw = self.backbone.tokenizer.decode(tokens, skip_special_tokens=True)
        return parse_output(raw, finished, len(tokens), form=self.contract.output_form, stop=self.stop)

    def so_far(self, tokens: Sequence[int]) -> str:
        """The explanation in tokens of an output that goes on; see `text_so_far`."""
        raw = self.backbone.tokenizer.decode(tokens, skip_special_tokens=True)
        return text_so_far(raw, form=self.contract.output_form, stop=self.stop)

    def tokens(
        self,
        inputs: Inputs | None,
        sampling: Sampling = GREEDY,
        *,
        prompts: Sequence[Prompt] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        watch: Watch = UNWATCHED,
    ) -> list[tuple[list[int], bool]]:
        """Like `write`, but the tokens written for each row (without an end token) and whether it came to an end.

        Rows of calls from several threads are written in one batch, each as it is alone.

        Raises:
            NonFiniteOutputError: the model gives NaN or infinity in place of logits; names the rows and the cause.
            CancelledCallError: `watch` has called it off.
        """
        call = self._written(inputs, sampling, prompts, generators, watch)
        return [call.written[row] for row in sorted(call.written)]

    def draws(
        self, inputs: Inputs, sampling: Sampling, generators: Sequence[torch.Generator]
    ) -> list[tuple[list[int], bool, dict[int, list[int]]]]:
        """Like `tokens`, with what was drawn and not taken before each written token, in its order, by that token's
        number: where the contract forbids repeats, it's drawn until one is taken (`output.no_repeats`)."""
        call = self._written(inputs, sampling, None, generators, UNWATCHED)
        return [(*call.written[row], call.refused.get(row, {})) for row in sorted(call.written)]

    def _written(
        self,
        inputs: Inputs | None,
        sampling: Sampling,
        prompts: Sequence[Prompt] | None,
        generators: Sequence[torch.Generator] | None,
        watch: Watch,
    ) -> Call:
        """A call that is over."""
        if sampling.temperature > 0 and generators is None:
            raise InputError(f"temperature={sampling.temperature} needs a generator for each row; there are none.")
        if inputs is None:
            parts = [([0], prompts[0] if prompts else self.default, None)]
        else:
            parts = list(batches(inputs, prompts or self._prompts(inputs), ROWS_PER_BATCH))
        limit = sampling.max_new_tokens or self.contract.max_new_tokens or DEFAULT_NEW_TOKENS
        call = Call(self, parts, sampling, limit=limit, places=ROWS_PER_BATCH, generators=generators, watch=watch)
        self.sharing.write(self, call)
        return call

    def reset(self) -> None:
        """Forget the prompt's KV cache: to be called when the adapter's weights have changed."""
        self.prefixes.clear()
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

    # --- a step: what `Writing` asks for; the caller holds the backbone -------------------------------------------
    def forward(self, tokens: torch.Tensor, cache: Any, *, logits: bool) -> torch.Tensor:
        """The model's own run of int64 [rows, n] on a cache: the last token's states [rows, d], or logits."""
        if logits:
            model = self.backbone.model
            return model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        states = decoder_of(self.backbone)(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        # Of several tokens the last are no one piece of memory, and a product with such a tensor is made row by row.
        return states[:, -1].contiguous()

    def fast_head(self) -> Head | None:
        """The lm_head of what may be written, where its products are known; None: only the model's own call is."""
        return self.backbone.fast_head(self.vocabulary) if self.fast else None

    def steps_alike(self, blocks: Blocks, prompt: Prompt) -> bool:
        """Whether steps from weights are the model's own, with the adapter that is on: looked at once."""
        key = "steps", self.backbone.active
        if key not in self.backbone.alike:
            self.backbone.alike[key] = steps_alike(self.backbone, blocks, prompt.ids)
        return self.backbone.alike[key]

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """[n, vocabulary] logits over what may be written, differentiable, from states [n, d] after the final norm."""
        return self.backbone.logits(states, self.vocabulary)

    def places_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where token ids stand among what may be written, to index logits with; −1: nowhere."""
        if self.vocabulary is None:
            return tokens
        at = torch.searchsorted(self.vocabulary, tokens).clamp(max=len(self.vocabulary) - 1)
        return torch.where(self.vocabulary[at] == tokens, at, -1)
