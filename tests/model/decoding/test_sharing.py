"""Rows of calls from several threads share a batch, and each is what it is alone."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk import NLAPair
from nla_sdk.errors import CancelledCallError, NonFiniteOutputError
from nla_sdk.model import verbalizer
from nla_sdk.model.decoding import rows, writing
from nla_sdk.model.decoding.drawing import row_generator
from nla_sdk.model.decoding.stepping import ModelSteps
from nla_sdk.model.fast.steps import Steps
from nla_sdk.model.running.watching import Watch
from nla_sdk.model.weights.adapters.turns import Pace
from nla_sdk.sampling import Sampling
from tests import tiny

WAYS = pytest.mark.parametrize("fast", [True, False], ids=["from weights", "by the model"])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, base):
    folder = tiny.lora_av(tmp_path_factory.mktemp("sharing") / "av", base, tiny.plain_model(base), layer=1)
    return NLAPair.from_pretrained(folder).verbalizer


@pytest.fixture
def av(loaded):
    """A token in ten ends its texts. What a test does to it is undone."""
    loaded.end_ids = frozenset(range(1, tiny.VOCABULARY, 10))
    loaded.fast = True
    yield loaded
    assert not loaded.sharing.jobs and loaded.sharing._writing is None, "nothing is left of calls that are over"
    assert not loaded.backbone.lock.depth and not loaded.backbone._uses


@dataclasses.dataclass
class Asked:
    """One call: its rows' vectors, how they are written, and the number of letters after which it is called off."""

    seed: int
    count: int = 1
    temperature: float = 0.0
    limit: int = 9
    ignore_end: bool = False
    more: tuple[int, ...] = ()
    cancel_after: int | None = None

    def run(self, av, watch: Watch | None = None):
        inputs = av.prepare(tiny.random(self.count, tiny.D_MODEL, seed=self.seed, scale=3.0))
        sampling = Sampling(self.limit, temperature=self.temperature, ignore_end=self.ignore_end)
        generators = [row_generator(row, 3, 0) for row in inputs] if self.temperature else None
        prompt = dataclasses.replace(av.default, ids=(*av.default.ids, *self.more))
        options = {} if watch is None else {"watch": watch}
        return av.tokens(inputs, sampling, prompts=[prompt] * self.count, generators=generators, **options)


def random_calls(count: int, seed: int) -> list[Asked]:
    draw = random.Random(seed)
    return [
        Asked(
            seed=at,
            count=draw.choice([1, 1, 2, 5]),
            temperature=draw.choice([0.0, 0.0, 0.7, 1.3]),
            limit=draw.choice([1, 4, 9, 14]),
            ignore_end=draw.random() < 0.3,
            more=draw.choice([(), (), (5,), (9, 8, 7)]),
            cancel_after=draw.choice([None, None, draw.randint(0, 12)]),
        )
        for at in range(count)
    ]


@contextmanager
def steps_noted(monkeypatch):
    """How many rows each step had, as it begins."""
    sizes: list[int] = []
    own = Steps.__call__, ModelSteps.__call__

    for kind, call in zip((Steps, ModelSteps), own, strict=True):

        def noted(self, tokens, call=call):
            sizes.append(len(tokens))
            return call(self, tokens)

        monkeypatch.setattr(kind, "__call__", noted)
    yield sizes


def at_once(av, calls) -> list:
    """What threads get that have all asked, in this order, before the first is served; errors in place of results."""

    def ask(call):
        try:
            return call()
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = []
        with av.backbone.using(None):
            for call in calls:
                futures.append(pool.submit(ask, call))
                while len(av.sharing.jobs) < len(futures):
                    threading.Event().wait(0.002)
        return [future.result(60) for future in futures]


# --- texts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("fast", "seed"), [(True, 0), (True, 1), (False, 2)])
def test_each_call_of_many_threads_gets_what_it_gets_alone(av, monkeypatch, fast, seed):
    av.fast = fast
    calls = random_calls(24, seed)
    alone = [call.run(av) for call in calls]
    monkeypatch.setattr(verbalizer, "ROWS_PER_BATCH", 6)
    todo, lock, failures, cancelled = list(enumerate(calls)), threading.Lock(), [], []

    def work():
        while True:
            with lock:
                if not todo:
                    return
                at, call = todo.pop()
            cancel, told = threading.Event(), []

            def on_text(row, text, cancel=cancel, told=told, call=call):
                told.append(text)
                if call.cancel_after is not None and len(told) >= call.cancel_after:
                    cancel.set()

            try:
                if call.run(av, Watch(on_text=on_text, cancel=cancel)) != alone[at]:
                    failures.append(call)
            except CancelledCallError:
                cancelled.append(at)
                if not cancel.is_set():
                    failures.append(call)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not todo
    assert cancelled and len(cancelled) < 16


