"""What a server would get wrong without a word, a server that holds another model, and faults on the way."""

from __future__ import annotations

import json

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.engines.checks import ServedModelError, UnservableError
from nla_sdk.engines.connection import KEY, EngineError
from nla_sdk.errors import ExportError, InputError, LoadError, MismatchedHalvesError, MissingHalfError
from tests import tiny

SERVERS = ["vllm", "sglang"]


def rows(count: int = 3) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=8, scale=2.0)


@pytest.fixture
def made(exports):
    return exports("llama-raw")


def served(made, server, **how) -> NLAPair:
    return NLAPair.from_pretrained(made.folder / "av", av_engine=server.url, **how)


# --- AVs that embeddings are not enough for ---------------------------------------------------------------------------
def test_per_layer_embeddings_are_refused(pair, lora_folders, serve, made):
    server = serve(made.folder / "av")
    with pytest.raises(UnservableError, match="second table, per layer; where embeddings are sent there are no ids"):
        pair.with_engine(server.url)
    with pytest.raises(UnservableError, match="second table"):
        NLAPair.from_pretrained(lora_folders["shared"] / "av", av_engine=server.url)
    assert not server.bodies


def test_what_goes_in_after_a_block_is_refused(made, serve):
    stated = {"injection": {"site": "block", "block": 1, "rule": "add", "norm": "match"}}
    server = serve(made.folder / "av")
    with pytest.raises(UnservableError, match=r"after block 1 \(`injection.site: block`\)"):
        NLAPair.from_pretrained(made.pair.av.folder, contract=stated, av_engine=server.url)
    with pytest.raises(UnservableError, match="after block 1"):
        NLAPair.from_pretrained(made.pair.av.folder, contract=stated).with_engine(server.url)


def test_a_rule_of_our_decoding_is_refused_and_may_be_given_up(made, serve):
    server = serve(made.folder / "av")
    with pytest.raises(UnservableError, match="says no item of a list twice"):
        served(made, server, contract={"output.no_repeats": True})
    assert served(made, server, contract={"output.no_repeats": False}).explain(rows()) == made.pair.explain(rows())


