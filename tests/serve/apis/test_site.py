"""The public site's API, row by row of its tables."""

from __future__ import annotations

import pytest

from nla_sdk.serve.apis import inference
from tests.serve.wire import CHAT, TEXT, TOKEN, Wire, fields_are

SOURCE = {
    "modelId": str,
    "id": str,
    "displayName": str,
    "description": str,
    "url": (str, type(None)),
    "author": (str, type(None)),
    "av": str,
    "ar": str,
    "layerNum": int,
    "norm": (float, type(None)),
    "createdAt": str,
    "model": dict,
}
BASE = "/api/nla"
NEW_TOKENS = inference.NEW_TOKENS  # of which no test but one says anything


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(inference, "NEW_TOKENS", 12)


@pytest.fixture
def named(wire: Wire) -> dict:
    source = wire.get(f"{BASE}/sources").json()["sources"][0]
    return {"modelId": source["modelId"], "nlaSourceId": source["id"]}


def test_the_pair_is_the_only_source(wire: Wire, full_pair):
    found = wire.get(f"{BASE}/sources").json()["sources"]
    assert len(found) == 1
    fields_are(found[0], SOURCE)
    assert found[0]["layerNum"] == full_pair.layer
    assert found[0]["modelId"] == found[0]["model"]["id"]
    assert set(found[0]["model"]) == {"id", "displayName", "openRouterAvailable"}


def test_norm_is_the_mse_of_predicting_the_mean(serve, lora_pair):
    pair = lora_pair("centred")
    assert serve(pair).get(f"{BASE}/sources").json()["sources"][0]["norm"] == pair.baseline_mse == 1.5


def test_explanations_are_sorted_by_position_and_known_by_a_key(wire: Wire, full_pair, named):
    body = {**named, **TEXT, "positions": [5, 1, 1, 3], "temperature": 0}
    found = wire.ask(f"{BASE}/explain", body)
    assert [one["position"] for one in found["results"]] == [1, 3, 5]
    for one in found["results"]:
        fields_are(one, {**TOKEN, "description": str, "l2_norm": float, "mse": float, "cosine_similarity": float})
    own = full_pair.explain(full_pair.extract(TEXT["text"], [1, 3, 5]), max_new_tokens=12)
    assert NEW_TOKENS == 200, "what the site's own server writes at most"
    assert [one["description"] for one in found["results"]] == [str(text) for text in own]
    assert found["layer_index"] == full_pair.layer
    assert found["prompt_length"] == wire.ask("/tokenize", TEXT)["prompt_length"]
    assert len(found["cacheId"]) >= 24
    assert found["cacheId"] != wire.ask(f"{BASE}/explain", {**body, "positions": [1]})["cacheId"]


def test_what_the_key_knows_is_not_written_again(wire: Wire, named, full_pair):
    body = {**named, **TEXT, "positions": [1, 2], "temperature": 5.0}
    first = wire.ask(f"{BASE}/explain", body)
    before = written(wire)
    second = wire.ask(f"{BASE}/explain", {**body, "positions": [1, 2, 3], "priorCacheId": first["cacheId"]})
    assert second["results"][:2] == first["results"]
    assert written(wire) == before + 1
    third = wire.ask(f"{BASE}/explain", {**body, "positions": [3, 1], "priorCacheId": second["cacheId"]})
    assert third["results"] == [second["results"][0], second["results"][2]]
    assert written(wire) == before + 1


def test_a_key_of_another_text_or_of_nobody_gives_nothing(wire: Wire, named):
    body = {**named, **TEXT, "positions": [1], "temperature": 5.0}
    key = wire.ask(f"{BASE}/explain", body)["cacheId"]
    before = written(wire)
    wire.ask(f"{BASE}/explain", {**body, "text": "Another one.", "priorCacheId": key})
    wire.ask(f"{BASE}/explain", {**body, "priorCacheId": "guessed"})
    assert written(wire) == before + 2


def test_a_key_of_a_chat_gives_nothing_of_the_text_that_it_is_rendered_as(wire: Wire, named):
    chat = {"messages": [{"role": "user", "content": "Is it\n[model]\nraining?"}], "add_generation_prompt": False}
    other = [{"role": "user", "content": "Is it"}, {"role": "model", "content": "raining?"}]
    text = wire.ask("/tokenize", chat)["text"]
    assert wire.ask("/tokenize", {**chat, "messages": other})["text"] == text
    body = {**named, "positions": [9, 12], "temperature": 0}
    key = wire.ask(f"{BASE}/explain", {**body, **chat})["cacheId"]
    for one in ({"text": text}, {**chat, "messages": other}):
        alone = wire.ask(f"{BASE}/explain", {**body, **one})["results"]
        assert wire.ask(f"{BASE}/explain", {**body, **one, "priorCacheId": key})["results"] == alone


