"""A tiny pair that was trained here, its evaluation, and a Hub to publish it to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.evaluation.parts import Settings
from nla_sdk.evaluation.schema import EVALUATION
from tests.fit.test_training import config_file, text
from tests.hub.fixtures import hub  # noqa: F401
from training import pipeline
from training.configs.config import Config
from training.evaluate import heldout, outputs, run
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.publish.push import connect, look, publish
from training.publish.request import PublishRequest
from training.publish.stage import prepared

ROOT = Path(__file__).parent.parent.parent
TOKEN = "hf_" + "w" * 34
BASE = "lab/tiny-base"


@dataclass(frozen=True)
class Made:
    """What there is to publish."""

    pair: Path
    evaluation: Path
    tables: list[Path]
    base: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, base) -> Made:
    """A pair trained from text on the tiny base, and evaluated; its contracts name the base by its Hub id."""
    import json
    import random

    root = tmp_path_factory.mktemp("trained")
    rng = random.Random(0)
    rows = [{"doc_id": f"doc{i // 2}", "text": text(rng), "family": rng.choice("ab")} for i in range(80)]
    (root / "corpus").mkdir()
    (root / "corpus" / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = [{**row, "explanation": f"About {row['text'].split()[0]}.", "labeler_model": "m"} for row in rows[:30]]
    (root / "corpus" / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    config = Config.load(config_file(root / "run", base, root / "corpus"))
    pipeline.run(config)
    sft_av.run(config)
    ar = config.ar.model_copy(update={"sources": ["extractive"]})
    sft_ar.run(config.model_copy(update={"ar": ar}))
    for role in ("av", "ar"):
        shutil.copytree(config.half(role), root / "pair" / role)
        shutil.copyfile(config.out / role / "log.jsonl", root / "pair" / role / "log.jsonl")
        contract = Contract.load(root / "pair" / role)
        contract.replace(base_model=BASE).save(root / "pair" / role)
        adapter = root / "pair" / role / "adapter_config.json"
        adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"base_model_name_or_path": BASE}))
    pair = NLAPair.from_pretrained(root / "pair", base=base)
    settings = Settings(
        seed=0, floor=0.3, max_new_tokens=16, controls_n=4, signal_n=4, permutations=99, bootstrap_draws=100
    )
    data = heldout.read(config.out / "eval.parquet", pair.contract)
    found = run.run(run.Job(pair, data, settings, root / "evaluation"), progress=False)
    outputs.write(found, root / "evaluation", pair)
    tables = [config.out / "eval.parquet", config.out / "av_sft.parquet"]
    return Made(root / "pair", root / "evaluation" / EVALUATION, tables, base)


@pytest.fixture
def made(trained, tmp_path) -> Made:
    """A copy of it, to be damaged at will."""
    shutil.copytree(trained.pair, tmp_path / "pair")
    shutil.copytree(trained.evaluation.parent, tmp_path / "evaluation")
    tables = []
    for table in trained.tables:
        for file in (table, table.with_name(table.name + ".nla_meta.yaml")):
            shutil.copyfile(file, tmp_path / file.name)
        tables.append(tmp_path / table.name)
    return Made(tmp_path / "pair", tmp_path / "evaluation" / EVALUATION, tables, trained.base)


@pytest.fixture
def writable(hub, trained, monkeypatch):  # noqa: F811
    """The Hub, with the base on it and a token that may write."""
    from training.publish import remote

    files = {path.name: path.read_bytes() for path in trained.base.iterdir() if path.is_file()}
    hub.add(BASE, files)
    hub.tokens[TOKEN] = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    assert os.environ["HF_HUB_DISABLE_XET"] == "1"
    return hub


def request_of(made: Made, **changes) -> PublishRequest:
    return PublishRequest(**({"repo": "owner/cat", "checkpoint": made.pair, "evaluation": made.evaluation} | changes))


def go(request: PublishRequest, said: list | None = None):
    """What the command does after its options are read, without asking."""
    with prepared(request) as plan:
        api = connect()
        look(api, plan, request)
        return publish(api, plan, request, (said if said is not None else []).append)


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training.publish", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        stdin=subprocess.DEVNULL,
    )
