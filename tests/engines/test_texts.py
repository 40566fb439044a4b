"""Texts that a server writes are the pair's own, whichever server and whichever base."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from nla_sdk import NLAPair
from nla_sdk.engines.embeddings import Described
from tests import tiny

SERVERS = ["vllm", "sglang"]


def rows(count: int = 5) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=8, scale=2.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gemma3-chat", "vllm"),
        ("gemma3-chat", "sglang"),
        ("qwen3-chat", "vllm"),
        ("llama-raw", "sglang"),
        ("full", "vllm"),
    ],
)
def test_texts_are_those_of_the_pair_in_memory(exports, serve, name, kind):
    made = exports(name)
    served = NLAPair.from_pretrained(made.folder / "av", av_engine=serve(made.folder / "av", kind).url)
    ours, theirs = made.pair.explain(rows()), served.explain(rows())
    assert theirs == ours
    assert [(text.raw, text.status, text.tokens) for text in theirs] == [
        (text.raw, text.status, text.tokens) for text in ours
    ]
    assert len(set(ours)) > 1
    assert served.base.in_memory is None and served.reconstructor is None


@pytest.mark.parametrize(("name", "kind"), [("gemma3-chat", "sglang"), ("qwen3-chat", "sglang"), ("llama-raw", "vllm")])
def test_an_adapter_takes_its_bases_embeddings(exports, serve, name, kind):
    made = exports(name)
    server = serve(made.folder / "av", kind)
    half = made.pair.av
    assert half.is_adapter
    served = NLAPair.from_pretrained(half.folder, av_engine=server.url)
    assert served.explain(rows(3)) == made.pair.explain(rows(3))


@pytest.mark.parametrize("name", ["gemma3-chat", "qwen3-chat"])
def test_embeddings_from_the_file_are_what_the_model_looks_up(exports, name):
    folder = exports(name).folder / "av"
    model, ids = tiny.plain_model(folder), [5, 300, 5, 17]
    with torch.no_grad():
        expected = model.get_input_embeddings()(torch.tensor(ids))
    assert torch.equal(Described(folder, "it").embed(ids), expected)
    scaled = not torch.equal(expected[0], load_file(folder / "model.safetensors")["model.embed_tokens.weight"][5])
    assert scaled == name.startswith("gemma")


def test_a_pair_in_memory_keeps_all_but_its_texts(exports, serve):
    made = exports("gemma3-chat")
    server = serve(made.folder / "av")
    served = made.pair.with_engine(server.url)
    trips, own = served.round_trip(rows(3)), made.pair.round_trip(rows(3))
    assert [trip.explanation for trip in trips] == [trip.explanation for trip in own]
    assert [trip.cosine for trip in trips] == [trip.cosine for trip in own]
    assert served.explain(rows(2), best_of=2)[0].score is not None
    assert server.bodies
    assert "vLLM 0.19.1" in repr(served) and "vLLM" not in repr(made.pair)
    assert made.pair.verbalizer is not served.verbalizer and made.pair.reconstructor is served.reconstructor


def test_a_centred_pairs_mean_is_subtracted_here(exports, serve, write, tmp_path):
    folder = write("llama", style="raw")
    tiny.centre(folder, tiny.random(tiny.D_MODEL, seed=77, scale=3.0), norm=20.0, baseline=1.5)
    pair = NLAPair.from_pretrained(folder)
    pair.export(tmp_path / "exported", caller_subtracts_mean=True)
    server = serve(tmp_path / "exported" / "av")
    served = NLAPair.from_pretrained(tmp_path / "exported", av_engine=server.url)
    assert served.explain(rows()) == pair.explain(rows())
    assert served.missing and served.reconstructor is None


def test_both_ends_of_a_text_are_the_avs(serve, tmp_path, llama_base):
    """The closing tag and an end token, in an AV whose every word is known; and a budget that cuts."""
    scripts = {"sea": ["salt", "and", "foam", "</explanation>", "more", "salt"], "hill": ["grass", "green", "<eos>"]}
    av = tiny.scripted_av(tmp_path / "av", llama_base, scripts)
    pair = NLAPair.from_pretrained(av)
    pair.export(tmp_path / "exported")
    vectors = torch.stack([tiny.word_vector(av, word) for word in scripts])
    for kind in SERVERS:
        server = serve(tmp_path / "exported" / "av", kind)
        served = NLAPair.from_pretrained(tmp_path / "exported", av_engine=server.url)
        texts = served.explain(vectors)
        assert texts == ["salt and foam", "grass green"] == pair.explain(vectors)
        assert [text.status for text in texts] == ["ok", "ok"]
        assert [text.tokens for text in texts] == [4, 2]
        assert max(server.lengths) == 4  # it stops there, too
        assert [text.status for text in served.explain(vectors, max_new_tokens=2)] == ["truncated", "truncated"]
        assert [text.tokens for text in served.explain(vectors, max_new_tokens=2)] == [2, 2]


def test_sampled_texts_depend_on_vector_and_seed_only(exports, serve):
    made = exports("qwen3-chat")
    served = NLAPair.from_pretrained(made.folder / "av", av_engine=serve(made.folder / "av").url)
    drawn = served.explain(rows(3), temperature=1.0, n=2, seed=3)
    assert [list(texts) for texts in drawn] == [
        list(served.explain(row, temperature=1.0, n=2, seed=3)) for row in rows(3)
    ]
    assert len({text for texts in drawn for text in texts}) > 3
    assert [list(texts) for texts in drawn] != [
        list(texts) for texts in served.explain(rows(3), temperature=1.0, n=2, seed=4)
    ]


def test_no_two_vectors_share_a_cache_key_and_everything_that_shapes_texts_is_said(exports, serve):
    made = exports("qwen3-chat")
    server = serve(made.folder / "av")
    served = NLAPair.from_pretrained(made.folder / "av", av_engine=server.url)
    served.explain(rows())
    served.explain(rows())
    asked = server.bodies[3:]  # behind the probes
    salts = [body["cache_salt"] for body in asked]
    assert sorted(salts[:5]) == sorted(salts[5:]) and len(set(salts)) == 5
    for body in server.bodies:
        assert (body["temperature"], body["top_p"], body["repetition_penalty"]) == (0.0, 1.0, 1.0)
        assert not {"prompt", "messages"} & set(body)


def test_who_watches_is_told_and_may_call_it_off(exports, serve):
    from threading import Event

    from nla_sdk.errors import CancelledCallError

    made = exports("llama-raw")
    server = serve(made.folder / "av")
    served = NLAPair.from_pretrained(made.folder / "av", av_engine=server.url)
    done, told, stop = [], {}, Event()
    texts = served.explain(rows(), progress=done.append, on_text=told.__setitem__)
    assert sum(done) == 5 and told == dict(enumerate(texts))
    server.slow = 5.0
    with pytest.raises(CancelledCallError):
        stop.set()
        served.explain(rows(), cancel=stop)


def test_so_many_requests_are_under_way_and_no_more(exports, serve, monkeypatch):
    from nla_sdk.engines import connection

    monkeypatch.setattr(connection, "AT_ONCE", 3)
    made = exports("llama-raw")
    server = serve(made.folder / "av", slow=0.05)
    served = NLAPair.from_pretrained(made.folder / "av", av_engine=server.url)
    assert served.explain(rows(7)) == made.pair.explain(rows(7))
    assert server.most == 3


def test_only_some_tokens_may_be_written_where_the_server_can(exports, serve):
    from nla_sdk.errors import InputError

    made = exports("llama-raw")
    allowed = range(40, 90)
    served = {kind: made.pair.with_engine(serve(made.folder / "av", kind).url) for kind in SERVERS}
    with pytest.raises(InputError, match="only vLLM"):
        served["sglang"].verbalizer.restrict(allowed)
    ours = NLAPair.from_pretrained(made.pair.av.folder)
    ours.verbalizer.restrict(allowed)
    served["vllm"].verbalizer.restrict(allowed)
    assert served["vllm"].explain(rows()) == ours.explain(rows()) != made.pair.explain(rows())
