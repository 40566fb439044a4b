"""Our own API: the same as the pair's methods give, over HTTP."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nla_sdk import metrics
from tests import tiny
from tests.pair.test_ask import LAYERS, QUESTION, base, half, oracle  # noqa: F401
from tests.serve.wire import CHAT, TEXT, VECTOR, Wire

ROWS = [VECTOR, VECTOR[::-1], VECTOR[1:] + VECTOR[:1]]
SHORT = {"max_new_tokens": 4}


@pytest.fixture(scope="module")
def layered(llama_base, tmp_path_factory):
    """A pair that reads two layers, and says which in both prompts."""
    from nla_sdk import NLAPair

    folder, model = tmp_path_factory.mktemp("layered"), tiny.plain_model(llama_base)
    two = {"layers": [1, 2], "fields": {"layer": {"values": [1, 2]}}}
    template = "Layer {layer}: <concept>{injection_char}</concept>\n"
    tiny.lora_av(folder / "av", llama_base, model, layer=1, av_template=template, **two)
    template = "Layer {layer}: <text>{explanation}</text> <summary>"
    tiny.lora_ar(folder / "ar", llama_base, model, layer=1, blocks=3, ar_template=template, **two)
    return NLAPair.from_pretrained(folder)


def same(found: dict, own: dict) -> None:
    """Whether a row has the SDK's own columns."""
    for name, value in own.items():
        if name not in ("activation_vector", "reconstruction"):
            near = isinstance(value, float)
            assert found[name] == (pytest.approx(value, abs=1e-5) if near else value), name


def test_the_pair_is_told_with_what_must_be_said_of_it(wire: Wire, full_pair):
    found = wire.get("/v1/pair").json()
    assert (found["layer"], found["d_model"], found["kind"]) == (full_pair.layer, full_pair.d_model, "pair")
    assert (found["has_av"], found["has_ar"], found["has_source"]) == (True, True, True)
    assert found["verdict"] is None and found["evaluation"] is None
    assert "Nobody has measured" in found["warning"]
    assert found["limits"]["positions"] == 512 and found["name"] == "tiny"


def test_a_pair_that_was_measured_says_what_was_found():
    from nla_sdk.evaluation.reading import load
    from nla_sdk.serve.about import figures_of, warning_of
    from tests.conftest import Path

    evaluation = load(Path(__file__).parents[3] / "nla_sdk" / "demo" / "evaluation.json")
    assert warning_of(evaluation) is None, "it reads content"
    figures = figures_of(evaluation)
    assert figures["rows"] == evaluation.round_trip.evaluated
    assert figures["fve_real"] == evaluation.round_trip.fve.value
    assert figures["fve_empty"] < 0 < figures["gain"]
    blind = evaluation.model_copy(
        update={"verdict": evaluation.verdict.model_copy(update={"value": "content-blind", "reason": "gain 0.01"})}
    )
    assert "no better than no text" in warning_of(blind) and "gain 0.01" in warning_of(blind)


def test_what_was_measured_of_another_pair_is_not_told_of_this_one(copied, tmp_path, caplog):
    import shutil
    from pathlib import Path

    from nla_sdk import NLAPair
    from nla_sdk.evaluation.reading import load, save
    from nla_sdk.serve.about import evaluation_beside

    folder = copied("shared")
    demo = load(Path(__file__).parents[3] / "nla_sdk" / "demo" / "evaluation.json")
    beside = {"layer": 4, "d_model": tiny.D_MODEL}
    save(demo.model_copy(update={"subject": demo.subject.model_copy(update=beside)}), folder / "evaluation.json")
    pair = NLAPair.from_pretrained(folder)
    assert evaluation_beside(pair) is not None
    other = Path(shutil.copytree(folder / "ar", tmp_path / "other"))
    tiny.write_sidecar(other, provenance={"pair_id": "another"})
    with pytest.warns(UserWarning, match="do not name each other"):
        mixed = NLAPair.from_pretrained(folder / "av", other)
    assert evaluation_beside(mixed) is None and "of another pair" in caplog.text
    save(demo, folder / "evaluation.json")
    assert evaluation_beside(pair) is None, "of another layer"
    (folder / "evaluation.json").write_text("{}")
    caplog.clear()
    assert evaluation_beside(pair) is None and "is not told" in caplog.text


