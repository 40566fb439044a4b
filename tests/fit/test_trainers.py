"""The trainers: exact resumption, several processes, 4 bits, checkpointing, second legs, and what a half says."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch.nn import functional

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import read_vectors
from nla_sdk.model.backbone import Backbone
from tests import configs, tiny
from tests.engines.server import Loopback
from tests.fit.launching import fork, launch
from tests.fit.test_training import config_file, text
from training import pipeline
from training.configs.config import Config
from training.configs.fit import Lora
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit import on_policy
from training.fit.engine import base as fit_base
from training.fit.engine import checkpoints, rollout, schedule
from training.fit.engine.losses import contrastive_loss
from training.label.extractive import prose

pytest_plugins = ["tests.hub.fixtures"]
ROOT = Path(__file__).parents[2]
STAGES = {"av": sft_av, "ar": sft_ar}
TRAINERS = {"av": sft_av.AVTrainer, "ar": sft_ar.ARTrainer}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rng, folder = random.Random(0), tmp_path_factory.mktemp("corpus")
    rows = [{"doc_id": f"doc{i // 2}", "text": text(rng), "family": rng.choice("ab")} for i in range(80)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.jsonl").write_text(
        "".join(json.dumps({**row, "explanation": f"On {row['text'][:9]} and more."}) + "\n" for row in rows[:20])
    )
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, corpus, base, gemma_base) -> dict[str, Path]:
    """For each base a config whose tables have been built."""
    made = {}
    for name, folder in (("llama", base), ("gemma", gemma_base)):
        made[name] = config_file(tmp_path_factory.mktemp(name + "-run"), folder, corpus)
        pipeline.run(Config.load(made[name]))
    return made


def run_of(built: Path, folder: Path, role: str, **changes) -> Config:
    """A config of its own on the finished tables of another, with some settings of one role changed."""
    folder.mkdir(exist_ok=True)
    settings = yaml.safe_load(built.read_text())
    tables = Path(settings["out"])
    settings["out"] = str(folder / "out")
    settings["ar"]["sources"] = ["extractive"]
    settings[role] |= changes
    (folder / "out").mkdir(exist_ok=True)
    for file in tables.iterdir():
        if file.is_file():
            (folder / "out" / file.name).write_bytes(file.read_bytes())
    return Config.load(configs.write(folder, settings))


def weights(config: Config, role: str, name: str | None = None) -> dict[str, torch.Tensor]:
    """The trained parameters of the last checkpoint."""
    state = torch.load(
        checkpoints.latest_checkpoint(config.out / (name or role)) / checkpoints.STATE, weights_only=True
    )
    return state["parameters"]


def losses(config: Config, role: str) -> list[float]:
    lines = (config.out / role / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


@pytest.mark.parametrize("role", ["av", "ar"])
def test_killed_at_three_steps_it_ends_in_the_weights_of_an_undisturbed_run(built, tmp_path, monkeypatch, role):
    settings = {"lora": {"r": 8, "alpha": 16, "dropout": 0.2}, "micro_batch": 3, "save_interval": 2, "max_rows": 24}
    if role == "ar":
        settings |= {"contrastive": 0.1, "explanation_dropout": 0.2, "prose_share": 0.3, "tables": ["av_sft"]}
    whole, broken = (run_of(built["llama"], tmp_path / name, role, **settings) for name in ("whole", "broken"))
    stage = STAGES[role]
    stage.run(whole)
    real = TRAINERS[role].share_of_loss

    for death in (0, 3, 4):  # before anything is saved, just after it was, and between

        def dying(self, rows, step, batch, death=death):
            if step == death:
                raise RuntimeError("killed")
            return real(self, rows, step, batch)

        with monkeypatch.context() as patch:
            patch.setattr(TRAINERS[role], "share_of_loss", dying)
            with pytest.raises(RuntimeError, match="killed"):
                stage.run(broken)
    stage.run(broken)
    expected, found = weights(whole, role), weights(broken, role)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert sha256_of(whole.half(role) / "adapter_model.safetensors") == sha256_of(
        broken.half(role) / "adapter_model.safetensors"
    )
    assert losses(broken, role) == losses(whole, role) and len(losses(whole, role)) == 6


@pytest.mark.parametrize("role", ["av", "ar"])
def test_micro_batches_add_up_to_the_whole_batch(built, tmp_path, role):
    whole = run_of(built["llama"], tmp_path / "whole", role, batch_size=8, micro_batch=None, max_rows=24)
    parts = run_of(built["llama"], tmp_path / "parts", role, batch_size=8, micro_batch=3, max_rows=24)
    for config in (whole, parts):
        STAGES[role].run(config)
    assert losses(parts, role) == pytest.approx(losses(whole, role), rel=1e-4)
    for name, tensor in weights(whole, role).items():
        torch.testing.assert_close(weights(parts, role)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("role", ["av", "ar"], ids=["av, sharded", "ar, on two machines"])
def test_two_processes_walk_the_loss_curve_of_one(built, tmp_path, role):
    sharded = role == "av"
    settings = {"batch_size": 4, "max_rows": 24, "save_interval": 100, "eval_interval": 100, "trackers": []}
    settings |= {"contrastive": 0.2, "tables": ["ar_sft"]} if role == "ar" else {}
    one = run_of(built["llama"], tmp_path / "one", role, **settings)
    two = run_of(built["llama"], tmp_path / "two", role, **settings, shard_base=sharded, gradient_checkpointing=sharded)
    STAGES[role].run(one)
    command = [f"training.fit.{role}", "--config", tmp_path / "two" / "config.yaml"]
    if sharded:
        launch(command)
    else:
        fork(command, machines=2)
    assert len(losses(one, role)) == 6
    assert losses(two, role) == pytest.approx(losses(one, role), rel=1e-4, abs=1e-4)
    facts = Contract.load(two.half(role)).provenance["training"]
    assert facts["processes"] == 2
    for name, tensor in weights(one, role).items():
        torch.testing.assert_close(weights(two, role)[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("role", ["av", "ar"])
def test_the_whole_recipe_runs_in_4_bits_on_a_gemma_4_with_ple_and_shared_keys(built, tmp_path, role):
    """NF4, gradient checkpointing, micro-batches of one: the loss falls, the frozen weights do not change."""
    config = run_of(
        built["gemma"],
        tmp_path,
        role,
        quantization="nf4",
        gradient_checkpointing=True,
        micro_batch=1,
        lr=5e-3,
        decay="constant",
        max_rows=2,
        epochs=20,
        **({"head_lr": 5e-3, "tables": ["ar_sft"]} if role == "ar" else {}),
    )
    stage = STAGES[role]
    backbone = fit_base.load_base(config, getattr(config, role), torch.device("cpu"))
    trainer = TRAINERS[role](config, backbone)
    frozen = {n: p.detach().clone() for n, p in backbone.model.named_parameters() if n not in trainer.parameters}
    assert any(p.dtype == torch.uint8 for p in frozen.values())
    optimizer = torch.optim.AdamW(trainer.parameters.values(), lr=5e-3)
    with backbone.using(role):
        for step in range(2):
            optimizer.zero_grad()
            trainer.share_of_loss(range(2), step, range(2)).backward()
            reached = {n for n, p in trainer.parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
            optimizer.step()
    assert reached == set(trainer.parameters)  # from the second step on: B is zero in the first
    blocks = trainer.contract.ar_num_blocks or tiny.GEMMA_BLOCKS
    found = {block for n in trainer.parameters for block in range(tiny.GEMMA_BLOCKS) if f"layers.{block}." in n}
    assert found == set(range(blocks))
    now = dict(backbone.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    stage.run(config)
    curve = losses(config, role)
    assert len(curve) == 10 and curve[-1] < 0.7 * curve[0]
    contract = Contract.load(config.half(role))
    assert (contract.quantization, contract.tokenizer, contract.prompt_style) == ("nf4", "file", "raw")


@pytest.mark.parametrize("role", ["av", "ar"])
def test_gradients_with_checkpointing_equal_those_without(built, tmp_path, role):
    """In 4 bits; and the AV's logits a few tokens at a time against all at once."""
    gradients = []
    for checkpointing in (True, False):
        changes = {"quantization": "nf4", "gradient_checkpointing": checkpointing}
        if role == "av":
            changes["logit_slice"] = 7 if checkpointing else 100_000
        config = run_of(built["gemma"], tmp_path / str(checkpointing), role, **changes)
        backbone = fit_base.load_base(config, getattr(config, role), torch.device("cpu"))
        trainer = TRAINERS[role](config, backbone)
        for name, parameter in trainer.parameters.items():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
        with backbone.using(role):
            trainer.share_of_loss(range(4), 0, range(4)).backward()
        gradients.append({name: parameter.grad for name, parameter in trainer.parameters.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_every_checkpoint_is_a_half_and_final_is_the_best_of_them(built, tmp_path):
    halves = {}
    for role in ("av", "ar"):
        tables = {"tables": ["av_sft"]} if role == "ar" else {}
        config = run_of(built["llama"], tmp_path, role, save_interval=4, eval_interval=2, keep_checkpoints=2, **tables)
        STAGES[role].run(config)
        kept = checkpoints.checkpoints(config.out / role)
        assert [path.name for path in kept] == ["step_000008", "step_000012"]
        halves[role] = [*kept, config.half(role)]
        best = Contract.load(config.half(role)).provenance["training"]["chosen_by"]
        lines = [json.loads(line) for line in (config.out / role / "log.jsonl").read_text().splitlines()]
        assert lines[0].get("loss_trend") is None and lines[-1]["loss_trend"] in {"descending", "flat", "ascending"}
        key, pick = ("heldout_loss", min) if role == "av" else ("heldout_fve_true", max)
        found = {line["step"]: line[key] for line in lines if key in line}
        assert best["metric"] == key and best["step"] == pick(found, key=found.get)
        facts = Contract.load(kept[-1]).provenance["training"]
        assert (
            facts["step"] == 12
            and facts["tables_sha256"]
            and facts["rows"] <= sum(facts["table_rows"].values())
            and facts["wall_seconds"] > 0
        )
        assert facts["libraries"]["torch"] and facts["hardware"] and facts["code_version"]
        assert facts["loss_trend"]["verdict"] in {"descending", "flat", "ascending"}
    for av, ar in zip(halves["av"], halves["ar"], strict=True):
        pair = NLAPair.from_pretrained(av, ar)
        assert pair.matched
        assert pair.round_trip(torch.randn(tiny.D_MODEL)).fve is not None


@pytest.mark.parametrize("role", ["av", "ar"])
def test_a_second_leg_starts_from_the_first_ones_weights_and_says_so(built, tmp_path, role):
    config = run_of(built["llama"], tmp_path, role, max_rows=8)
    stage = STAGES[role]
    first = stage.run(config)
    settings = getattr(config, role).model_copy(update={"continue_from": first, "lr": 3e-5})
    second = config.model_copy(update={role: settings})
    backbone = Backbone.load(config.base, dtype="float32")
    trainer = TRAINERS[role](second, backbone)
    from safetensors.torch import load_file

    for name, tensor in load_file(first / "adapter_model.safetensors").items():
        live = name.removeprefix("base_model.model.").replace(".weight", f".{role}.weight")
        assert torch.equal(trainer.parameters[live], tensor)
    if role == "ar":
        assert torch.equal(trainer.head.weight, load_file(first / "linear_head.safetensors")["weight"])
    with pytest.raises(checkpoints.TrainingError, match="--name"):
        stage.run(second)
    made = stage.run(second, name=f"{role}2")
    facts = Contract.load(made).provenance["training"]
    assert facts["parent"]["adapter_sha256"] == sha256_of(first / "adapter_model.safetensors")
    assert facts["parent"]["name"] == f"{role}/final" and str(tmp_path) not in (made / "nla_meta.yaml").read_text()


def test_a_second_leg_may_start_from_a_half_on_the_hub(built, tmp_path, hub):
    config = run_of(built["llama"], tmp_path, "ar", max_rows=8)
    first = sft_ar.run(config)
    commit = hub.add("ada/first-ar", {file.name: file.read_bytes() for file in first.iterdir()})
    settings = config.ar.model_copy(update={"continue_from": Path("ada/first-ar")})
    made = sft_ar.run(config.model_copy(update={"ar": settings}), name="ar2")
    parent = Contract.load(made).provenance["training"]["parent"]
    assert parent["name"] == "ada/first-ar" and parent["commit"] == commit
    assert parent["adapter_sha256"] == sha256_of(first / "adapter_model.safetensors")


def test_what_the_av_wrote_belongs_to_its_activations_also_when_the_table_has_changed(built, tmp_path, monkeypatch):
    config = run_of(built["llama"], tmp_path, "av", max_rows=8)
    config = config.model_copy(update={"ar": config.ar.model_copy(update={"on_policy_rows": 1000})})  # all of them
    sft_av.run(config)
    monkeypatch.setattr(rollout, "ROWS_PER_CHUNK", 3)

    def written() -> dict[str, str]:
        rows = pq.read_table(on_policy.run(config), columns=["detokenized_text_truncated", "response"]).to_pylist()
        return {row["detokenized_text_truncated"]: row["response"] for row in rows}

    source = config.out / "ar_sft.parquet"
    first, table = written(), pq.read_table(source)
    assert len(set(first.values())) > 1
    pq.write_table(table.take(list(range(len(table)))[::-1]), source)
    assert written() == first
    pq.write_table(table, source)
    assert written() == first


def test_compiled_blocks_are_trained_as_the_others_are(built, tmp_path, monkeypatch):
    """As the compiler reads them, step by step; what its C++ computes is held against plain blocks below."""
    settings = {"max_rows": 12, "epochs": 1, "eval_interval": 100}
    plain, compiled = (run_of(built["llama"], tmp_path / str(flag), "ar", compile=flag, **settings) for flag in (0, 1))
    sft_ar.run(plain)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    sft_ar.run(compiled)
    assert losses(compiled, "ar") == pytest.approx(losses(plain, "ar"), rel=1e-4)
    ways = [checkpoints.Contract.load(c.half("ar")).provenance["training"]["settings"] for c in (plain, compiled)]
    assert ways[1]["compile"] is True and "compile" not in ways[0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_block_has_the_gradients_of_a_plain_one(built, tmp_path):
    """By the compiler that is there; of one block with one adapter, as each further graph takes it seconds."""
    config = run_of(built["llama"], tmp_path, "ar", lora={"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj"]})
    config = config.model_copy(update={"layer": 0})
    gradients = []
    for compiled in (False, True):
        backbone = fit_base.load_base(config, config.ar, torch.device("cpu"))
        trainer = sft_ar.ARTrainer(config, backbone)
        for name, parameter in trainer.parameters.items():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
        if compiled:
            fit_base.compile_blocks(backbone)
        with backbone.using("ar"):
            trainer.share_of_loss(range(4), 0, range(4)).backward()
        gradients.append({name: parameter.grad for name, parameter in trainer.parameters.items()})
    assert any("q_proj" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6)


def test_where_nothing_can_be_compiled_training_says_so_at_once(built, tmp_path, monkeypatch):
    def no_compiler(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found\nlong story")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(InputError, match=r"compile: .* \(no C\+\+ compiler was found\); set it to false"):
        sft_ar.run(run_of(built["llama"], tmp_path, "ar", compile=True))


def test_a_share_of_what_the_av_writes_for_the_ar_is_sampled(built, tmp_path):
    config = run_of(built["llama"], tmp_path, "av", max_rows=8)
    changes = {"on_policy_rows": 8, "on_policy_sampled": 0.25, "on_policy_vocabulary": "all"}
    config = config.model_copy(update={"ar": config.ar.model_copy(update=changes)})
    half = sft_av.run(config)
    made = pq.read_table(on_policy.run(config))
    pair = NLAPair.from_pretrained(half, base=config.base)
    vectors = read_vectors(made)
    said, greedy = made["api_explanation"].to_pylist(), [str(one) for one in pair.explain(vectors)]
    drawn = [str(one) for one in pair.explain(vectors, temperature=0.7, seed=config.seed)]
    assert len(said) == 8 and [at for at in range(8) if said[at] != greedy[at]] == [3, 7]
    assert [said[at] for at in (3, 7)] == [drawn[at] for at in (3, 7)]


def test_what_the_av_writes_for_the_ar_may_come_from_a_server(built, tmp_path):
    config = run_of(built["llama"], tmp_path, "av", max_rows=8)
    half = sft_av.run(config)
    changed = [{"on_policy_rows": 8, "on_policy_vocabulary": which} for which in ("labels", "all")]
    NLAPair.from_pretrained(half, base=config.base).export(tmp_path / "exported", caller_subtracts_mean=True)
    server = Loopback(tmp_path / "exported" / "av", "vllm")
    for changes in changed:
        here = config.model_copy(update={"ar": config.ar.model_copy(update=changes)})
        there = here.model_copy(update={"ar": here.ar.model_copy(update={"on_policy_engine": server.url})})
        ours, asked = pq.read_table(on_policy.run(here)), len(server.bodies)
        assert pq.read_table(on_policy.run(there))["api_explanation"] == ours["api_explanation"]
        assert len(server.bodies) == asked + 4 + 8  # four are held against the AV here
        assert ("allowed_token_ids" in server.bodies[-1]) == (changes["on_policy_vocabulary"] == "labels")
    server.close()
    assert "engine" not in Config.model_validate(there.model_dump(exclude_none=True)).ar.model_dump()


def test_ctrl_c_saves_and_exits_with_130_and_the_next_run_goes_on(built, tmp_path):
    config = run_of(built["llama"], tmp_path, "av", epochs=400, save_interval=10_000, eval_interval=10_000)
    log = config.out / "av" / "log.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "training.fit.av", "--config", str(tmp_path / "config.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(1200):
            if log.is_file() and log.read_text().count("\n") > 5:
                break
            if process.poll() is not None:
                pytest.fail(process.stderr.read()[-2000:])
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err[-2000:]
    assert "Traceback" not in err and "is saved, run the same command again to go on" in err
    step = int(checkpoints.latest_checkpoint(config.out / "av").name.removeprefix("step_"))
    assert step >= 4 and json.loads(log.read_text().splitlines()[-1])["step"] == step


def test_norms_can_be_trained_whole_and_only_those_of_text_blocks(built, tmp_path):
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "modules_to_save": ["input_layernorm"]}
    config = run_of(built["gemma"], tmp_path, "av", lora=lora, max_rows=8)
    half = sft_av.run(config)
    backbone = Backbone.load(config.base, dtype="float32")
    report = backbone.load_adapter("av", half)
    from safetensors import safe_open

    with safe_open(half / "adapter_model.safetensors", "pt") as file:
        norms = [key for key in file.keys() if "input_layernorm" in key]  # noqa: SIM118
    assert len(norms) == tiny.GEMMA_BLOCKS and not report.inert
    with pytest.raises(InputError, match="no module of the text blocks is called 'nothing'"):
        fit_base.lora_config(config.av.model_copy(update={"lora": Lora(modules_to_save=["nothing"])}), backbone)


def test_a_layer_held_in_4_bits_is_never_trained_whole_or_saved(built):
    pytest.importorskip("bitsandbytes")
    config = Config.load(built["llama"])
    backbone = Backbone.load(config.base, dtype="float32", device="cpu", quantization="nf4")
    with pytest.raises(InputError, match=r"q_proj is held in 4 bits \(nf4\), which cannot be trained or saved"):
        fit_base.lora_config(config.av.model_copy(update={"lora": Lora(modules_to_save=["q_proj"])}), backbone)


def test_rows_that_do_not_fit_are_left_out_and_none_left_is_an_error(built, tmp_path):
    config = run_of(built["llama"], tmp_path, "av", max_rows=None)
    backbone = Backbone.load(config.base, dtype="float32")
    trainer = sft_av.AVTrainer(config, backbone)
    lengths = sorted(len(ids) for ids in trainer.targets)
    room = len(trainer.verbalizer.prompt_ids) + lengths[len(lengths) // 2]
    short = config.model_copy(update={"av": config.av.model_copy(update={"max_length": room})})
    trainer = sft_av.AVTrainer(short, Backbone.load(config.base, dtype="float32"))
    assert trainer.left_out and max(map(len, trainer.targets)) == lengths[len(lengths) // 2]
    assert len(trainer.rows) == len(trainer.inputs) == len(trainer.targets) == len(lengths) - trainer.left_out
    none = config.model_copy(update={"av": config.av.model_copy(update={"max_length": 16})})
    with pytest.raises(InputError, match="No response fits into av.max_length"):
        sft_av.AVTrainer(none, Backbone.load(config.base, dtype="float32"))


def test_infonce_is_the_cross_entropy_of_centred_cosines():
    generator = torch.Generator().manual_seed(0)
    batch, predicted = (torch.randn(6, 5, generator=generator) + 3 for _ in range(2))
    found = contrastive_loss(predicted[2:4], torch.tensor([2, 3]), batch, 0.2)
    units = batch / batch.norm(dim=1, keepdim=True)
    centre = units.mean(0)
    for at, row in enumerate((2, 3)):
        p = predicted[row] / predicted[row].norm() - centre
        scores = torch.stack([functional.cosine_similarity(p, u - centre, dim=0) for u in units]) / 0.2
        assert found[at].item() == pytest.approx((scores.logsumexp(0) - scores[row]).item(), rel=1e-5)


def test_words_are_dropped_the_same_way_each_time():
    sentence = " ".join(f"w{i}" for i in range(2000))
    kept = sft_ar.drop_words(sentence, 0.3, "1|2|3").split()
    assert (
        kept == sft_ar.drop_words(sentence, 0.3, "1|2|3").split() != sft_ar.drop_words(sentence, 0.3, "1|2|4").split()
    )
    assert 0.65 < len(kept) / 2000 < 0.75
    assert sft_ar.drop_words(sentence, 0.0, "x") == sentence


def test_an_optimizer_that_does_not_run_here_is_refused(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    settings = Config.load(ROOT / "training" / "configs" / "demo.yaml").av.model_copy(update={"optimizer": "adamw8bit"})
    with pytest.raises(checkpoints.TrainingError, match="runs on CUDA only"):
        schedule.make_optimizer([{"params": [weight]}], settings, torch.device("cpu"))


def test_a_share_of_rows_is_read_without_quotes_and_at_every_step_other_ones(built, tmp_path):
    config = run_of(built["llama"], tmp_path, "ar", prose_share=0.25)
    trainer = sft_ar.ARTrainer(config, Backbone.load(config.base, dtype="float32"))
    texts = [row["api_explanation"] for row in trainer.rows]
    assert all('"' in text for text in texts)
    bare = [
        {row for row, text in enumerate(texts) if trainer._as_read(row, step) == prose(text) != text}
        for step in range(20)
    ]
    whole = [row for row, text in enumerate(texts) if trainer._as_read(row, 0) == text]
    assert len(whole) + len(bare[0]) == len(texts)
    assert 0.2 < sum(map(len, bare)) / (20 * len(texts)) < 0.3 and len(set(map(frozenset, bare))) == 20
    assert bare[3] == {row for row, text in enumerate(texts) if trainer._as_read(row, 3) == prose(text)}