@pytest.mark.parametrize(("kind", "said"), [("gemma2", "by √d once more"), ("phi3", "it is not known here whether")])
def test_models_whose_embeddings_servers_change_or_may_change_are_refused(made, serve, tmp_path, kind, said):
    import shutil

    folder = tmp_path / "av"
    shutil.copytree(made.folder / "av", folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": kind, "head_dim": 32}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnservableError, match=said):
        NLAPair.from_pretrained(folder, av_engine=serve(made.folder / "av").url)


def test_an_adapter_that_trains_the_embedding_is_refused(made, serve, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "av"
    shutil.copytree(made.pair.av.folder, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(tiny.VOCABULARY, tiny.D_MODEL)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchedHalvesError, match="trains the embedding table"):
        NLAPair.from_pretrained(folder, av_engine=serve(made.folder / "av").url)


def test_a_folder_without_a_table_is_refused(made, serve, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "av"
    shutil.copytree(made.folder / "av", folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop("model.embed_tokens.weight")
    server = serve(made.folder / "av")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="holds 0 tensors that end in embed_tokens.weight"):
        NLAPair.from_pretrained(folder, av_engine=server.url)
    tensors["model.embed_tokens.weight"] = (table * 100).to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="in torch.int8; expected rows of 64 floating-point numbers"):
        NLAPair.from_pretrained(folder, av_engine=server.url)


# --- servers that hold something else ---------------------------------------------------------------------------------
def test_another_vocabulary_is_told_by_its_tokens(made, serve, tmp_path):
    import shutil

    folder = tmp_path / "av"
    shutil.copytree(made.folder / "av", folder)
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    said["model"]["merges"] = said["model"]["merges"][:40]
    file.write_text(json.dumps(said), encoding="utf-8")
    for kind in SERVERS:
        with pytest.raises(ServedModelError, match="makes other tokens of .* a model of another vocabulary"):
            served(made, serve(folder, kind))


def test_a_base_is_told_by_its_chat_template(made, serve, bases):
    with pytest.raises(ServedModelError, match="it serves the base, or another AV"):
        served(made, serve(bases["llama"]))
    assert served(made, serve(bases["llama"], tokenizes=False))  # nobody can tell


def test_another_model_of_the_same_prompt_is_told_by_the_av_in_memory(exports, serve, bases):
    chat = exports("qwen3-chat")
    wrong = chat.pair.with_engine(serve(bases["qwen3"]).url)
    with pytest.raises(ServedModelError, match=r"its tokens are [\d.]+ nats less likely than the likeliest"):
        wrong.explain(rows())


def test_the_same_av_in_bfloat16_is_not_taken_for_another(exports, serve, tmp_path):
    chat = exports("qwen3-chat")
    chat.pair.export(tmp_path / "half", dtype="bfloat16")
    assert chat.pair.with_engine(serve(tmp_path / "half" / "av").url).explain(rows())


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_sees_nothing_of_vectors_is_refused(made, serve, kind):
    blind = served(made, serve(made.folder / "av", kind, blind=True))
    with pytest.raises(ServedModelError, match="the same tokens for a vector, for its opposite and for noise"):
        blind.explain(rows())


# --- servers that are started otherwise -------------------------------------------------------------------------------
def test_how_a_server_was_started_is_held_against_what_it_takes(made, serve):
    folder = made.folder / "av"
    with pytest.raises(EngineError, match="Start it with --disable-radix-cache"):
        served(made, serve(folder, "sglang", radix=True))
    with pytest.raises(EngineError, match="runs vLLM 0.9.2; expected 0.11 or newer"):
        served(made, serve(folder, version="0.9.2"))
    with pytest.raises(EngineError, match="set `--enable-prompt-embeds`"):
        served(made, serve(folder, embeds=False)).explain(rows())
    with pytest.raises(EngineError, match="takes 40 tokens in all"):
        served(made, serve(folder, longest=40)).explain(rows())
    for kind in SERVERS:
        with pytest.raises(EngineError, match="without the ids of the tokens that it wrote"):
            served(made, serve(folder, kind, silent=True)).explain(rows())
    with pytest.raises(EngineError, match="is neither vLLM nor SGLang"):
        served(made, serve(folder, "other"))


def test_an_adapter_that_a_server_lists_first_is_not_the_av(made, serve):
    listed = {"id": "some-lora", "parent": "base"}
    assert served(made, serve(made.folder / "av", listed=(listed,))).explain(rows()) == made.pair.explain(rows())


def test_another_width_is_the_servers_own_refusal(made, serve, tmp_path):
    from transformers import LlamaForCausalLM

    folder = tmp_path / "narrow"
    tiny.randomize(LlamaForCausalLM(tiny.llama_config(hidden_size=32)), 3).save_pretrained(folder)
    tiny.tokenizer(chat=True).save_pretrained(folder)
    with pytest.raises(EngineError, match="hidden_size 64 does not match the model's hidden_size 32"):
        served(made, serve(folder, tokenizes=False)).explain(rows())
    with pytest.raises(EngineError, match="HTTP 500: The size of tensor a must match"):
        served(made, serve(folder, "sglang", tokenizes=False)).explain(rows())


# --- on the way -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SERVERS)
def test_what_passes_is_asked_for_again(made, serve, kind):
    server = serve(made.folder / "av", kind)
    pair = served(made, server)
    server.faults.extend([429, 500, "cut", "no json", (503, {"Retry-After": "0.01"}), 429, None, "cut"])
    assert pair.explain(rows()) == made.pair.explain(rows())
    assert not server.faults


def test_what_does_not_pass_ends_in_one_line_that_holds_no_key(made, serve, monkeypatch):
    from nla_sdk.engines import connection

    monkeypatch.setattr(connection, "ATTEMPTS", 3)
    monkeypatch.setattr(connection.Connection.exchange, "__kwdefaults__", {"attempts": 3})
    monkeypatch.setenv(KEY, "geheim-123")
    server = serve(made.folder / "av", key="geheim-123")
    pair = served(made, server)
    server.faults.extend([500] * 50)
    with pytest.raises(EngineError, match="HTTP 500: as asked, with … Tried 3 times.") as raised:
        pair.explain(rows())
    assert raised.value.status == 500 and "geheim" not in str(raised.value)
    assert "geheim" not in repr(pair) + repr(pair.verbalizer.server) + str(pair.verbalizer.server.identity)


def test_a_key_is_taken_from_the_environment_only(made, serve, monkeypatch):
    server = serve(made.folder / "av", key="geheim-123")
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(EngineError, match=rf"asks for a key \(HTTP 401\), and {KEY} is not set"):
        served(made, server)
    monkeypatch.setenv(KEY, "wrong")
    with pytest.raises(EngineError, match=f"{KEY} was not accepted"):
        served(made, server)
    monkeypatch.setenv(KEY, "geheim-123\n")
    assert served(made, server).explain(rows()) == made.pair.explain(rows())
    monkeypatch.setenv(KEY, "two\nlines")
    with pytest.raises(InputError, match="holds what no HTTP header does"):
        served(made, server)


def test_a_server_that_is_not_there(made, serve):  # whose pauses are short
    with pytest.raises(EngineError, match=r"http://127.0.0.1:9/\w+ cannot be reached: .*Tried 3 times"):
        NLAPair.from_pretrained(made.folder / "av", av_engine="http://127.0.0.1:9/v1")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://me:word@host", "http://host?key=1"])
def test_an_address_that_is_none(made, url):
    with pytest.raises(InputError, match="address of (an inference|the) server"):
        made.pair.with_engine(url)


def test_what_a_served_pair_lacks_it_says(made, serve, tmp_path):
    pair = served(made, serve(made.folder / "av"))
    with pytest.raises(MissingHalfError, match="with the halves that are named only"):
        pair.round_trip(rows())
    with pytest.raises(ExportError, match="weights are with the server"):
        pair.export(tmp_path / "again")
    with pytest.raises(InputError, match="no AV was given"):
        NLAPair.from_pretrained(None, made.folder / "ar", av_engine="http://127.0.0.1:9")
    with pytest.raises(MissingHalfError, match="with_engine needs an AV"):
        NLAPair.from_pretrained(None, made.folder / "ar").with_engine("http://127.0.0.1:9")
    with_ar = served(made, serve(made.folder / "av"), ar=made.folder / "ar")
    assert [trip.explanation for trip in with_ar.round_trip(rows())] == made.pair.explain(rows())
