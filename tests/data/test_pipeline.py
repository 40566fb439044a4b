"""Text to tables in one command: finished tables from a folder, the same bytes however often it was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nla_sdk.contract import Contract
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar, sidecar_of
from tests import configs, tiny
from tests.commands import invoke
from tests.configs import WORDS
from training import pipeline
from training.configs.config import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A folder of 30 small documents."""
    rng, folder = random.Random(4), tmp_path_factory.mktemp("texts")
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(" ".join(rng.choices(WORDS, k=rng.randrange(8, 30))))
    return folder


def config_file(folder: Path, base: Path, texts: Path) -> Path:
    extraction = {
        "sources": [{"corpus": str(texts), "positions": 2}],
        "min_context": 6,
        "max_tokens": 40,
        "texts_per_chunk": 10,
    }
    label = {"rows_per_chunk": 16, "cache": str(folder / "labels.sqlite")}
    sections = configs.sections(folder, base, extract=extraction, label=label, build={"eval_rows": 12})
    return configs.write(folder, sections)


def tables(out: Path) -> dict[str, str]:
    """Finished tables, by name, with their hashes."""
    return {
        path.relative_to(out).as_posix(): sha256_of(path)
        for path in sorted(out.rglob("*.parquet"))
        if "chunks" not in path.parts
    }


def test_killed_at_six_random_moments_it_ends_in_the_bytes_of_an_undisturbed_run(tmp_path, base, texts):
    calm, rough = (config_file(tmp_path / name, base, texts) for name in ("calm", "rough"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", str(calm), str(rough), "6", "7"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    statuses = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [0] + [signal.SIGKILL] * 6 + [0], done.stderr[-2000:]
    expected, found = tables(tmp_path / "calm" / "out"), tables(tmp_path / "rough" / "out")
    assert found == expected
    assert {"av_sft.parquet", "ar_sft.parquet", "eval.parquet", "rl.parquet"} <= set(found)
    assert not list((tmp_path / "rough").rglob("*.tmp"))
    for name in found:
        about = read_sidecar(tmp_path / "rough" / "out" / name)
        assert about["sha256"] == found[name]
    kept = json.loads((tmp_path / "rough" / "results" / "MANIFEST.json").read_text())
    assert {one["sha256"] for one in kept.values()} >= set(found.values())
    assert all(sha256_of(tmp_path / "rough" / "results" / name) == one["sha256"] for name, one in kept.items())


def test_one_command_makes_all_tables_and_further_ones_overwrite_none(tmp_path, base, texts):
    path = config_file(tmp_path / "run", base, texts)
    done = invoke(pipeline.main, "--config", path)
    assert done.exit_code == 0, done.stderr
    config = Config.load(path)
    made = tables(config.out)
    for name in ("av_sft", "ar_sft", "eval", "rl"):
        contract = Contract.load(sidecar_of(config.out / f"{name}.parquet"))
        assert contract.kind == "nla_dataset" and contract.d_model == tiny.D_MODEL
    documents = [
        set(pq.read_table(config.out / f"{name}.parquet")["doc_id"].to_pylist()) for name in ("av_sft", "eval")
    ]
    assert documents[0] and documents[1] and not documents[0] & documents[1]
    times = {name: (config.out / name).stat().st_mtime_ns for name in made}
    again = invoke(pipeline.main, "--config", path)
    assert again.exit_code == 0
    assert times == {name: (config.out / name).stat().st_mtime_ns for name in tables(config.out)}

    # Changed settings do not overwrite finished tables.
    path.write_text(path.read_text().replace("positions: 2", "positions: 3"))
    refused = invoke(pipeline.main, "--config", path)
    assert refused.exit_code == 2 and "Nothing is overwritten" in refused.stderr and "Traceback" not in refused.stderr
    assert tables(config.out) == made
    assert invoke(pipeline.main, "--config", path, "--overwrite").exit_code == 0
    assert set(tables(config.out).values()).isdisjoint(made[name] for name in ("av_sft.parquet",))


def test_another_corpus_can_be_named_on_the_command_line(base, texts, tmp_path):
    file = config_file(tmp_path / "run", base, tmp_path / "elsewhere")
    changed = Config.load(file, pipeline.sources_of(Config.load(file), str(texts)))
    assert [source.corpus for source in changed.extract.sources] == [str(texts)]
    assert changed.extract.sources[0].positions == 2


@pytest.mark.parametrize("name", ["demo.yaml", "gemma4_e2b.yaml"])
def test_the_shipped_configs_are_valid(name):
    config = Config.load(ROOT / "training" / "configs" / name)
    assert config.split.eval > 0 and config.label.sets