@WAYS
def test_greedy_and_sampled_rows_of_waiting_calls_are_steps_of_one_batch(av, monkeypatch, fast):
    av.fast = fast
    calls = [Asked(at, temperature=[0.0, 0.0, 1.0, 0.5][at % 4], limit=6, ignore_end=True) for at in range(8)]
    alone = [call.run(av) for call in calls]
    with steps_noted(monkeypatch) as sizes:
        assert at_once(av, [lambda call=call: call.run(av) for call in calls]) == alone
    assert sizes == [8] * 5, "their first tokens come of their prompts"


def test_a_call_joins_rows_that_are_being_written(av, monkeypatch):
    first, second = Asked(1, limit=20, ignore_end=True), Asked(2, limit=6, ignore_end=True, more=(5,))
    alone = [call.run(av) for call in (first, second)]
    found, threads = [], []

    def on_text(row, text):
        if not threads:
            threads.append(threading.Thread(target=lambda: found.append(second.run(av))))
            threads[0].start()
            while len(av.sharing.jobs) < 2:
                threading.Event().wait(0.002)

    with steps_noted(monkeypatch) as sizes:
        assert first.run(av, Watch(on_text=on_text)) == alone[0]
    threads[0].join()
    assert found == [alone[1]]
    assert sizes.count(2) == 5 and len(sizes) == 19


def test_a_call_for_which_the_model_itself_must_run_waits_until_what_is_written_has_ended(tmp_path, monkeypatch):
    base = tiny.save_model(tmp_path / "base", tiny.llama_config(), tiny.tokenizer(), seed=3)
    av = NLAPair.from_pretrained(tiny.lora_av(tmp_path / "av", base, tiny.plain_model(base), layer=1)).verbalizer
    calls = [Asked(at, limit=6 + at, ignore_end=True) for at in range(4)]
    alone = [call.run(av) for call in calls]
    own = writing.Writing._stepping
    ways = []

    def short_window(self, call):
        way = own(self, call)
        if call.longest > len(av.default.ids) + 7:
            way = ModelSteps(self._forward, av.backbone.device)
        else:
            self._window = len(av.default.ids) + 7
        ways.append(type(way))
        return way

    monkeypatch.setattr(writing.Writing, "_stepping", short_window)
    assert at_once(av, [lambda call=call: call.run(av) for call in calls]) == alone
    assert {*ways} == {Steps, ModelSteps}


def test_a_thread_that_holds_the_model_writes_its_own_rows_while_another_waits_to_lead(av):
    calls = [Asked(1), Asked(2)]
    alone = [call.run(av) for call in calls]
    with ThreadPoolExecutor(1) as pool:
        with av.backbone.using(None):
            other = pool.submit(calls[0].run, av)
            while not av.backbone.lock.wanted:
                threading.Event().wait(0.002)
            assert calls[1].run(av) == alone[1]
        assert other.result(10) == alone[0]


# --- calls that end early -----------------------------------------------------------------------------------------
@WAYS
def test_rows_of_a_cancelled_call_leave_the_batch_at_the_next_step(av, monkeypatch, fast):
    av.fast = fast
    stays, goes, cancel = Asked(1, limit=20, ignore_end=True), Asked(2, 3, limit=20, ignore_end=True), threading.Event()
    alone = stays.run(av)

    with steps_noted(monkeypatch) as sizes:

        def on_text(row, text):
            if len(sizes) == 4:
                cancel.set()

        kept, gone = at_once(av, [lambda: stays.run(av), lambda: goes.run(av, Watch(on_text=on_text, cancel=cancel))])
    assert kept == alone and isinstance(gone, CancelledCallError)
    assert sizes == [4] * 4 + [1] * 15


def test_a_waiting_call_is_called_off_before_its_turn(av):
    cancel = threading.Event()
    with ThreadPoolExecutor(2) as pool, av.backbone.using(None):
        calls = [pool.submit(Asked(at).run, av, Watch(cancel=cancel)) for at in range(2)]
        while len(av.sharing.jobs) < 2:
            threading.Event().wait(0.002)
        cancel.set()
        for call in calls:  # the model is held all the while
            with pytest.raises(CancelledCallError):
                call.result(10)


