"""The same calls on a pair and on a client of the same pair served: code moves between the two."""

from __future__ import annotations

import inspect
import pickle
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from nla_sdk import Activations, Client, NLAPair, Results, Vectors
from nla_sdk import errors as sdk_errors
from nla_sdk.claims.receipts import Check
from nla_sdk.claims.telling import told
from nla_sdk.errors import SuspectActivationsWarning
from nla_sdk.model.extraction import Conversation
from nla_sdk.serve.running import serving
from tests import tiny
from tests.pair.test_ask import ORACLE
from tests.serve.wire import told_of

METHODS = ("extract", "explain", "ask", "reconstruct", "round_trip", "score", "check", "compare", "steer", "complete")
TEXT, SHORT = "a cat sat", {"max_new_tokens": 4}
WORDS = '"cat" comes next. Prose about sea, dogs.'
CHAT = [{"role": "user", "content": "a cat"}]


@pytest.fixture(scope="module")
def both(full_pair):
    with serving(full_pair) as url, Client(url) as client:
        yield full_pair, client


@pytest.fixture(scope="module")
def centred(lora_pair):
    pair = lora_pair("centred")
    with serving(pair) as url, Client(url) as client:
        yield pair, client


@pytest.fixture(scope="module")
def oracles(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "base"
    tiny.save_model(base, tiny.llama_config(), tiny.tokenizer(chat=True), seed=3)
    half = base.parent / "oracle"
    tiny.lora_av(half, base, tiny.plain_model(base), layer=1)
    tiny.write_sidecar(half, "injection_scale", **{key: value for key, value in ORACLE.items() if value is not None})
    pair = NLAPair.from_pretrained(half)
    with serving(pair) as url, Client(url) as client:
        yield pair, client


def rows(count: int, seed: int = 7) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=seed, scale=3.0)


def alike(served, local) -> bool:
    """Whether two results say the same; numbers but for what a row of a batch differs from the same row alone."""
    assert type(served) is type(local)
    if isinstance(local, Results):
        return len(served) == len(local) and all(map(alike, served, local))
    if isinstance(local, Activations):
        here = {"model": Path(str(local.model)).name, "revision": None}  # a server tells no path of its machine
        return alike(vars(served), vars(local) | here)
    if isinstance(local, Check):
        return alike(told(served), told_of(local)) and served.explanation == local.explanation
    if hasattr(local, "to_row"):
        raw = all(getattr(served, name, 0) == getattr(local, name, 0) for name in ("raw", "tokens", "best_of"))
        return raw and alike(served.to_row(), local.to_row())
    if isinstance(local, dict):
        return served.keys() == local.keys() and all(alike(served[key], local[key]) for key in local)
    if isinstance(local, (list, tuple)):
        return len(served) == len(local) and all(map(alike, served, local))
    if hasattr(local, "tolist"):
        return served.shape == local.shape and alike(served.tolist(), local.tolist())
    return served == (pytest.approx(local, rel=1e-4, abs=1e-5) if isinstance(local, float) else local)


def test_its_methods_take_what_those_of_a_pair_take():
    for name in METHODS:
        served, local = (inspect.signature(getattr(kind, name)).parameters for kind in (Client, NLAPair))
        assert [(one.name, one.default, one.kind) for one in served.values()] == [
            (one.name, one.default, one.kind) for one in local.values()
        ], name


