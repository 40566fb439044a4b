"""Other people's models in an evaluation: a paraphraser, an embedder."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from nla_sdk.errors import InputError
from tests.evaluate.planted import FEW, Oracle, PlantedPair, evaluate, table
from training.evaluate import extras


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("heldout") / "heldout.parquet")


def provider(folder, **section):
    file = folder / "para.yaml"
    file.write_text(json.dumps(section), encoding="utf-8")
    return file


def test_what_a_paraphrase_loses_is_measured_on_the_rows_that_have_one(tmp_path, data):
    known = Oracle(data)
    first = evaluate(PlantedPair(tmp_path / "a", known.say, known.hear), data, tmp_path / "first", FEW)
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "first" / "rows.parquet").to_pylist()
    lines = [
        {"text": row["explanation"], "explanation": row["explanation"].replace("The text is", "This is a text about")}
        for row in rows[::2]
    ]
    lines[0]["explanation"] = "Something else altogether."  # a paraphrase that lost the document
    (tmp_path / "para.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    config = provider(tmp_path, kind="file", path=str(tmp_path / "para.jsonl"))
    paraphrase = extras.paraphraser(config)
    settings = FEW.model_copy(update={"signal_n": 60, "paraphraser": paraphrase.name})
    pair = PlantedPair(tmp_path / "b", known.say, known.hear)
    found = evaluate(pair, data, tmp_path / "second", settings, paraphrase=paraphrase)
    assert first.signal.paraphrased is None
    assert found.signal.paraphrased.n == 30 and found.settings.paraphraser == "file:para.jsonl"
    assert 0 < found.signal.paraphrased.value < 0.2
    assert found.inputs["paraphraser"] == paraphrase.digest


def test_other_paraphrases_under_the_same_name_are_other_inputs(tmp_path):
    lines = tmp_path / "para.jsonl"
    config = provider(tmp_path, kind="file", path=str(lines))
    digests = set()
    for said in ("one way", "another way"):
        lines.write_text(json.dumps({"text": "a", "explanation": said}), encoding="utf-8")
        digests.add(extras.paraphraser(config).digest)
    assert len(digests) == 2


def test_of_a_paraphraser_every_setting_counts_but_those_that_decide_no_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ELSEWHERE", "k")

    def digest(**more):
        return extras.paraphraser(provider(tmp_path, kind="openai", model="m", **more)).digest

    assert digest() == digest(key_env="ELSEWHERE") == digest(timeout=7)
    assert digest() != digest(temperature=0.5) and digest() != digest(base_url="http://localhost:1/v1")


def test_a_provider_that_cannot_paraphrase_is_refused(tmp_path):
    for kind in ("extractive", "readout"):
        with pytest.raises(InputError, match=f"{kind} cannot paraphrase; name a model .* or a file"):
            extras.paraphraser(provider(tmp_path, kind=kind))
    with pytest.raises(InputError, match="needs `model`"):
        extras.paraphraser(provider(tmp_path, kind="openai"))


def test_a_paraphraser_that_asks_for_a_pause_gets_it(tmp_path, monkeypatch):
    from training.label.faults import Transient
    from training.label.providers import local
    from training.label.providers.protocol import Completion

    outcomes = [Transient("busy", retry_after=0.1), Completion("In other words.", "m")]

    def complete(self, request):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(local.File, "complete", complete)
    (tmp_path / "para.jsonl").write_text("", encoding="utf-8")
    say = extras.paraphraser(provider(tmp_path, kind="file", path=str(tmp_path / "para.jsonl")))
    began = time.monotonic()
    assert say("In these words.") == "In other words."
    assert time.monotonic() - began >= 0.1


def test_an_embedder_is_a_sentence_transformers_model(tmp_path, base, data):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(base))
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())])
    model.save(str(tmp_path / "embedder"))
    embed = extras.embedder(str(tmp_path / "embedder"))
    vectors = embed(["the cat sat", "the cat sat", "on a mat"])
    assert vectors.shape == (3, 64) and np.array_equal(vectors[0], vectors[1])
    known = Oracle(data)
    named = FEW.model_copy(update={"embedder": embed.name})
    found = evaluate(PlantedPair(tmp_path / "pair", known.say, known.hear), data, tmp_path / "out", named, embed=embed)
    assert {"words", "characters", "embeddings"} <= {one.features for one in found.content.retrieval}
    from training.evaluate.verify import verify

    assert embed.name == "embedder" and found.inputs["embedder"] == embed.digest
    verify(tmp_path / "out" / "evaluation.json")  # without the embedder: those figures rest on the file's hash


def test_an_embedder_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        extras.embedder(str(tmp_path / "nowhere"))
