"""The AV half of a pair whose texts a server writes: prompts, injection and the reading of outputs stay here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from ..contract import Contract
from ..contract.prompts.prompt import Prompt
from ..errors import InputError, MismatchedHalvesError, NLAError
from ..model.decoding.batches import Inputs
from ..model.injection import placed
from ..model.running.watching import UNWATCHED, Watch
from ..model.verbalizer import DEFAULT_NEW_TOKENS, Verbalizer
from ..model.weights.transforms import Transform
from ..sampling import GREEDY, Sampling
from .checks import check_length, hold_to_local, probes, refuse, refuse_blind, refuse_other_model
from .connection import Connection, EngineError
from .embeddings import Described, described
from .finding import find_server
from .server import Order, Server

if TYPE_CHECKING:
    from ..halves.half import Half
    from ..halves.memory.bases import Base

Embed = Callable[[Sequence[int]], torch.Tensor]
"""Token ids → float32 [n, d_model], as they enter the first block."""
_HELD = 4  # rows of the first batch that are held against the AV in memory
_HELD_TOKENS = 32


class ServedVerbalizer(Verbalizer):
    """A `Verbalizer` that writes by a server's tokens.

    Args:
        backbone: the AV's model, in memory or `Described`.
        adapter, contract, transform, ref: of the AV, see `Verbalizer`.
        embed: see `Embed`.
        server: holds the exported AV.
        local: the same AV in memory, to hold the server's first tokens against; None: there is none.
    Raises:
        ServedModelError: the server's tokens are not the AV's.
    """

    def __init__(
        self,
        backbone: Any,
        adapter: str | None,
        contract: Contract,
        transform: Transform,
        ref: str,
        *,
        embed: Embed,
        server: Server,
        local: Verbalizer | None = None,
    ) -> None:
        super().__init__(backbone, adapter, contract, transform, ref)
        self.server, self.local, self._embed = server, local, embed
        self._allowed: tuple[int, ...] | None = None
        self._seen, self._seeing = False, Lock()
        try:
            usual = self.default
        except NLAError:  # an oracle without a question of its own
            usual = None
        refuse_other_model(server, contract, backbone.tokenizer, usual, ref)

    @property
    def running(self) -> str:
        """Where its texts come from, for people."""
        return f"texts by {self.server}"

    def restrict(self, tokens: Iterable[int] | None) -> None:
        """See `Verbalizer.restrict`; only vLLM takes a list of tokens."""
        if tokens is None:
            self._allowed = None
            return
        self.server.refuse_vocabulary()
        self._allowed = tuple(self.writable(tokens))

    def tokens(
        self,
        inputs: Inputs | None,
        sampling: Sampling = GREEDY,
        *,
        prompts: Sequence[Prompt] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        watch: Watch = UNWATCHED,
    ) -> list[tuple[list[int], bool]]:
        """See `Verbalizer.tokens`. `watch` is told of a text once it is whole.

        Greedy texts are this AV's, as far as the server's arithmetic gives the same likeliest tokens. A sampled row is
        drawn by the server, from a seed that depends on the vector, the sample and the seed only; it is another text
        than the one that is drawn here.

        Raises:
            EngineError: the server cannot be had, or gives no tokens. ServedModelError: it holds another model.
            CancelledCallError: `watch` has called it off.
        """
        if sampling.temperature > 0 and generators is None:
            raise InputError(f"temperature={sampling.temperature} needs a generator for each row; there are none.")
        if inputs is None:
            rows: list[tuple[Prompt, torch.Tensor | None]] = [(prompts[0] if prompts else self.default, None)]
        else:
            rows = list(zip(prompts or self._prompts(inputs), inputs, strict=True))
            self._look(rows, sampling, watch)
        embedded = {ids: self._embed(ids) for ids in {prompt.ids for prompt, _ in rows}}  # mostly one for all rows
        orders = [self._order(prompt, embedded[prompt.ids], vectors, sampling) for prompt, vectors in rows]
        if sampling.temperature > 0 and generators is not None:
            seeds = [generator.initial_seed() for generator in generators]
            orders = [replace(order, seed=seed) for order, seed in zip(orders, seeds, strict=True)]
        made: dict[int, tuple[list[int], bool]] = {}
        for row, written, finished in self._written_there(orders, watch):
            made[row] = written, finished
            if watch.progress is not None:
                watch.progress(1)
            if watch.on_text is not None:
                watch.on_text(row, str(self.parse(written, finished)))
        return [made[row] for row in range(len(orders))]

    def _order(self, prompt: Prompt, embedded: torch.Tensor, vectors: torch.Tensor | None, sampling: Sampling) -> Order:
        """A row as it is sent.

        Args:
            embedded: float32 [tokens, d_model] of the prompt; stays as it is.
            vectors: [d_model] or [markers, d_model], as `prepare` gives them; None: the marker's own embedding stays.
        """
        embeddings = embedded
        if vectors is not None:
            embeddings = embedded.clone()
            at = list(prompt.positions)
            embeddings[at] = placed(embeddings[at], vectors.detach().cpu().reshape(len(at), -1), self.injection)
        limit = sampling.max_new_tokens or self.contract.max_new_tokens or DEFAULT_NEW_TOKENS
        check_length(self.server, len(prompt.ids), limit)
        return Order(
            embeddings,
            limit,
            frozenset() if sampling.ignore_end else self.end_ids,
            self.stop.tag and not sampling.ignore_end,
            sampling.temperature,
            allowed=self._allowed,
        )

    def _written_there(self, orders: Sequence[Order], watch: Watch = UNWATCHED) -> Any:
        """Of each row, as they come: its number, its tokens without an end token, whether it came to an end."""
        requests = [self.server.request(order) for order in orders]
        for row, answer in self.server.connection.exchange(requests, watch):
            yield (row, *self._cut(self.server.written(answer), orders[row]))

    def _cut(self, ids: Sequence[int], order: Order) -> tuple[list[int], bool]:
        """Tokens up to what ends this AV's output.

        Raises:
            EngineError: they end elsewhere.
        """
        tokenizer = self.backbone.tokenizer

        def decode(tokens: Sequence[int]) -> str:
            return str(tokenizer.decode(list(tokens)))

        for at, token in enumerate(ids[: order.limit]):
            if token in order.ends:
                return list(ids[:at]), True
            if order.closing and self.stop.closes(ids[: at + 1], decode):
                return list(ids[: at + 1]), True
        if len(ids) != order.limit:
            raise EngineError(
                f"{self.server} gave {len(ids)} tokens, none of which ends an output of {self.ref}; expected such an "
                f"end or {order.limit} tokens. It may have another end token, or too short a context (--max-model-len, "
                "--context-length)."
            )
        return list(ids), False

    def _look(self, rows: Sequence[tuple[Prompt, torch.Tensor | None]], sampling: Sampling, watch: Watch) -> None:
        """The first time, see whether the server's model is the AV, as far as that can be seen."""
        with self._seeing:
            if self._seen or not rows:
                return
            greedy = replace(sampling, temperature=0.0, ignore_end=False)

            def free(prompt: Prompt, vectors: torch.Tensor | None, how: Sampling) -> Order:
                return replace(self._order(prompt, self._embed(prompt.ids), vectors, how), allowed=None)

            if self.local is None:
                (prompt, vectors), *_ = rows
                assert vectors is not None
                orders = [free(prompt, one, greedy) for one in probes(vectors.detach().float().cpu())]
                texts = {row: written for row, written, _ in self._written_there(orders, watch)}
                refuse_blind(self.server, [texts[row] for row in sorted(texts)])
            else:
                limit = min(_HELD_TOKENS, free(*rows[0], greedy).limit)
                orders = [free(*one, replace(greedy, max_new_tokens=limit)) for one in rows[:_HELD]]
                for row, written, _ in self._written_there(orders, watch):
                    prompt, vectors = rows[row]
                    assert vectors is not None
                    hold_to_local(self.server, self.local, prompt, vectors, written)
            self._seen = True

    def draws(self, *args: Any, **kwargs: Any) -> NoReturn:
        """What was drawn and refused is known to who draws only.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.server} does not say what it drew and did not take; train with the AV in memory.")


def from_server(url: str) -> Callable[[Half, Base, Mapping[str, Any], Mapping[str, Any]], ServedVerbalizer]:
    """What makes a served AV of a half on disk, as `assemble` calls it: half, base, options, where."""
    return partial(_from_disk, url)


def _from_disk(
    url: str, half: Half, base: Base, options: Mapping[str, Any], where: Mapping[str, Any]
) -> ServedVerbalizer:
    connection, ref = Connection(url), f"the AV {half.ref}"
    model: Described = described(half, base, where)
    if half.is_adapter:
        _refuse_trained_table(half)
    if model.d_model != half.contract.d_model:
        raise MismatchedHalvesError(
            f"{half.ref} is for d_model {half.contract.d_model}; {model.ref} has {model.d_model}. Wrong base model?"
        )
    refuse(half.contract, model.model.config, ref)
    contract = half.contract.verify(model.tokenizer, model.vocabulary)
    transform = Transform.load(half.folder, contract)
    return ServedVerbalizer(model, None, contract, transform, ref, embed=model.embed, server=find_server(connection))


def _refuse_trained_table(half: Half) -> None:
    """Refuse an adapter that changes the embedding: the base's table is not the AV's then.

    Raises:
        MismatchedHalvesError: that is so.
    """
    from ..model.weights.files import open_adapter

    for folder in half.adapters:
        with open_adapter(folder) as file:
            trained = [name for name in file.shapes if "embed" in name or "token_adapter" in name]
        if trained:
            raise MismatchedHalvesError(
                f"{half.ref} trains the embedding table ({trained[0]}), so its base's is not what a server of the "
                "merged AV has. Pass the folder of the exported AV as the AV, or use with_engine of the pair in memory."
            )


def served(av: Verbalizer, url: str) -> ServedVerbalizer:
    """An AV in memory, its texts written by a server from now on, and held against it once."""
    backbone = av.backbone

    def embed(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad(), backbone.using(av.adapter):
            return backbone.embedding(torch.tensor([list(ids)], device=backbone.device))[0].float().cpu()

    connection = Connection(url)
    refuse(av.contract, backbone.model.config, av.ref)
    of = (backbone, av.adapter, av.contract, av.transform, av.ref)
    made = ServedVerbalizer(*of, embed=embed, server=find_server(connection), local=av)
    if av.vocabulary is not None:
        made.restrict(av.vocabulary.tolist())
    return made