def test_explain_gives_the_pairs_own_rows(wire: Wire, full_pair):
    found = wire.ask("/v1/explain", {"vectors": ROWS, **SHORT})
    for at, (row, own) in enumerate(zip(found["rows"], full_pair.explain(ROWS, **SHORT), strict=True)):
        same(row, own.to_row())
        assert (row["index"], row["sample"]) == (at, 0)
        assert "activation_vector" not in row
    assert found["layer"] == full_pair.layer


def test_explain_reads_texts_and_chats_and_says_where(wire: Wire, full_pair):
    acts = full_pair.extract(TEXT["text"], "all")
    rows = wire.ask("/v1/explain", {**TEXT, "positions": "all", **SHORT})["rows"]
    assert [row["api_explanation"] for row in rows] == [str(one) for one in full_pair.explain(acts, **SHORT)]
    assert [row["position"] for row in rows] == acts.positions
    assert [row["token"] for row in rows] == acts.tokens
    assert [row["l2_norm"] for row in rows] == pytest.approx(acts.norms.tolist())
    texts = ["one", "two three"]
    of_texts = wire.ask("/v1/explain", {"texts": texts, **SHORT})["rows"]
    assert [row["text_index"] for row in of_texts] == [0, 1]
    own = full_pair.explain(full_pair.extract(texts), **SHORT)
    assert [row["api_explanation"] for row in of_texts] == [str(one) for one in own]
    chat = wire.ask("/v1/explain", {**CHAT, **SHORT, "positions": [-1, 2]})["rows"]
    own = full_pair.explain(full_pair.extract(CHAT["messages"], [-1, 2]), **SHORT)
    assert [row["api_explanation"] for row in chat] == [str(one) for one in own]


def test_samples_and_signs_are_rows_of_their_own(wire: Wire, full_pair):
    body = {"vectors": ROWS[:2], "kind": "difference", "n": 2, "signs": "±", "temperature": 1.0, "seed": 3, **SHORT}
    rows = wire.ask("/v1/explain", body)["rows"]
    how = {name: body[name] for name in ("kind", "n", "signs", "temperature", "seed", "max_new_tokens")}
    own = [one for of_row in full_pair.explain(ROWS[:2], **how) for one in of_row]
    assert [row["api_explanation"] for row in rows] == [str(one) for one in own]
    assert [row["sign"] for row in rows] == [one.sign for one in own]
    assert [row["sample"] for row in rows] == [0, 1, 0, 1] * 2
    assert [row["index"] for row in rows] == [0] * 4 + [1] * 4


def test_of_both_signs_a_stream_says_which_a_text_is_of(wire: Wire):
    body = {"vectors": ROWS[:2], "kind": "difference", "signs": "±", "n": 2, "temperature": 1.0, "max_new_tokens": 8}
    frames = [frame for frame in wire.frames("/v1/explain", body) if "index" in frame]
    whole = {(one["index"], one["sample"], one["sign"]): one["api_explanation"] for one in frames if one["done"]}
    grown = [frame for frame in frames if not frame["done"]]
    assert len(whole) == 8 and grown
    for one in grown:
        assert whole[one["index"], one["sample"], one["sign"]].startswith(one["text"])


def test_best_of_brings_a_score(wire: Wire, full_pair):
    rows = wire.ask("/v1/explain", {"vectors": ROWS[:1], "best_of": 3, **SHORT})["rows"]
    same(rows[0], full_pair.explain(ROWS[:1], best_of=3, **SHORT)[0].to_row())
    assert rows[0]["best_of"] == 3