CALLS = {
    "extract, all tokens": lambda of: of.extract(TEXT, "all"),
    "extract, several": lambda of: of.extract([TEXT, "dogs"], [-1, 1]),
    "extract, a chat": lambda of: of.extract(CHAT, "all"),
    "extract, a chat left open": lambda of: of.extract(Conversation(CHAT, add_generation_prompt=False), -2),
    "extract, another layer": lambda of: of.extract(TEXT, layer=2),
    "explain, one": lambda of: of.explain(rows(1)[0], **SHORT),
    "explain, a matrix": lambda of: of.explain(rows(3), **SHORT),
    "explain, one row of a matrix": lambda of: of.explain(rows(1), **SHORT),
    "explain, lists": lambda of: of.explain(rows(2).tolist(), **SHORT),
    "explain, what was read": lambda of: of.explain(of.extract(TEXT, "all"), **SHORT),
    "explain, reads": lambda of: of.explain([of.extract(TEXT), of.extract("dogs")], **SHORT),
    "explain, samples": lambda of: of.explain(rows(2), n=2, temperature=0.9, seed=3, **SHORT),
    "explain, the best": lambda of: of.explain(rows(2), best_of=2, **SHORT),
    "reconstruct, one": lambda of: of.reconstruct("a cat"),
    "reconstruct, two": lambda of: of.reconstruct(["a cat", ""]),
    "round trip, a text": lambda of: of.round_trip(TEXT, **SHORT),
    "round trip, a chat": lambda of: of.round_trip(CHAT, **SHORT),
    "round trip, texts": lambda of: of.round_trip([TEXT, "dogs"], **SHORT),
    "round trip, vectors": lambda of: of.round_trip(rows(2), best_of=2, **SHORT),
    "score, one": lambda of: of.score("a cat", rows(1)[0]),
    "score, one text": lambda of: of.score("a cat", rows(3)),
    "score, several texts": lambda of: of.score(["a cat", "", "b"], rows(1)[0]),
    "check, one": lambda of: of.check(WORDS, rows(1)[0]),
    "check, several": lambda of: of.check([WORDS, "It sat."], rows(2), seed=3),
    "check, against a text": lambda of: of.check([WORDS] * 2, of.extract(TEXT, [2, 3]), TEXT),
    "check, against a text elsewhere": lambda of: of.check([WORDS], of.extract(TEXT, 2), TEXT, position=3),
    "check, several of texts": lambda of: of.check([WORDS] * 4, of.extract([TEXT, "dog"], [1, 2]), [TEXT, "dog"]),
    "check, against texts": lambda of: of.check([WORDS, "a"], of.extract([TEXT, "dogs"]), [TEXT, "dogs"]),
    "check, samples and steering": lambda of: of.check(WORDS, rows(1)[0], samples=2, steering=True),
    "check, against a chat": lambda of: of.check(WORDS, of.extract(CHAT).vectors[0], CHAT),
    "compare, texts": lambda of: of.compare(TEXT, "dogs", signs="±", direction=None, **SHORT),
    "compare, vectors": lambda of: of.compare(rows(2), rows(1, seed=9)[0], **SHORT),
    "steer, towards a text": lambda of: of.steer(TEXT, "dogs", max_new_tokens=3),
    "steer, strengths": lambda of: of.steer(CHAT, "dogs", [0.5, 1.0], max_new_tokens=3),
    "steer, prompts and a vector": lambda of: of.steer([TEXT, "x"], rows(1)[0], 0.5, max_new_tokens=3),
    "complete": lambda of: of.complete(TEXT, 5),
    "complete, sampled": lambda of: of.complete(CHAT, 5, 0.9, 4),
}


