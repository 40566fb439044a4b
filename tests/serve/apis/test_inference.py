"""The inference API, row by row of its tables, by a client that was written from these."""

from __future__ import annotations

import pytest

from tests.serve.wire import CHAT, TEXT, TOKEN, VECTOR, Wire, fields_are

STATUS = {
    "status": str,
    "verbalizer_model": str,
    "d_model": int,
    "extraction_layer": int,
    "source_model": str,
    "source_truncated": bool,
    "reconstructor_available": bool,
    "completion_available": bool,
    "num_cuda_devices": int,
    "max_concurrent": int,
    "max_concurrent_explains": int,
    "source_max_concurrent": int,
    "reconstructor_max_concurrent": int,
    "max_describe_requests": int,
    "limits": dict,
}
LIMITS = {
    "max_input_chars": 65_536,
    "max_positions_per_request": 512,
    "max_new_tokens": 4096,
    "max_describe_batch": 512,
    "max_description_chars": 8192,
    "max_completion_tokens": 512,
}
FINAL = {"description": str, "mse": float, "cosine_similarity": float}
SHORT = {"max_new_tokens": 3}


def test_the_status_has_every_field_and_the_limits_that_are_kept(wire: Wire):
    status = wire.get("/").json()
    fields_are(status, STATUS)
    assert status["limits"] == LIMITS
    parts = ("verbalizer", "source", "reconstructor")
    assert all(f"{part}_{fact}" in status for part in parts for fact in ("device", "dtype", "quantization"))


@pytest.mark.parametrize("text", (TEXT, CHAT), ids=("text", "chat"))
def test_tokenize_gives_every_token_with_all_its_fields(wire: Wire, text):
    found = wire.ask("/tokenize", text)
    assert found["prompt_length"] == len(found["tokens"]) > 5
    for at, token in enumerate(found["tokens"]):
        fields_are(token, TOKEN)
        assert token["position"] == at
        assert (token["section"] is None) == (text is TEXT)
    if text is TEXT:
        assert found["text"] == TEXT["text"]
    else:
        assert {token["section"] for token in found["tokens"]} >= {"content", "scaffold"}
        said = "".join(one["token"] for one in found["tokens"] if one["message_index"] == 0)
        assert CHAT["messages"][0]["content"] in said


def test_messages_win_over_a_text_and_their_options_reach_the_template(wire: Wire):
    both = wire.ask("/tokenize", {**CHAT, **TEXT})
    assert both == wire.ask("/tokenize", CHAT)
    assert both["text"].endswith("[model]\n")
    closed = wire.ask("/tokenize", {**CHAT, "add_generation_prompt": False})["text"]
    assert both["text"] == closed + "[model]\n"
    opened = wire.ask("/tokenize", {**CHAT, "continue_final_message": True})["text"]
    assert opened.endswith("It is.")


def test_extract_gives_the_activation_at_every_token(wire: Wire, full_pair):
    found = wire.ask("/extract", TEXT)
    own = full_pair.extract(TEXT["text"], "all")
    assert found["layer_index"] == own.layer
    assert [token["position"] for token in found["tokens"]] == own.positions
    for token, vector in zip(found["tokens"], own.vectors, strict=True):
        assert set(token) == {"token", "token_id", "position", "activation", "l2_norm"}
        assert token["activation"] == pytest.approx(vector.tolist(), abs=1e-6)
        assert token["l2_norm"] == pytest.approx(float(vector.norm()))


def test_explain_gives_the_words_that_the_pair_writes_last_position_first(wire: Wire, full_pair):
    found = wire.ask("/explain", {**TEXT, **SHORT, "positions": [1, -1, 3], "temperature": 0})
    length = wire.ask("/tokenize", TEXT)["prompt_length"]
    assert [one["position"] for one in found["results"]] == [length - 1, 3, 1]
    acts = full_pair.extract(TEXT["text"], [length - 1, 3, 1])
    trips = full_pair.round_trip(acts, max_new_tokens=3)
    for one, trip in zip(found["results"], trips, strict=True):
        fields_are(one, {**TOKEN, **FINAL, "l2_norm": float, "generated": bool})
        assert one["description"] == str(trip.explanation)
        assert one["cosine_similarity"] == pytest.approx(trip.cosine, abs=1e-5)
        assert one["mse"] == pytest.approx(2 - 2 * trip.cosine, abs=1e-5)
    assert found["layer_index"] == full_pair.layer
    forward = wire.ask("/explain", {**TEXT, **SHORT, "positions": [1, -1, 3], "temperature": 0, "reverse": False})
    assert forward["results"] == found["results"][::-1]