def test_a_round_trip_stands_beside_no_words_and_other_rows_words(wire: Wire, full_pair):
    others = ["something else", "and another"]
    found = wire.ask("/v1/round-trip", {"vectors": ROWS, "others": others, "vectors_out": True, **SHORT})
    trips = full_pair.round_trip(ROWS, **SHORT)
    texts = [str(trip.explanation) for trip in trips]
    for at, (row, trip) in enumerate(zip(found["rows"], trips, strict=True)):
        same(row, trip.to_row())
        assert row["reconstruction"] == pytest.approx(trip.reconstruction.tolist(), abs=1e-5)
        words = [text for place, text in enumerate(texts) if place != at] + others
        cosines = [metrics.cosine(full_pair.reconstruct(text), ROWS[at]) for text in words]
        assert row["shuffled_of"] == len(words) == 4
        assert row["shuffled_cosine"] == pytest.approx(float(np.mean(cosines)), abs=1e-5)
        assert row["shuffled_mse"] == pytest.approx(float(np.mean([2 - 2 * one for one in cosines])), abs=1e-5)
        empty = 2 - 2 * row["empty_cosine"]
        gains = [1 - (2 - 2 * one) / empty for one in cosines]
        assert row["shuffled_gain"] == pytest.approx(float(np.mean(gains)), abs=1e-4)


def test_rows_of_the_very_same_vector_are_no_others(wire: Wire, full_pair):
    rows = wire.ask("/v1/round-trip", {"vectors": [ROWS[0], ROWS[1], ROWS[0]], **SHORT})["rows"]
    first, second = (str(text) for text in full_pair.explain(ROWS[:2], **SHORT))
    for row, vector, words in zip(rows, (ROWS[0], ROWS[1], ROWS[0]), ([second], [first, first], [second]), strict=True):
        cosines = [metrics.cosine(full_pair.reconstruct(text), vector) for text in words]
        assert row["shuffled_of"] == len(words)
        assert row["shuffled_cosine"] == pytest.approx(float(np.mean(cosines)), abs=1e-5)
    twice = wire.ask("/v1/round-trip", {**TEXT, "positions": [2, 2], **SHORT})["rows"]
    assert [(row["shuffled_of"], row["shuffled_cosine"]) for row in twice] == [(0, None)] * 2


def test_rows_of_several_layers_are_scored_each_at_its_own(serve, layered):
    wire, texts = serve(layered), ["The cat sat", "a dog", "it rains"]
    acts = [layered.extract([text], -1, layer) for text, layer in zip(texts, (1, 2, 2), strict=True)]
    vectors = [one.vectors[0].tolist() for one in acts]
    for given in ({"texts": texts}, {"vectors": vectors, "force": True}):
        rows = wire.ask("/v1/round-trip", {**given, "layer": [1, 2, 2], **SHORT})["rows"]
        written = [row["api_explanation"] for row in rows]
        for at, (row, one) in enumerate(zip(rows, acts, strict=True)):
            words = [text for place, text in enumerate(written) if place != at]
            own = [score.cosine for score in layered.score(words, one)]
            assert row["cosine"] == pytest.approx(layered.score(written[at], one)[0].cosine, abs=1e-5)
            assert row["shuffled_cosine"] == pytest.approx(float(np.mean(own)), abs=1e-5)
        two = wire.post("/v1/score", {**given, "layer": [1, 2, 2], "explanations": written})
        assert two.status_code == 400 and "several layers" in two.json()["detail"]
    scores = wire.ask("/v1/score", {"texts": texts[1:], "layer": [2, 2], "explanations": ["a", "b"]})["rows"]
    own = [layered.score(text, one)[0].cosine for text, one in zip(("a", "b"), acts[1:], strict=True)]
    assert [row["cosine"] for row in scores] == pytest.approx(own, abs=1e-5)


def test_one_row_alone_has_no_other_rows_words(wire: Wire):
    row = wire.ask("/v1/round-trip", {"vectors": ROWS[:1], **SHORT})["rows"][0]
    assert row["shuffled_cosine"] is None and row["shuffled_of"] == 0
    assert "shuffled_of" not in wire.ask("/v1/round-trip", {"vectors": ROWS, "shuffled": False, **SHORT})["rows"][0]


def test_a_stream_has_a_head_growing_texts_rows_and_what_comes_after_all_rows(wire: Wire):
    body = {"vectors": ROWS, "max_new_tokens": 10}
    head, *frames = wire.frames("/v1/round-trip", body)
    plain = wire.ask("/v1/round-trip", body)["rows"]
    assert (head["total"], head["layer"]) == (3, 1)
    rows = {frame["index"]: frame for frame in frames if "api_explanation" in frame}
    after = {frame["index"]: frame for frame in frames if "shuffled_of" in frame}
    for at, row in enumerate(plain):
        assert rows[at]["done"] is True
        found = rows[at] | after[at]
        assert set(found) - {"done"} == set(row)
        same(found, row)
    grown = [frame for frame in frames if frame.get("done") is False]
    assert grown and all(set(frame) == {"index", "sample", "text", "done"} for frame in grown)


