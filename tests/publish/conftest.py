"""A tiny pair that was trained here, its evaluation, and a Hub to publish it to."""

from __future__ import annotations

import copy
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.evaluation.parts import Settings
from nla_sdk.evaluation.schema import EVALUATION
from tests.commands import Ended, invoke
from tests.fit.test_training import config_file, text
from tests.hub.fixtures import hub  # noqa: F401
from training import pipeline
from training.configs.config import Config
from training.evaluate import heldout, outputs, run
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.publish import copies
from training.publish.__main__ import main
from training.publish.push import connect, look, publish
from training.publish.request import PublishRequest
from training.publish.stage import prepared

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "w" * 34
BASE = "lab/tiny-base"
DRAW = copies.draw_figures
_drawn: dict[tuple[str, ...], Path] = {}


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch, tmp_path_factory):
    """Figures are drawn once a process: they take most of a publication's time. `DRAW` draws them anew."""

    def draw(evaluation, tables, logs, folder):
        key = tuple(sorted(logs))  # by which there is one more
        if key not in _drawn:
            _drawn[key] = DRAW(evaluation, tables, logs, tmp_path_factory.mktemp("drawn") / "figures")
        return shutil.copytree(_drawn[key], folder)

    monkeypatch.setattr(copies, "draw_figures", draw)


@pytest.fixture(autouse=True)
def offline(request, monkeypatch):
    """Where there is no Hub of ours, none is asked."""
    from huggingface_hub import constants

    if "hub" not in request.fixturenames:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


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
    with pytest.MonkeyPatch.context() as patch:
        for drawing in ("runs.curves.render", "data.tables.report.draw"):  # nobody looks at these
            patch.setattr(f"training.{drawing}", lambda *_: None)
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
        seed=0, floor=0.3, max_new_tokens=8, controls_n=4, signal_n=4, permutations=19, bootstrap_draws=20
    )
    data = heldout.read(config.out / "eval.parquet", pair.contract)
    found = run.run(run.Job(pair, data, settings, root / "evaluation"), progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "draw", lambda *_: [])
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


_left: dict[tuple[bool, bool], tuple[dict, Path]] = {}


@pytest.fixture
def published(writable, made, tmp_path_factory):
    """Have the Hub as `go` leaves it: what is published of a pair as it was trained is so once a process."""

    def put(*, evaluation: bool = False, tables: bool = False) -> None:
        store = writable.store
        if (evaluation, tables) not in _left:
            measured = made.evaluation if evaluation else None
            go(request_of(made, evaluation=measured, tables=made.tables if tables else ()))
            ours = {key: one for key, one in store.repositories.items() if one.id.startswith("owner/")}
            objects = shutil.copytree(store.folder / "objects", tmp_path_factory.mktemp("left") / "objects")
            _left[evaluation, tables] = copy.deepcopy(ours), objects
            return
        repositories, objects = _left[evaluation, tables]
        store.repositories |= copy.deepcopy(repositories)
        for file in objects.iterdir():
            if not store.has(file.name):
                os.link(file, store.folder / "objects" / file.name)

    return put


def request_of(made: Made, **changes) -> PublishRequest:
    return PublishRequest(**({"repo": "owner/cat", "checkpoint": made.pair, "evaluation": made.evaluation} | changes))


def go(request: PublishRequest, said: list | None = None):
    """What the command does after its options are read, without asking."""
    with prepared(request) as plan:
        api = connect()
        look(api, plan, request)
        return publish(api, plan, request, (said if said is not None else []).append)


def command(*arguments: object) -> Ended:
    """`python -m training.publish` with these arguments, in this process; nobody sits at a terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO())
        return invoke(main, *arguments)