def test_who_writes_for_all_and_is_called_off_while_others_have_their_turn_hands_over(av):
    cancel, leads, inside, leave = threading.Event(), threading.Event(), threading.Event(), threading.Event()
    stays = Asked(2, limit=20, ignore_end=True)
    alone = stays.run(av)

    def other_use():
        leads.wait(10)
        with av.backbone.using(None):
            inside.set()
            leave.wait(10)

    def goes():
        Asked(1, limit=200, ignore_end=True).run(av, Watch(on_text=lambda row, text: leads.set(), cancel=cancel))

    with ThreadPoolExecutor(3) as pool:
        user, gone = pool.submit(other_use), pool.submit(goes)
        assert inside.wait(10), "its turn has come"
        kept = pool.submit(stays.run, av)
        cancel.set()
        with pytest.raises(CancelledCallError):
            gone.result(10)
        assert not leave.is_set()
        leave.set()
        user.result(10)
        assert kept.result(10) == alone


def test_what_on_text_raises_ends_its_call_alone(av, monkeypatch):
    calls = [Asked(at, limit=12, ignore_end=True) for at in range(3)]
    alone = [call.run(av) for call in calls]

    def fails(row, text):
        raise SystemExit("the reader is gone")

    watches = [Watch(), Watch(on_text=fails), Watch()]
    with steps_noted(monkeypatch) as sizes:
        found = at_once(av, [lambda at=at: calls[at].run(av, watches[at]) for at in range(3)])
    assert found[0] == alone[0] and found[2] == alone[2]
    assert repr(found[1]) == "SystemExit('the reader is gone')"
    assert sizes == [2] * 11


@WAYS
@pytest.mark.parametrize("at_step", [0, 3])
def test_rows_without_numbers_are_named_to_their_own_call(av, monkeypatch, fast, at_step):
    av.fast = fast
    calls = [Asked(1, 3, ignore_end=True), Asked(2, 4, ignore_end=True), Asked(3, ignore_end=True)]
    alone = [call.run(av) for call in calls]
    own = writing.Writing._take

    def spoiled(self, given, rows):
        given = given.clone()
        for place, row in enumerate(rows):
            if len(row.call._rows) == 4 and row.number in (1, 3) and len(row.written) >= at_step:
                given[place] = torch.nan
        return own(self, given, rows)

    monkeypatch.setattr(writing.Writing, "_take", spoiled)
    found = at_once(av, [lambda call=call: call.run(av) for call in calls])
    assert found[0] == alone[0] and found[2] == alone[2]
    assert isinstance(found[1], NonFiniteOutputError) and found[1].rows == (1, 3)


@WAYS
def test_a_vector_that_cannot_be_put_in_ends_its_call_alone(av, fast):
    av.fast = fast
    calls = [Asked(1, 2), Asked(2, 3), Asked(3)]
    alone = [call.run(av) for call in calls]
    inputs = av.prepare(tiny.random(3, tiny.D_MODEL, seed=9))
    inputs[2, 5] = torch.inf
    found = at_once(av, [*(lambda call=call: call.run(av) for call in calls), lambda: av.tokens(inputs, Sampling(9))])
    assert found[:3] == alone
    assert isinstance(found[3], NonFiniteOutputError) and found[3].rows == (2,)


@WAYS
def test_a_step_that_fails_ends_the_calls_in_it_and_no_later_one(av, monkeypatch, fast):
    av.fast = fast
    calls = [Asked(at, ignore_end=True) for at in range(2)]
    alone = [call.run(av) for call in calls]
    with monkeypatch.context() as patch:
        patch.setattr(Steps if fast else ModelSteps, "__call__", lambda self, tokens: 1 / 0)
        found = at_once(av, [lambda call=call: call.run(av) for call in calls])
    assert [type(error) for error in found] == [ZeroDivisionError] * 2
    assert [call.run(av) for call in calls] == alone