def test_a_row_that_fails_says_so_and_the_others_are_there(wire: Wire):
    body = {"vectors": [VECTOR, [0.0] * 64, VECTOR[::-1]], **SHORT}
    rows = wire.ask("/v1/explain", body)["rows"]
    assert rows[1]["error"] == "ZeroActivationError" and "api_explanation" not in rows[1]
    assert [row["index"] for row in rows if "api_explanation" in row] == [0, 2]
    frames = wire.frames("/v1/explain", body)
    assert [frame["index"] for frame in frames if "error" in frame] == [1]
    every = wire.post("/v1/explain", {"vectors": [[0.0] * 64] * 2})
    assert every.status_code == 400 and every.json()["error"] == "ZeroActivationError"


def test_an_error_says_the_rows_own_number(wire: Wire, serve, oracle):  # noqa: F811
    zero = [VECTOR, VECTOR[::-1], [0.0] * 64]
    assert "row 2 is all zeros" in wire.ask("/v1/explain", {"vectors": zero, **SHORT})["rows"][2]["detail"]
    assert "row 2 is all zeros" in wire.post("/describe", {"activations": zero}).json()["detail"]
    told = {
        frame["index"]: frame.get("error", "") for frame in wire.frames("/describe", {"activations": zero, **SHORT})
    }
    assert "row 2 is all zeros" in told[2]
    sets = {"vectors": [[one] for one in zero], "question": QUESTION, **SHORT}
    assert "set 2 in row 0 is all zeros" in serve(oracle).ask("/v1/ask", sets)["rows"][2]["detail"]


def test_no_error_says_where_the_pairs_files_lie(serve, full_pair, full_folder, llama_base, oracle, half):  # noqa: F811
    bodies = (
        (full_pair, "/v1/explain", {**TEXT, "layer": 2}),
        (full_pair, "/v1/reconstruct", {"explanations": ["a"], "layer": 0}),
        (full_pair, "/v1/steer", {**TEXT, "towards": "a", "layer": 99}),
        (full_pair, "/v1/ask", {**TEXT, "question": "What?"}),
        (oracle, "/v1/explain", {"vectors": ROWS}),
        (oracle, "/v1/ask", {**TEXT, "question": QUESTION, "layer": 0}),
        (oracle, "/v1/score", {**TEXT, "explanations": ["a"]}),
        (oracle, "/describe", {"activations": ROWS}),
    )
    for pair, path, body in bodies:
        refused = serve(pair).post(path, body)
        assert refused.status_code in (400, 503), (path, refused.text)
        for folder in (full_folder, llama_base, half):
            assert str(folder.parent) not in refused.text, path


def test_vectors_that_look_wrong_are_explained_with_a_warning(wire: Wire):
    found = wire.ask("/v1/explain", {"vectors": [[1e-4 * one for one in VECTOR]] * 16, "max_new_tokens": 1})
    assert "look" in found["warning"]
    forced = wire.ask("/v1/explain", {"vectors": [VECTOR], "force": True, "max_new_tokens": 1})
    assert forced["warning"] is None


def test_score_takes_as_many_texts_as_rows_or_one_of_either(wire: Wire, full_pair):
    texts = ["a cat", "a dog", "rain"]
    for vectors, words in ((ROWS, texts), (ROWS[:1], texts), (ROWS, texts[:1])):
        rows = wire.ask("/v1/score", {"vectors": vectors, "explanations": words})["rows"]
        for row, own in zip(rows, full_pair.score(words, vectors), strict=True):
            same(row, own.to_row())
    of_text = wire.ask("/v1/score", {**TEXT, "positions": [1, 2, 3], "explanations": texts})["rows"]
    own = full_pair.score(texts, full_pair.extract(TEXT["text"], [1, 2, 3]))
    assert [row["cosine"] for row in of_text] == pytest.approx([one.cosine for one in own], abs=1e-5)
    assert wire.post("/v1/score", {"vectors": ROWS, "explanations": texts[:2]}).status_code == 400