@pytest.mark.filterwarnings("ignore::nla_sdk.errors.UnmatchedPairWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_served_pair_answers_as_the_pair(both, call):
    pair, client = both
    assert alike(call(client), call(pair))


DIRECTIONS = {
    "both signs": lambda of: of.explain(rows(2), kind="direction", signs="±", n=2, temperature=0.5, **SHORT),
    "turned round": lambda of: of.explain(rows(1)[0], kind="difference", signs="-", direction="raw", **SHORT),
    "a round trip": lambda of: of.round_trip(rows(1)[0], kind="direction", **SHORT),
    "a score": lambda of: of.score("a cat", rows(2), kind="difference"),
    "Vectors": lambda of: of.explain(Vectors(rows(2), "direction", 4, labels=("a", "b")), **SHORT),
    "steering along Vectors": lambda of: of.steer("a cat", Vectors(rows(1), "difference", 4, labels=("a",)), 0.1),
    "compared": lambda of: of.compare(rows(1)[0], rows(1, 9)[0], kind="direction", signs="±", **SHORT),
}


@pytest.mark.parametrize("call", DIRECTIONS.values(), ids=DIRECTIONS)
def test_directions_are_told_as_such(centred, call):
    pair, client = centred
    assert alike(call(client), call(pair))


ASKED = {
    "a text": lambda of: of.ask("a cat sat", "What is near?", layer=2),
    "a slice of a text": lambda of: of.ask("a cat sat", "What is near?", layer=2, positions=(1, 4)),
    "texts": lambda of: of.ask(["a cat", "dogs"], ["Who?", "What?"], layer=[1, 2]),
    "one set": lambda of: of.ask(rows(2), "Who?"),
    "one set, two questions": lambda of: of.ask(rows(2), ["Who?", "What?"]),
    "sets that differ": lambda of: of.ask([rows(2), rows(1), rows(1)], "Who?", layer=[1, 2, 1]),
    "samples": lambda of: of.ask(rows(1)[0], "Who?", n=2, temperature=0.9, seed=2),
    "what was read": lambda of: of.ask([of.extract("a cat", "all", 2), of.extract("dogs", layer=1)], "Who?"),
}


@pytest.mark.parametrize("call", ASKED.values(), ids=ASKED)
def test_an_oracle_is_asked_as_the_pair(oracles, call):
    pair, client = oracles
    assert alike(call(client), call(pair))


WRONG = {
    "a position beyond": lambda of: of.extract(TEXT, 99),
    "an empty text": lambda of: of.extract(""),
    "half a surrogate pair": lambda of: of.extract("caf\ud83d"),
    "a message without a template's role": lambda of: of.extract(TEXT, layer=77),
    "NaN": lambda of: of.explain([float("nan")] * tiny.D_MODEL),
    "zeros": lambda of: of.explain([0.0] * tiny.D_MODEL),
    "another width": lambda of: of.explain([1.0, 2.0]),
    "nothing": lambda of: of.explain([]),
    "another layer": lambda of: of.explain(of.extract(TEXT, layer=3)),
    "a temperature below 0": lambda of: of.explain(rows(1), temperature=-1),
    "n and best_of": lambda of: of.explain(rows(1), n=2, best_of=2),
    "no sign": lambda of: of.explain(rows(1), signs="*"),
    "a sign of an activation": lambda of: of.explain(rows(1), signs="-"),
    "a text explained": lambda of: of.explain("a cat"),
    "a question to no oracle": lambda of: of.ask(rows(1), "Who?"),
    "as many texts": lambda of: of.score(["a", "b"], rows(3)),
    "equal vectors": lambda of: of.compare(rows(1)[0], rows(1)[0]),
    "steering towards nothing": lambda of: of.steer(TEXT, " "),
    "a check of as many": lambda of: of.check(["a", "b"], rows(3)),
    "a check beyond the text": lambda of: of.check("a", rows(1)[0], TEXT, position=99),
    "no explanation": lambda of: of.reconstruct([]),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_a_pair_refuses_is_refused_by_the_same_class(both, call):
    pair, client = both
    raised = []
    for of in (pair, client):
        with pytest.raises(sdk_errors.NLAError) as error:
            call(of)
        raised.append(error.type)
    assert raised[0] is raised[1], raised


def test_a_mean_of_ones_own_is_refused_not_left_out(both):
    with pytest.raises(sdk_errors.InputError, match="mean= is not sent"):
        both[1].explain(rows(1), kind="direction", mean="mean.safetensors")


@pytest.mark.parametrize("name", ["dictionary", "meaning"])
def test_what_a_check_would_need_here_is_refused_not_left_out(both, name):
    with pytest.raises(sdk_errors.InputError, match=f"{name}= is not sent"):
        both[1].check("a", rows(1)[0], **{name: object()})


def test_a_message_with_more_than_is_sent_is_refused(both):
    with pytest.raises(sdk_errors.InputError, match="'tool_calls'"):
        both[1].extract([{"role": "user", "content": "a", "tool_calls": "x"}])


def test_texts_are_told_as_they_grow_and_the_last_is_the_result(both):
    told: list[tuple[int, str]] = []
    done: list[int] = []
    found = both[1].explain(
        rows(3), n=2, temperature=0.9, on_text=lambda at, text: told.append((at, text)), progress=done.append, **SHORT
    )
    assert found == both[0].explain(rows(3), n=2, temperature=0.9, **SHORT)
    assert dict(told) == {row * 2 + sample: str(found[row][sample]) for row in range(3) for sample in range(2)}
    assert sum(done) == 6
    grown: list[str] = []
    whole = both[1].explain(rows(1)[0], on_text=lambda at, text: grown.append(text), max_new_tokens=200)
    assert len(grown) > 1 and grown[-1] == whole and all(map(str(whole).startswith, grown))


def test_what_is_told_ends_the_call_where_it_raises(both):
    with pytest.raises(ZeroDivisionError):
        both[1].explain(rows(2), on_text=lambda at, text: 1 / 0)
    assert both[1].explain(rows(1)[0], **SHORT) == both[0].explain(rows(1)[0], **SHORT)


def test_tokens_are_told_as_they_are_written(both):
    told: list[tuple[str, int]] = []
    found = both[1].complete(TEXT, 5, on_token=lambda piece, token: told.append((piece, token)))
    assert found == both[0].complete(TEXT, 5) and told == list(zip(found.tokens, found.ids, strict=True))


def test_a_call_that_is_called_off_ends_soon(both):
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(sdk_errors.CancelledCallError):
        both[1].explain(rows(64), n=8, temperature=0.9, max_new_tokens=2000, cancel=cancel)
    assert time.monotonic() - began < 5
    with pytest.raises(sdk_errors.CancelledCallError):
        both[1].round_trip(TEXT, cancel=cancel)


def test_more_rows_than_a_request_holds_go_in_several(both, monkeypatch):
    pair, client = both
    monkeypatch.setitem(client.pair.facts["limits"], "positions", 2)
    vectors, told = rows(5), []
    found = client.explain(vectors, on_text=lambda at, text: told.append(at), **SHORT)
    assert found == pair.explain(vectors, **SHORT) and {*told} == {0, 1, 2, 3, 4}


def test_suspect_vectors_are_warned_of_and_what_was_read_is_not(both, monkeypatch):
    pair, client = both
    suspect = type("Report", (), {"verdict": "suspect", "cause": "they look like nothing"})()
    monkeypatch.setattr(type(pair), "check_activations", lambda *_, **__: suspect)
    with pytest.warns(SuspectActivationsWarning, match="like nothing"):
        client.explain(rows(1), **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        client.explain(client.extract(TEXT), **SHORT)


def test_it_knows_what_is_served(both):
    pair, client = both
    assert (client.layer, client.d_model, client.matched) == (pair.layer, pair.d_model, pair.matched)
    assert client.pair.verdict is None and "measured" in str(client.pair.warning)
    assert "not evaluated" in repr(client.pair) and client.pair.warning in repr(client.pair)


def test_results_are_values_that_can_be_kept(both):
    trip = both[1].round_trip(TEXT, **SHORT)
    assert pickle.loads(pickle.dumps(trip)) == trip
    assert both[1].round_trip([TEXT], **SHORT).to_arrow().num_rows == 1