@WAYS
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_an_interrupt_of_the_thread_that_writes_hands_the_rest_over(av, monkeypatch, fast, temperature):
    av.fast = fast
    calls = [Asked(at, 2, temperature, limit=8, ignore_end=True) for at in range(4)]
    alone = [call.run(av) for call in calls]
    kind, steps, leaders = Steps if fast else ModelSteps, [], []
    own = kind.__call__

    def interrupted(self, tokens):
        steps.append(len(tokens))
        leaders.append(threading.get_ident())
        given = own(self, tokens)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return given

    monkeypatch.setattr(kind, "__call__", interrupted)
    told: dict[tuple[int, int], list[str]] = {}

    def watch(at):
        return Watch(on_text=lambda row, text: told.setdefault((at, row), []).append(text))

    found = at_once(av, [lambda at=at: calls[at].run(av, watch(at)) for at in range(4)])
    lost = [at for at, one in enumerate(found) if isinstance(one, KeyboardInterrupt)]
    assert len(lost) == 1 and [one for at, one in enumerate(found) if at not in lost] == [
        one for at, one in enumerate(alone) if at not in lost
    ]
    assert leaders[0] != leaders[-1] and steps[:5] == [8, 8, 8, 8, 6]
    for (at, row), texts in told.items():
        assert all(later.startswith(text) and later != text for text, later in zip(texts, texts[1:], strict=False))
        if at not in lost:
            tokens, finished = alone[at][row]
            assert texts[-1:] == [str(av.parse(tokens, finished))] or not av.parse(tokens, finished)


# --- turns --------------------------------------------------------------------------------------------------------
def test_a_call_of_one_row_does_not_wait_for_all_rows_of_a_large_one(av, monkeypatch):
    monkeypatch.setattr(verbalizer, "ROWS_PER_BATCH", 4)
    large, small = Asked(1, 40, limit=10, ignore_end=True), Asked(2, limit=5, ignore_end=True)
    alone = [call.run(av) for call in (large, small)]
    found, started, told = [], [], []
    with steps_noted(monkeypatch) as sizes:
        watch = Watch(on_text=lambda row, text: told.append(len(sizes)))

        def on_text(row, text):
            if not started:
                started.append(threading.Thread(target=lambda: found.append(small.run(av, watch))))
                started[0].start()
                while len(av.sharing.jobs) < 2:
                    threading.Event().wait(0.002)

        assert large.run(av, Watch(on_text=on_text)) == alone[0]
    started[0].join()
    assert found == [alone[1]]
    assert told[-1] <= 8, "it is a guest beside the four, and has its five tokens"
    assert max(sizes) == 5


@given(wanted=st.lists(st.integers(1, 600), min_size=1, max_size=70), room=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_room_is_divided_fairly_and_none_is_left_over(wanted, room):
    given = rows.shares(wanted, room)
    assert sum(given) == min(room, sum(wanted))
    assert all(0 <= got <= want for got, want in zip(given, wanted, strict=True))
    hungry = [got for got, want in zip(given, wanted, strict=True) if got < want]
    assert not hungry or max(given) - min(hungry) <= 1


@given(others=st.lists(st.booleans(), min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_who_waits_has_a_turn_after_a_bounded_number_of_steps(others):
    wanted, waited, longest = [False], [0], [0]

    def give_way():
        wanted[0], waited[0] = False, 0

    pace = Pace(give_way, lambda: wanted[0])
    for comes in others:
        wanted[0] = wanted[0] or comes
        waited[0] += wanted[0]
        longest[0] = max(longest[0], waited[0])
        pace.step()
    assert longest[0] <= Pace.STEPS


def test_an_extraction_gets_through_an_endless_stream_of_calls_and_they_go_on(av, monkeypatch):
    backbone, stop, seen, own = av.backbone, threading.Event(), [], Steps.__call__

    def noted(self, tokens):
        seen.append("x" if backbone.lock.wanted else ".")
        return own(self, tokens)

    def endless(seed):
        while not stop.is_set():
            Asked(seed, limit=30, ignore_end=True).run(av)

    monkeypatch.setattr(Steps, "__call__", noted)
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(endless, seed) for seed in range(3)]
        while len(seen) < 5:
            threading.Event().wait(0.002)
        for _ in range(20):
            with backbone.using(None):
                seen.append(" ")
            asked, until = len(seen), time.monotonic() + 30
            while len(seen) == asked and time.monotonic() < until:  # the stream goes on, sooner or later
                time.sleep(0.002)
        stop.set()
        for stream in streams:
            stream.result(30)
    between = "".join(seen).split(" ")
    assert len(between) == 21 and all(steps.count("x") <= Pace.STEPS + 1 for steps in between)
    assert all(between), "the stream goes on between them"