@pytest.mark.parametrize("name", ("shared", "centred"))
def test_nearest_tokens_are_told_by_what_is_left_over_the_mean(serve, lora_pair, name):
    from nla_sdk.calls.directions import centred

    pair = lora_pair(name)
    wire = serve(pair)
    text, words = "The cat sat on the mat", ["a cat", "the mat"]
    found = wire.ask("/v1/reconstruct", {"text": text, "explanations": words, "nearest": 4, "vectors_out": True})
    vectors = pair.reconstruct(words)
    acts = pair.extract(text, "all")
    mean = pair.reconstructor.mean if name == "centred" else pair.activation_statistics()[0].as_mean().vector
    rest = centred(vectors, [None] * 2, pair.reconstructor, pair._mean_of(None))
    assert found["centred"] is True
    for row, vector, over in zip(found["rows"], vectors, rest, strict=True):
        assert row["reconstruction"] == pytest.approx(vector.tolist(), abs=1e-4)
        assert row["l2_norm"] == pytest.approx(float(vector.norm()), rel=1e-5)
        cosines = metrics.cosine(over, acts.vectors - mean.cpu())
        order = np.argsort(-cosines)[:4].tolist()
        assert [one["position"] for one in row["nearest"]] == order
        assert [one["cosine"] for one in row["nearest"]] == pytest.approx(cosines[order].tolist(), abs=1e-4)
        assert [one["token"] for one in row["nearest"]] == [acts.tokens[at] for at in order]


def test_compare_tells_which_words_are_whose(wire: Wire, full_pair):
    a, b = {"vectors": ROWS[:2]}, {"vectors": ROWS[1:]}
    rows = wire.ask("/v1/compare", {"a": a, "b": b, "signs": "±", **SHORT})["rows"]
    for row, own in zip(rows, full_pair.compare(ROWS[:2], ROWS[1:], signs="±", **SHORT), strict=True):
        same(row, own.to_row())
        assert set(row["words_only_a"]).isdisjoint(row["words_only_b"])
    texts = wire.ask("/v1/compare", {"a": TEXT, "b": CHAT, **SHORT})["rows"]
    own = full_pair.compare(full_pair.extract([TEXT["text"]]), full_pair.extract([CHAT["messages"]]), **SHORT)
    assert texts[0]["difference"] == str(own[0].difference)
    two = wire.post("/v1/compare", {"a": {**a, "kind": "direction"}, "b": {**b, "kind": "difference"}})
    assert two.status_code == 400


@pytest.mark.parametrize("said", ({"kind": "direction"}, {"layer": 2}, {"force": True}, {"direction": "raw"}))
def test_what_is_said_of_one_side_is_not_taken_for_both(serve, layered, said):
    wire = serve(layered)
    a, b = {"vectors": ROWS[:1]}, {"vectors": ROWS[1:2]}
    assert wire.ask("/v1/compare", {"a": {**a, "kind": "activation", "layer": 1}, "b": b, **SHORT})["rows"]
    for sides in ({"a": {**a, **said}, "b": b}, {"a": a, "b": {**b, **said}}):
        refused = wire.post("/v1/compare", {**sides, **SHORT})
        assert refused.status_code == 400 and next(iter(said)) in refused.json()["detail"]


def test_words_are_told_apart_whatever_their_case():
    import torch

    from nla_sdk.calls.comparing import Comparison
    from nla_sdk.results import Explanation
    from nla_sdk.serve.apis.more import compared, words_in

    assert words_in("The cat, the CAT's mat: déjà-vu.") == ["the", "cat", "cat's", "mat", "déjà-vu"]

    texts = [Explanation(text) for text in ("A red cat", "a Cat sleeps", "red")]
    found = compared(Comparison(*texts, None, 1.0, 0.5, torch.ones(2)), 0, False)
    assert (found["words_only_a"], found["words_only_b"], found["words_both"]) == (["red"], ["sleeps"], ["a", "cat"])


