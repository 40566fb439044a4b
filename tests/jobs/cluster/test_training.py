"""Stages of data, training and evaluation on a real Ray cluster have the tables of the local run, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS, VARIANTS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.tables import vector_column
from nla_sdk.model.statistics.states import STATISTICS_FILE, ActivationStatistics
from tests import configs
from tests.commands import invoke
from tests.jobs.cluster.counting import NEEDS_RAY
from training.configs.command import cluster_stage
from training.configs.config import Config
from training.data import extract
from training.data.tables.columns import response_of
from training.evaluate import extras
from training.evaluate.__main__ import app
from training.fit import expert, on_policy

pytestmark = NEEDS_RAY
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "to", "sea", "by", "noon", "or", "so", "said"]


def killed_after(count: int):
    """A driver that is killed when it has kept so many chunks."""
    real, kept = Chunks.write, iter(range(1, 1000))

    def write(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        if next(kept) == count:
            raise KeyboardInterrupt

    patch = pytest.MonkeyPatch()
    patch.setattr(Chunks, "write", write)
    return patch


def kill_an_actor() -> None:
    """As a machine without memory does."""
    for part in psutil.Process().children(recursive=True):
        if part.name().startswith("ray::Worker"):
            return part.send_signal(signal.SIGKILL)
    raise AssertionError("no actor is there")


def chunks_kept(out) -> int:
    """How many finished chunks lie in a folder."""
    return sum(len(file.read_text().splitlines()) for file in (out / "chunks").glob("*/manifest.jsonl"))


@pytest.fixture
def heldout(tmp_path, pair):
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(WORDS, 12)) for _ in range(14)]
    table = {
        "doc_id": [f"d{at // 2}" for at in range(14)],
        "activation_vector": vector_column(pair.extract(said).vectors.numpy()),
        "detokenized_text_truncated": said,
        "api_explanation": [f'Ends in "{text[-9:]}". A list of words.' for text in said],
    }
    pq.write_table(pa.table(table), tmp_path / "eval.parquet")
    return tmp_path / "eval.parquet"


def test_an_evaluation_has_the_same_figures_whoever_measured_which_chunk(
    ray, cluster, tmp_path, heldout, lora_folders, monkeypatch
):
    here = os.getpid()

    def say(text: str) -> str:
        assert os.getpid() == here, "a key is not taken to another machine"
        return text.upper()

    monkeypatch.setattr(extras, "paraphraser", lambda _: extras.Paraphraser("loud", "0" * 64, say))
    monkeypatch.setattr("training.evaluate.measuring.rows.ROWS_PER_CHUNK", 4)
    monkeypatch.setattr("training.evaluate.measuring.variants.VARIANTS_PER_CHUNK", 2)
    monkeypatch.setattr("training.evaluate.claims.measuring.READ_PER_CHUNK", 2)
    monkeypatch.setattr("training.evaluate.claims.measuring.PER_CHUNK", 5)
    shutil.copytree(lora_folders["shared"], tmp_path / "pair")
    given = ("--av", tmp_path / "pair", "--data", heldout, "--device", "cpu", "--paraphraser", tmp_path / "loud.yaml")
    given += ("--controls", 4, "--signal", 4, "--claims", 4)
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    done = invoke(app, *given, "--out", tmp_path / "here")
    assert done.exit_code == 0, done.stderr

    there = (*given, "--out", tmp_path / "there")
    for more, kept in ((spread, 2), ((), 4)):
        before = chunks_kept(tmp_path / "there")
        patch = killed_after(kept)
        done = invoke(app, *there, *more)
        patch.undo()
        assert done.exit_code == 130 and "Run the same command again to go on" in done.stderr, done.stderr
        assert chunks_kept(tmp_path / "there") == before + kept
    done = invoke(app, *there, *spread)
    assert done.exit_code == 0, done.stderr
    assert "2 actors, each 1 CPU" in done.stderr

    files = [json.loads((tmp_path / name / EVALUATION).read_text()) for name in ("here", "there")]
    costs = [file.pop("cost") for file in files]
    for file in files:
        file.pop("created"), file.pop("sha256")
    assert files[0] == files[1]
    assert set(costs[0]["seconds"]) == set(costs[1]["seconds"])
    for name in (ROWS, VARIANTS, CLAIMS_TABLE):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    variants = pq.read_table(tmp_path / "there" / VARIANTS).to_pylist()
    assert len([one for one in variants if one["variant"] == "paraphrased" and one["text"].isupper()]) == 4


ROWS_OF_A_STAGE, LABEL = 10, "cat and a mat"


@pytest.fixture
def configured(tmp_path, gemma_base, lora_folders, pair):
    """A config, as trainers leave its folder, in two places: here and there."""
    vectors = pair.extract([f"The cat sat on mat {number}." for number in range(ROWS_OF_A_STAGE)]).vectors.numpy()
    columns = {
        "row_id": [f"r{at}" for at in range(len(vectors))],
        "doc_id": [f"doc{at}" for at in range(len(vectors))],
        "n_raw_tokens": [9] * len(vectors),
        "activation_layer": [1] * len(vectors),
        "detokenized_text_truncated": ["the cat"] * len(vectors),
        "source_family": ["a"] * len(vectors),
        "activation_vector": vector_column(vectors),
        "response": [response_of(LABEL)] * len(vectors),
        "labeler_model": ["extractive"] * len(vectors),
    }
    found = {}
    for name in ("here", "there"):
        settings = configs.sections(
            tmp_path / name,
            gemma_base,
            ar={"on_policy_rows": 8, "on_policy_sampled": 0.5},
            expert={"rows": 8, "best_of": 2, "vocabulary": "labels"},
            extract={"sources": [{"corpus": "unused.jsonl"}]},
        )
        found[name] = configs.write(tmp_path / name, settings)
        out = Config.load(found[name]).out
        for role in ("av", "ar"):
            shutil.copytree(lora_folders["shared"] / role, out / role / "final")
        for table in ("av_sft", "ar_sft", "rl"):
            pq.write_table(pa.table(columns), out / f"{table}.parquet")
    return found


def tables_of(path, stage: str) -> tuple[bytes, str]:
    """The finished table and what stands beside it."""
    out = Config.load(path).out
    return tuple((out / f"{stage}.parquet{more}").read_bytes() for more in ("", ".nla_meta.yaml"))


@pytest.mark.parametrize("stage", ["on_policy", "expert"])
def test_what_the_av_writes_is_the_same_table_whoever_wrote_it(ray, cluster, configured, monkeypatch, stage):
    monkeypatch.setattr("training.fit.engine.rollout.ROWS_PER_CHUNK", 3)
    command = cluster_stage({"on_policy": on_policy.run, "expert": expert.run}[stage])
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 1)
    done = invoke(command, "--config", configured["here"])
    assert done.exit_code == 0, done.stderr
    first, then = (spread, ()) if stage == "on_policy" else ((), spread)
    patch = killed_after(1)
    done = invoke(command, "--config", configured["there"], *first)
    patch.undo()
    assert done.exit_code == 130 and f"stopped in {stage}; 1 finished chunk kept" in done.stderr, done.stderr
    done = invoke(command, "--config", configured["there"], *then)
    assert done.exit_code == 0, done.stderr
    here, there = (tables_of(configured[name], stage) for name in ("here", "there"))
    assert here == there
    written = "".join(
        pq.read_table(Config.load(configured["there"]).out / f"{stage}.parquet")["api_explanation"].to_pylist()
    )
    assert written and set(written) <= set(response_of(LABEL)), "actors write the tokens of labels only"


BROKEN = '{"doc_id": "half", "text": "caf\\ud83d the cat sat on a mat", "family": "\\udfff"}'


@pytest.fixture
def corpus(tmp_path):
    """60 texts, one of which is none, and a config to read them with, in two places."""
    rng = random.Random(0)
    lines = [{"doc_id": f"d{at // 3}", "text": " ".join(rng.choices(configs.WORDS, k=16))} for at in range(59)]
    lines = [json.dumps(line | {"family": None if at % 2 else "a"}) for at, line in enumerate(lines)]
    (tmp_path / "texts.jsonl").write_text("\n".join([*lines[:20], BROKEN, *lines[20:]]))

    def config(name: str, base, **settings):
        sources = [{"corpus": str(tmp_path / "texts.jsonl"), "limit": 40}]
        sources += [{"corpus": str(tmp_path / "texts.jsonl"), "positions": "last"}]
        settings = {"sources": sources, "min_context": 6, "max_tokens": 40, "texts_per_chunk": 8, **settings}
        return configs.write(tmp_path / name, configs.sections(tmp_path / name, base, extract=settings))

    return config


def files_of(path) -> dict[str, object]:
    """All that a run leaves in `out:`; of the statistics, whose header is in any order, what they say."""
    out = Config.load(path).out
    files = {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    looks = vars(ActivationStatistics.load(out / STATISTICS_FILE))
    return files | {
        STATISTICS_FILE: {name: getattr(one, "tolist", lambda one=one: one)() for name, one in looks.items()}
    }


def test_activations_are_the_same_files_whoever_ran_the_base(ray, cluster, corpus, base, monkeypatch):
    here, there = (corpus(name, base, layers=[2]) for name in ("here", "there"))
    done = invoke(extract.main, "--config", here)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("row 21 dropped: 'half' holds half a surrogate pair") == 2

    monkeypatch.setattr("nla_sdk.model.backbone.Backbone.load", None)  # the driver loads no model
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    patch = killed_after(4)
    kept = Chunks.write
    patch.setattr(Chunks, "write", lambda self, index, *rest: (kept(self, index, *rest), index or kill_an_actor()))
    first = invoke(extract.main, "--config", there, *spread)
    patch.undo()
    assert first.exit_code == 130 and "stopped in extract; 4 finished chunks kept" in first.stderr, first.stderr
    assert chunks_kept(Config.load(there).out) == 4
    second = invoke(extract.main, "--config", there, *spread)
    assert second.exit_code == 0, second.stderr
    said = first.stderr + second.stderr
    assert said.count("row 21 dropped: 'half' holds half a surrogate pair") == 2 and "2 actors, each 1 CPU" in said
    assert files_of(here) == files_of(there) and len(files_of(here)) == 7