def written(wire: Wire) -> float:
    lines = [line for line in wire.get("/metrics").text.splitlines() if line.startswith("nla_rows_total")]
    return sum(float(line.split()[-1]) for line in lines if "/api/nla/explain" in line)


def test_a_stream_ends_with_the_key(wire: Wire, named):
    body = {**named, **CHAT, "positions": [1, 2], "temperature": 0}
    first = wire.frames(f"{BASE}/explain", body)
    assert set(first[0]) == {"layer_index", "total", "prompt_length"} and first[0]["total"] == 2
    assert set(first[-1]) == {"cacheId"}
    assert {one["position"] for one in first[1:-1] if "description" in one} == {1, 2}
    again = wire.frames(f"{BASE}/explain", {**body, "positions": [1, 2], "priorCacheId": first[-1]["cacheId"]})
    assert len(again) == 4, "both are known: no text grows"


def test_at_most_sixteen_positions_that_are_not_kept(wire: Wire, named):
    text = {"text": "a b c d e f g h i j k l m n o p q r s t"}
    body = {**named, **text, "temperature": 0}
    assert wire.post(f"{BASE}/explain", {**body, "positions": list(range(17))}).status_code == 400
    key = wire.ask(f"{BASE}/explain", {**body, "positions": list(range(16))})["cacheId"]
    more = wire.ask(f"{BASE}/explain", {**body, "positions": list(range(20)), "priorCacheId": key})
    assert len(more["results"]) == 20


def test_the_fields_of_the_sites_page_are_taken(wire: Wire, named):
    more = {"tokens": ["a"], "tokenSpans": [[0, 1]], "templateFormat": "chat", "add_generation_prompt": False}
    assert wire.ask(f"{BASE}/explain", {**named, **TEXT, "positions": [1], **more})["results"]


def test_completion_has_what_was_written_and_the_whole(wire: Wire, full_pair, named):
    body = {"modelId": named["modelId"], **CHAT, "completion_tokens": 4, "temperature": 0}
    found = wire.ask(f"{BASE}/completion", body)
    fields_are(found, {"completion": str, "full_text": str, "tokens": list})
    assert found["full_text"] == wire.ask("/tokenize", CHAT)["text"] + found["completion"]
    frames = wire.frames(f"{BASE}/completion", body)
    assert frames[-1] == {"type": "done", "text": found["full_text"]}


@pytest.mark.parametrize(
    ("change", "status"),
    (
        ({"modelId": "another"}, 404),
        ({"nlaSourceId": "another"}, 404),
        ({"positions": [-1]}, 400),
        ({"positions": None}, 400),
        ({"positions": [999]}, 400),
        ({"text": "a" * 16_385}, 400),
        ({"temperature": "hot"}, 400),
    ),
    ids=str,
)
def test_refusals_have_the_sites_form(wire: Wire, named, change, status):
    response = wire.post(f"{BASE}/explain", {**named, **TEXT, "positions": [1], **change})
    assert response.status_code == status
    assert set(response.json()) == {"error"} and isinstance(response.json()["error"], str)


def test_an_address_has_so_many_requests_an_hour_and_is_told_what_is_left(serve, full_pair, named):
    wire = serve(full_pair, per_hour=2)
    body = {**named, **TEXT, "positions": [1], "temperature": 0}
    left = [wire.post(f"{BASE}/explain", body) for _ in range(3)]
    assert [one.status_code for one in left] == [200, 200, 429]
    assert [one.headers["x-limit-remaining"] for one in left] == ["1", "0", "0"]
    assert {name: left[2].json()[name] for name in ("endpoint", "limitPerWindow", "requestWindow")} == {
        "endpoint": f"{BASE}/explain",
        "limitPerWindow": 2,
        "requestWindow": "1 hour",
    }
    assert left[2].json()["remainingRequests"] == 0 and left[2].json()["error"]


def test_the_secret_is_taken_as_the_site_takes_its_key(serve, full_pair):
    from tests.serve.wire import Wire

    url = serve(full_pair, secret="s3cret").url
    assert Wire(url).get(f"{BASE}/sources").status_code == 401
    assert Wire(url).get(f"{BASE}/sources", **{"x-api-key": "s3cret"}).status_code == 200
    assert Wire(url).get(f"{BASE}/sources", **{"x-api-key": "wrong"}).status_code == 403
    assert Wire(url).get("/v1/pair", **{"x-api-key": "s3cret"}).status_code == 401


def test_what_is_kept_is_bounded():
    from nla_sdk.serve.requests.keeping import KEPT, RESULTS, Site

    site = Site()
    keys = [site.keep("text", {at: {} for at in range(4)}) for _ in range(KEPT + 50)]
    assert len(site.texts) == KEPT
    assert not site.known(keys[0], "text") and site.known(keys[-1], "text")
    large = [site.keep("text", {at: {} for at in range(512)}) for _ in range(40)]
    assert sum(len(one.results) for one in site.texts.values()) <= RESULTS
    assert site.known(large[-1], "text") and not site.known(keys[-1], "text")