@pytest.mark.parametrize("every", ({}, {"positions": None}, {"positions": []}), ids=str)
def test_no_positions_are_all_positions(wire: Wire, every):
    found = wire.ask("/explain", {**TEXT, "max_new_tokens": 1, **every})
    assert len(found["results"]) == wire.ask("/tokenize", TEXT)["prompt_length"]


def test_two_explanations_differ_as_samples_do(wire: Wire):
    body = {**TEXT, "positions": [-1], "max_new_tokens": 12}
    assert len({wire.ask("/explain", body)["results"][0]["description"] for _ in range(3)}) > 1


def test_a_stream_of_explanations_has_its_frames_in_their_order(wire: Wire):
    body = {**TEXT, "positions": [2, 4], "max_new_tokens": 12, "temperature": 0}
    head, *frames = wire.frames("/explain", body)
    length = wire.ask("/tokenize", TEXT)["prompt_length"]
    plain = wire.ask("/explain", body)
    assert head == {"layer_index": plain["layer_index"], "total": 2, "prompt_length": length}
    finals = [frame for frame in frames if "description" in frame]
    for one, own in zip(sorted(finals, key=lambda one: -one["position"]), plain["results"], strict=True):
        fields_are(one, {**TOKEN, **FINAL, "l2_norm": float, "generated": bool})
        assert one["description"] == own["description"]
        before = frames[: frames.index(one)]
        growing = [frame["text"] for frame in before if frame["position"] == one["position"]]
        assert growing, "text so far comes before the text"
        assert all(one["description"].startswith(text.strip()) for text in growing)
        assert not [frame for frame in frames[len(before) + 1 :] if frame["position"] == one["position"]]
    for frame in frames:
        if "description" not in frame:
            assert set(frame) == {"position", "text", "done"} and frame["done"] is False


def test_describe_gives_a_description_of_each_activation(wire: Wire, full_pair):
    rows = [VECTOR, VECTOR[::-1]]
    found = wire.ask("/describe", {"activations": rows, **SHORT, "temperature": 0})
    own = full_pair.round_trip(rows, max_new_tokens=3)
    assert [one["description"] for one in found["results"]] == [str(one.explanation) for one in own]
    assert all(set(one) == set(FINAL) for one in found["results"])


def test_a_stream_of_descriptions_says_which_row_each_frame_is_of(wire: Wire):
    body = {"activations": [VECTOR, VECTOR[::-1], VECTOR[1:] + VECTOR[:1]], "max_new_tokens": 8, "temperature": 0}
    frames = wire.frames("/describe", body)
    plain = wire.ask("/describe", body)["results"]
    finals = {frame["index"]: frame for frame in frames if "description" in frame}
    assert [finals[at]["description"] for at in range(3)] == [one["description"] for one in plain]
    grown = [frame for frame in frames if "description" not in frame]
    assert grown and all(set(frame) == {"index", "text", "done"} and frame["done"] is False for frame in grown)


def test_a_row_that_fails_has_an_error_frame_and_the_others_go_on(wire: Wire):
    frames = wire.frames("/describe", {"activations": [VECTOR, [0.0] * 64, VECTOR[::-1]], **SHORT})
    failed = [frame for frame in frames if "error" in frame]
    assert [frame["index"] for frame in failed] == [1]
    assert "zero" in failed[0]["error"]
    assert {frame["index"] for frame in frames if "description" in frame} == {0, 2}


def test_score_is_that_of_any_text(wire: Wire, full_pair):
    found = wire.ask("/score", {"description": "a cat", "activation": VECTOR})
    own = full_pair.score("a cat", VECTOR)
    assert found == {"mse": pytest.approx(own.mse), "cosine_similarity": pytest.approx(own.cosine)}


def test_compare_describes_a_less_b_as_a_difference(wire: Wire, full_pair):
    a, b = VECTOR, VECTOR[::-1]
    found = wire.ask("/compare", {"activation_a": a, "activation_b": b, **SHORT, "temperature": 0})
    between = [x - y for x, y in zip(a, b, strict=True)]
    own = full_pair.round_trip([between], kind="difference", max_new_tokens=3)[0]
    assert found["description"] == str(own.explanation)
    assert found["diff_norm"] == pytest.approx(sum(x * x for x in between) ** 0.5)
    assert found["cosine_similarity"] == pytest.approx(own.cosine, abs=1e-5)