def test_steering_gives_what_the_pair_gives(wire: Wire, full_pair):
    body = {**TEXT, "towards": "rain", "strength": [0.5, -1.0], "max_new_tokens": 4}
    rows = wire.ask("/v1/steer", body)["rows"]
    own = full_pair.steer([TEXT["text"]], ["rain"], [0.5, -1.0], max_new_tokens=4)
    assert [row["steered"] for row in rows] == [one.steered for one in own]
    assert [row["plain"] for row in rows] == [one.plain for one in own]
    assert [row["strength"] for row in rows] == [0.5, -1.0]
    along = wire.ask("/v1/steer", {"prompts": ["a", "b"], "vectors": [VECTOR], "max_new_tokens": 2})["rows"]
    assert [row["prompt"] for row in along] == ["a", "b"]
    chat = wire.ask("/v1/steer", {**CHAT, "towards": "rain", "max_new_tokens": 2})["rows"]
    assert chat[0]["prompt"] == wire.ask("/tokenize", CHAT)["text"]


def test_extract_and_tokenize_agree(wire: Wire, full_pair):
    found = wire.ask("/v1/extract", {**TEXT, "positions": [0, -1]})
    tokens = wire.ask("/v1/tokenize", TEXT)
    assert found["prompt_length"] == tokens["prompt_length"]
    own = full_pair.extract(TEXT["text"], [0, -1])
    for row, vector, at in zip(found["rows"], own.vectors, own.positions, strict=True):
        assert {name: row[name] for name in tokens["tokens"][at]} == tokens["tokens"][at]
        assert row["activation_vector"] == pytest.approx(vector.tolist(), abs=1e-6)
    assert wire.ask("/v1/extract", {**TEXT, "layer": 0})["layer"] == 0


def test_complete_draws_with_the_seed_that_is_given(wire: Wire, full_pair):
    body = {**TEXT, "max_new_tokens": 6, "temperature": 1.0, "seed": 7}
    found = wire.ask("/v1/complete", body)
    assert found["text"] == TEXT["text"] + full_pair.complete(TEXT["text"], 6, 1.0, 7).text
    assert wire.frames("/v1/complete", body)[-1]["text"] == found["text"]