def test_completion_has_the_tokens_of_prompt_and_continuation(wire: Wire, full_pair):
    found = wire.ask("/completion", {**TEXT, "completion_tokens": 4, "temperature": 0})
    own = full_pair.complete(TEXT["text"], 4)
    prompt = wire.ask("/tokenize", TEXT)
    assert found["prompt_length"] == prompt["prompt_length"]
    assert [one["token_id"] for one in found["tokens"]] == [
        *(one["token_id"] for one in prompt["tokens"]),
        *own.ids,
    ]
    assert found["text"] == TEXT["text"] + own.text
    for token in found["tokens"]:
        fields_are(token, TOKEN)


@pytest.mark.parametrize("text", (TEXT, CHAT), ids=("text", "chat"))
def test_a_stream_of_a_completion_has_the_prompt_each_token_and_the_text(wire: Wire, text):
    body = {**text, "completion_tokens": 5, "temperature": 0}
    head, *tokens, last = wire.frames("/completion", body)
    plain = wire.ask("/completion", body)
    assert head == {"type": "prompt", "prompt_length": plain["prompt_length"], "tokens": head["tokens"]}
    assert head["tokens"] == wire.ask("/tokenize", text)["tokens"]
    assert all(set(frame) == {"type", "token"} and frame["type"] == "token" for frame in tokens)
    assert head["tokens"] + [frame["token"] for frame in tokens] == plain["tokens"]
    assert last == {"type": "done", "text": plain["text"]}


@pytest.mark.parametrize(("asked", "given"), ((0, 1), (-5, 1), (9999, 512)))
def test_the_number_of_tokens_to_complete_is_brought_within_its_bounds(serve, full_pair, asked, given, monkeypatch):
    wanted = []
    own = full_pair.complete
    monkeypatch.setattr(full_pair, "complete", lambda text, **how: wanted.append(how) or own(text, 1))
    serve(full_pair).ask("/completion", {**TEXT, "completion_tokens": asked})
    assert wanted[0]["max_new_tokens"] == given


@pytest.mark.parametrize(
    ("path", "body", "status"),
    (
        ("/explain", {**TEXT, "positions": [99]}, 400),
        ("/explain", {}, 400),
        ("/tokenize", {"text": ""}, 400),
        ("/tokenize", {"text": "a" * 65_537}, 422),
        ("/explain", {**TEXT, "temperature": 5.1}, 422),
        ("/explain", {**TEXT, "max_new_tokens": 0}, 422),
        ("/explain", {**TEXT, "max_new_tokens": 4097}, 422),
        ("/explain", {**TEXT, "positions": [0] * 513}, 422),
        ("/describe", {"activations": []}, 422),
        ("/describe", {"activations": [VECTOR] * 513}, 422),
        ("/describe", {"activations": [VECTOR[:-1]]}, 400),
        ("/describe", {"activations": [VECTOR, VECTOR[:-1]]}, 400),
        ("/score", {"description": "a" * 8193, "activation": VECTOR}, 422),
        ("/compare", {"activation_a": VECTOR, "activation_b": VECTOR}, 400),
    ),
)
def test_what_is_out_of_bounds_is_refused_with_a_detail(wire: Wire, path, body, status):
    response = wire.post(path, body)
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert (isinstance(detail, list) and {"loc", "msg", "type"} == set(detail[0])) if status == 422 else detail


def test_fields_of_other_versions_are_passed_over(wire: Wire):
    assert wire.ask("/tokenize", {**TEXT, "some_new_field": 1}) == wire.ask("/tokenize", TEXT)


def test_without_a_reconstructor_rows_have_no_score_and_scoring_says_503(serve, full_folder):
    from nla_sdk import NLAPair

    av_only = NLAPair.from_pretrained(full_folder / "av")
    wire = serve(av_only)
    assert wire.get("/").json()["reconstructor_available"] is False
    row = wire.ask("/explain", {**TEXT, **SHORT, "positions": [-1]})["results"][0]
    assert "description" in row and "mse" not in row and "cosine_similarity" not in row
    response = wire.post("/score", {"description": "a cat", "activation": VECTOR})
    assert response.status_code == 503 and "AR" in response.json()["detail"]


def test_without_a_source_texts_cannot_be_read_and_activations_can(serve, full_pair):
    wire = serve(full_pair, source=False)
    assert wire.get("/").json()["completion_available"] is False
    assert wire.post("/explain", TEXT).status_code == 503
    assert wire.ask("/describe", {"activations": [VECTOR], **SHORT})["results"]