def test_an_oracle_answers_what_it_answers_here(serve, oracle):  # noqa: F811
    wire = serve(oracle)
    acts = oracle.extract("She walked to the bank", [1, 2, 3], layer=2)
    told = wire.get("/v1/pair").json()
    assert (told["kind"], told["has_ar"], told["layers"]) == ("oracle", False, LAYERS)
    of_text = {"text": "She walked to the bank", "positions": [1, 2, 3], "layer": 2}
    rows = wire.ask("/v1/ask", {**of_text, "question": [QUESTION, "Who?"]})["rows"]
    for row, own in zip(rows, oracle.ask(acts, [QUESTION, "Who?"]), strict=True):
        same(row, own.to_row())
    sets = {"vectors": [ROWS[:2], ROWS[1:]], "question": QUESTION, "layer": 1, "n": 2, "temperature": 1.0}
    rows = wire.ask("/v1/ask", sets)["rows"]
    own = [
        one for of_set in oracle.ask([ROWS[:2], ROWS[1:]], QUESTION, layer=1, n=2, temperature=1.0) for one in of_set
    ]
    assert [row["api_explanation"] for row in rows] == [str(one) for one in own]
    assert [(row["index"], row["sample"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    texts = {"texts": ["The cat sat", "a dog"], "layer": [1, 2], "question": QUESTION}
    of_texts = wire.ask("/v1/ask", texts)["rows"]
    own = oracle.ask(texts["texts"], QUESTION, layer=[1, 2])
    assert [row["api_explanation"] for row in of_texts] == [str(one) for one in own]
    tagged = wire.post("/v1/ask", {**of_text, "question": QUESTION, "model_tag": "another"})
    assert tagged.status_code == 400 and "model_tag" in tagged.json()["detail"]
    frames = wire.frames("/v1/ask", {**of_text, "question": QUESTION})
    assert [one["api_explanation"] for one in frames if one.get("done")] == [str(oracle.ask(acts, QUESTION))]
    for path, body in (("/v1/explain", {"vectors": ROWS}), ("/describe", {"activations": ROWS})):
        refused = wire.post(path, {**body, "stream": True})
        assert refused.status_code == 400 and "question" in refused.json()["detail"]
    assert wire.post("/v1/score", {"vectors": ROWS, "explanations": ["a"]}).status_code == 503


def test_an_ar_alone_scores_and_explains_nothing(serve, full_folder):
    from nla_sdk import NLAPair

    wire = serve(NLAPair.from_pretrained(None, full_folder / "ar"))
    assert wire.get("/v1/pair").json()["kind"] == "ar"
    assert wire.get("/").json()["verbalizer_model"] is None
    assert wire.ask("/v1/score", {"vectors": ROWS, "explanations": ["a"]})["rows"]
    assert wire.ask("/v1/score", {**TEXT, "explanations": ["a"]})["rows"]
    for path, body in (("/v1/explain", {"vectors": ROWS}), ("/explain", TEXT), ("/describe", {"activations": ROWS})):
        refused = wire.post(path, {**body, "stream": True})
        assert refused.status_code == 503 and "AV" in refused.json()["detail"]


def test_releases_are_those_that_are_known_here(wire: Wire):
    from nla_sdk.contract.releases.catalogue import releases

    found = wire.get("/v1/releases").json()["releases"]
    assert [one["repo"] for one in found] == [one.repo for one in releases()]
    assert set(found[0]) == {"repo", "subfolder", "family", "kind", "runnable", "missing", "faults"}


def test_a_text_that_is_called_like_a_file_is_a_text(wire: Wire, tmp_path):
    file = tmp_path / "acts.npy"
    np.save(file, np.ones((1, 64), np.float32))
    text = str(file)
    assert wire.ask("/v1/explain", {"text": text, "max_new_tokens": 1})["rows"]
    assert wire.ask("/v1/complete", {"text": text, "max_new_tokens": 1})["text"].startswith(text)
    assert wire.ask("/v1/score", {"vectors": [VECTOR], "explanations": [text]})["rows"]
    assert wire.ask("/v1/reconstruct", {"explanations": [text]})["rows"]
    assert wire.ask("/v1/steer", {"text": text, "towards": text, "max_new_tokens": 1})["rows"]


@pytest.mark.parametrize(
    ("path", "body"),
    (
        ("/v1/explain", {**TEXT, "vectors": [VECTOR]}),
        ("/v1/explain", {}),
        ("/v1/explain", {**TEXT, "kind": "direction"}),
        ("/v1/explain", {**TEXT, "mean": "mean.safetensors"}),
        ("/v1/explain", {**TEXT, "positions": "some"}),
        ("/v1/explain", {**TEXT, "temperature": "0"}),
        ("/v1/round-trip", {**TEXT, "n": 2}),
        ("/v1/steer", {**TEXT}),
        ("/v1/steer", {"towards": "rain"}),
        ("/v1/score", {"vectors": [VECTOR], "explanations": []}),
    ),
)
def test_fields_that_make_no_sense_together_are_refused_by_name(wire: Wire, path, body):
    response = wire.post(path, body)
    assert response.status_code == 422, response.text
    assert response.json()["error"] == "ValidationError" and response.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    (
        ("/v1/explain", {**TEXT, "positions": 99}, "PositionError"),
        ("/v1/explain", {**TEXT, "layer": 2}, "UnseenValueError"),
        ("/v1/explain", {"vectors": [VECTOR[:3]]}, "ActivationShapeError"),
        ("/v1/explain", {"vectors": [VECTOR], "n": 2, "best_of": 2}, "InputError"),
        ("/v1/extract", {**TEXT, "layer": 99}, "LayerError"),
        ("/v1/ask", {**TEXT, "question": "What?"}, "NotAnOracleError"),
        ("/v1/explain", {"text": "a\0b"}, "TextError"),
    ),
)
def test_errors_of_the_sdk_come_by_their_names(wire: Wire, path, body, name):
    response = wire.post(path, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"] == name and response.json()["detail"]


def test_numbers_that_are_none_are_null():
    from nla_sdk.serve.requests.streams import written

    assert written({"a": [1.5, math.nan, np.array([math.inf, 1.0])]}) == '{"a":[1.5,null,[null,1.0]]}'
