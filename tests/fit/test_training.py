"""The stages make a pair that loads, on a tiny Llama; they resume exactly, and split by document."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair, metrics
from nla_sdk.errors import InjectionError, InputError
from nla_sdk.model.backbone import Backbone
from tests import configs, tiny
from tests.commands import invoke
from tests.configs import WORDS
from training import pipeline
from training.configs.command import data_stage, trainer_command
from training.configs.config import Config
from training.configs.fit import Train
from training.data import build
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit import on_policy
from training.fit.engine import checkpoints, loop, losses, schedule
from training.fit.engine.rows import kind_of, label_texts, label_tokens
from training.label import extractive
from training.runs import curves


def text(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(8, 14)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rng, folder = random.Random(0), tmp_path_factory.mktemp("corpus")
    rows = [{"doc_id": f"doc{i // 2}", "text": text(rng), "family": rng.choice("ab")} for i in range(80)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = [
        {**row, "explanation": f"Something about {row['text'].split()[0]} and what follows.", "labeler_model": "m"}
        for row in rows[:30]
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return folder


def config_file(folder: Path, base: Path, corpus: Path, **changes) -> Path:
    train = {
        "quantization": None,
        "gradient_checkpointing": False,
        "micro_batch": None,
        "decay": "linear",
        "lora": {"r": 8, "alpha": 16, "dropout": 0.0},
        "lr": 3e-4,
        "warmup_steps": 2,
        "batch_size": 4,
        "save_interval": 5,
        "eval_interval": 8,
        "eval_rows": 8,
        "max_rows": 48,
    }
    settings = configs.sections(
        folder,
        base,
        extract={
            "sources": [
                {"corpus": str(corpus / "labels.jsonl"), "positions": "last"},
                {"corpus": str(corpus / "passages.jsonl"), "positions": 2},
            ],
            "min_context": 6,
            "max_tokens": 40,
        },
        split={"eval": 0.2, "av_sft": 0.4, "ar_sft": 0.3, "rl": 0.1},
        label={
            "sets": [
                {"name": "extractive", "providers": [{"kind": "extractive"}]},
                {"name": "written", "providers": [{"kind": "file", "path": str(corpus / "labels.jsonl")}]},
            ],
            "cache": str(folder / "labels.sqlite"),
        },
        build={"eval_rows": 24},
        av={"max_new_tokens": 8, **train},
        ar={
            **train,
            "sources": ["extractive", "on_policy"],
            "tables": ["ar_sft", "av_sft"],
            "on_policy_rows": 8,
        },
    )
    for key, value in changes.items():
        section, _, name = key.partition("__")
        settings[section] = {**settings[section], name: value} if name else value
    return configs.write(folder, settings)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, base, corpus) -> Path:
    """A config whose tables have been built."""
    path = config_file(tmp_path_factory.mktemp("run"), base, corpus)
    pipeline.run(Config.load(path))
    return path


def test_all_stages_make_a_pair_that_round_trips(tables, capsys, drawn):
    config = Config.load(tables)
    sft_av.run(config)
    assert (
        "validation.parquet, so final/ is chosen by eval.parquet: figures reported on that table"
        in capsys.readouterr().err
    )
    on_policy.run(config)
    explained = pq.read_table(config.out / "on_policy.parquet")["detokenized_text_truncated"].to_pylist()
    texts = pq.read_table(config.out / "ar_sft.parquet")["detokenized_text_truncated"].to_pylist()
    places = [texts.index(one) for one in explained]
    assert places == sorted(places) and max(places) > 0.8 * len(texts), "spread over the table, not its beginning"
    sft_ar.run(config)
    assert all((config.out / role / curves.FIGURE).is_file() for role in ("av", "ar"))
    pair = NLAPair.from_pretrained(config.half("av"), config.half("ar"))
    assert pair.matched
    vectors = build.read_vectors(pq.read_table(config.out / "eval.parquet"))
    trips = pair.round_trip(vectors[:3])
    assert len(trips) == 3 and all(trip.fve is not None for trip in trips)
    facts = pair.ar_contract.provenance["training"]
    assert facts["chosen_by"]["table"] == "eval.parquet"
    assert facts["chosen_by"]["table_sha256"] == build.sha256_of(config.out / "eval.parquet")
    assert facts["tables_sha256"] == {
        name: build.sha256_of(config.out / name) for name in ("ar_sft.parquet", "av_sft.parquet", "on_policy.parquet")
    }
    measured = {key.removeprefix("heldout_fve_") for key in facts if key.startswith("heldout_fve")}
    assert measured == {f"{name}{base}" for name in ("true", "empty", "shuffled") for base in ("", "_raw_variance")}


def test_written_labels_are_rows_of_their_own_beside_the_extractive_ones(tables):
    table = pq.read_table(Config.load(tables).out / "av_sft.parquet").to_pylist()
    kinds = {kind_of(row["labeler_model"]) for row in table}
    assert kinds == {"extractive", "written"}
    both = Counter(row["row_id"] for row in table)
    assert {both[row["row_id"]] for row in table if row["labeler_model"] == "m"} == {2}
    assert all(row["api_explanation"].startswith("Something about") for row in table if row["labeler_model"] == "m")


def test_a_restricted_av_has_the_tokens_of_its_own_labels_only(tables):
    config = Config.load(tables)
    tokenizer = Backbone.load(config.base, dtype="float32").tokenizer
    rows = pq.read_table(config.out / "av_sft.parquet").to_pylist()
    texts = {kind: [] for kind in ("extractive", "written")}
    for row in rows:
        texts[kind_of(row["labeler_model"])].append(row["api_explanation"] + "</explanation>")
    tokens = {kind: {one for text in own for one in tokenizer(text).input_ids} for kind, own in texts.items()}
    found = label_tokens(label_texts(config), tokenizer)
    assert config.av.sources == ["extractive"] and found <= tokens["extractive"]
    assert tokens["written"] - tokens["extractive"] and not found & (tokens["written"] - tokens["extractive"])


def test_only_the_adapter_is_trained_and_the_loss_falls_on_what_can_be_learnt_by_heart(tables):
    config = Config.load(tables)
    backbone = Backbone.load(config.base, dtype="float32")
    trainer = sft_av.AVTrainer(config, backbone)
    frozen = {name: p.detach().clone() for name, p in backbone.model.named_parameters() if not p.requires_grad}
    assert {name for name, p in backbone.model.named_parameters() if p.requires_grad} == set(trainer.parameters)
    optimizer = torch.optim.AdamW(trainer.parameters.values(), lr=3e-3)
    fallen = []
    with backbone.using("av"):
        for _ in range(25):
            loss = trainer.batch_loss(trainer.inputs[:4], trainer.targets[:4])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            fallen.append(loss.item())
    assert fallen[-1] < 0.6 * fallen[0]
    now = dict(backbone.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_the_av_loss_is_that_of_a_plain_forward_with_the_embedding_overwritten(tables, base):
    config = Config.load(tables)
    trainer = sft_av.AVTrainer(config, Backbone.load(config.base, dtype="float32"))
    with trainer.backbone.using("av"):
        ours = trainer.batch_loss(trainer.inputs[:3], trainer.targets[:3], exact=True).item()  # of all tokens
    model, prompt = tiny.plain_model(base), trainer.verbalizer.prompt_ids  # a fresh LoRA changes nothing: B is zero
    total = 0
    for vector, target in zip(trainer.inputs[:3], trainer.targets[:3], strict=True):
        ids = torch.tensor([[*prompt, *target]])
        embeds = model.get_input_embeddings()(ids).detach()
        embeds[0, prompt.index(trainer.contract.injection_token_id)] = vector
        logits = model(inputs_embeds=embeds).logits[0, len(prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
    assert ours == pytest.approx(total, rel=1e-5)


def test_the_estimated_softmax_comes_near_the_exact_one_and_is_exact_where_it_can_be(tables):
    backbone = Backbone.load(Config.load(tables).base, dtype="float32")
    states = torch.randn(64, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 40, (64,), generator=torch.Generator().manual_seed(1))
    exact = losses.ResponseLoss(backbone, range(40), 0)(states, targets).item()
    estimate = losses.ResponseLoss(backbone, range(40), 100)
    draws = [estimate(states, targets, torch.Generator().manual_seed(seed)).item() for seed in range(40)]
    assert not estimate.exact
    assert sum(draws) / len(draws) == pytest.approx(exact, rel=0.05)
    assert estimate(states, targets, exact=True).item() == pytest.approx(exact, rel=1e-6)
    assert losses.ResponseLoss(backbone, range(40), 10_000).exact
    # A token counts once however often the responses hold it: a large table once turned the estimate off.
    assert not losses.ResponseLoss(backbone, list(range(40)) * 10_000, 100).exact


def test_a_bias_of_the_lm_head_counts_in_the_estimated_softmax_as_in_the_exact_one(tables):
    backbone = Backbone.load(Config.load(tables).base, dtype="float32")
    head = backbone.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.randn(len(head.weight), generator=torch.Generator().manual_seed(2)))
    states = torch.randn(64, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 40, (64,), generator=torch.Generator().manual_seed(1))
    plain = torch.nn.functional.cross_entropy(states @ head.weight.T + head.bias, targets, reduction="sum").item()
    estimate = losses.ResponseLoss(backbone, range(40), 100)
    draws = [estimate(states, targets, torch.Generator().manual_seed(seed)).item() for seed in range(40)]
    assert not estimate.exact and sum(draws) / len(draws) == pytest.approx(plain, rel=0.05)
    assert losses.ResponseLoss(backbone, range(40), 0)(states, targets).item() == pytest.approx(plain, rel=1e-5)


def test_the_ar_loss_is_the_metric():
    a, b = (torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(
        losses.direction_loss(a, b), torch.as_tensor(metrics.direction_mse(a, b)).float(), rtol=1e-5, atol=1e-6
    )


def test_gradients_reach_every_lora_matrix_of_the_blocks_that_run_and_the_head(tables):
    config = Config.load(tables)
    config = config.model_copy(update={"ar": config.ar.model_copy(update={"sources": ["extractive"]})})
    trainer = sft_ar.ARTrainer(config, Backbone.load(config.base, dtype="float32"))
    for name, parameter in trainer.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    with trainer.backbone.using("ar"):
        trainer.share_of_loss(range(4), 0, range(4)).backward()
    assert {block for name in trainer.parameters for block in range(4) if f"layers.{block}." in name} == {0, 1}
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trainer.parameters.values()
    )


def test_data_order_visits_every_row_once_an_epoch_and_is_the_same_each_time():
    lengths = [random.Random(i).randrange(5, 60) for i in range(100)]
    order = schedule.data_order(lengths, 8, 2, seed=3)
    assert order == schedule.data_order(lengths, 8, 2, seed=3)
    assert sorted(row for batch in order[:13] for row in batch) == list(range(100))
    spread = [max(lengths[r] for r in batch) - min(lengths[r] for r in batch) for batch in order]
    assert sum(spread) / len(spread) < 15


def test_the_rate_warms_up_then_falls():
    settings = Train(warmup_steps=4, decay="linear")
    rates = [schedule.learning_rate_factor(step, 20, settings) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] > 0.05
    assert schedule.learning_rate_factor(19, 20, Train(warmup_steps=4, decay="constant")) == 1.0


def test_another_runs_checkpoint_is_refused(tables, base, corpus, tmp_path):
    config = Config.load(tables)
    trainer = sft_av.AVTrainer(config, Backbone.load(config.base, dtype="float32"))
    optimizer = torch.optim.AdamW(trainer.parameters.values(), lr=1e-3)
    first = loop.Loop(tmp_path / "run", config.av, optimizer, trainer.parameters, {"lr": 1}, 0)
    first.checkpoint()
    with pytest.raises(checkpoints.TrainingError, match="belongs to a run with other settings or data"):
        loop.Loop(tmp_path / "run", config.av, optimizer, trainer.parameters, {"lr": 2}, 0)


@pytest.mark.parametrize(
    ("step", "table", "found"),
    [(0, "a", "stands at step 0, process 0 at 7"), (7, "b", "has another table_sha256")],
    ids=["a folder of its own", "tables of its own"],
)
def test_machines_that_would_go_on_with_different_runs_are_refused(monkeypatch, tmp_path, step, table, found):
    first, other = (("a", 7, {"table_sha256": "a"}), ("b", step, {"table_sha256": table}))
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [first, other])
    with pytest.raises(
        checkpoints.TrainingError, match=rf"Process 1 on b {found} \(process 0 is on a\).*`out:` on storage"
    ):
        loop.refuse_other_runs(tmp_path, step, {"table_sha256": table})
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [first, first])
    loop.refuse_other_runs(tmp_path, 7, {"table_sha256": "a"})


def test_nan_stops_with_the_step_and_the_rows(tables, tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    runner = loop.Loop(tmp_path, Train(), torch.optim.AdamW([weight]), {"w": weight}, {}, 0)
    with pytest.raises(checkpoints.TrainingError, match=r"Step 0: loss nan.*rows \[3, 4\].*no checkpoint yet"):
        share = loop.in_micro_batches(lambda rows, step, batch: weight.sum() * float("nan"), None)
        runner.run([[3, 4]], share, dict, "test")


def test_a_held_out_figure_that_is_nan_stops_the_run_and_is_not_passed_over(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    runner = loop.Loop(
        tmp_path, Train(), torch.optim.AdamW([weight]), {"w": weight}, {}, 0, metric=("heldout_loss", False)
    )
    with pytest.raises(checkpoints.TrainingError, match=r"Step 0: heldout_loss is nan on the held-out rows"):
        runner.run([[3, 4]], lambda *_: 0.0, lambda: {"heldout_loss": float("nan")}, "test")
    assert not (tmp_path / "final").exists()


def saved_embedding(half: Path, base: Path, folder: Path) -> Path:
    """A copy of a half whose adapter holds an embedding of its own, equal to the base's."""
    shutil.copytree(half, folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    name = "model.embed_tokens.weight"
    tensors = load_file(file) | {f"base_model.model.{name}": load_file(base / "model.safetensors")[name]}
    save_file(tensors, file, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"modules_to_save": ["embed_tokens"]}))
    return folder


@pytest.mark.parametrize("negatives", [0, 60])
def test_training_goes_on_from_a_half_with_an_embedding_of_its_own(tables, base, tmp_path, negatives):
    config = Config.load(tables, {"out": str(tmp_path / "out"), "av.sampled_negatives": negatives, "av.max_rows": 8})
    shutil.copytree(Config.load(tables).out, config.out, ignore=shutil.ignore_patterns("av", "ar", "chunks"))
    first = sft_av.run(config)
    own = saved_embedding(first, base, tmp_path / "own")
    losses_of = {}
    for name, half in (("plain", first), ("saved", own)):
        onward = config.model_copy(update={"av": config.av.model_copy(update={"continue_from": half})})
        trainer = sft_av.AVTrainer(checkpoints.with_parent(onward, "av")[0], Backbone.load(base, dtype="float32"))
        with trainer.backbone.using("av"):
            losses_of[name] = trainer.share_of_loss(range(4), 0, range(4))
            losses_of[name].backward()
            losses_of[f"{name}, held out"] = trainer.evaluate()
    torch.testing.assert_close(losses_of["saved"], losses_of["plain"])
    assert losses_of["saved, held out"] == pytest.approx(losses_of["plain, held out"], rel=1e-5)
    assert losses_of["saved, held out"]["heldout_gap"] != 0, "what is injected is seen"
    table = next(value for name, value in trainer.parameters.items() if "embed_tokens" in name)
    assert table.grad is not None and table.grad.abs().sum() > 0
    done = sft_av.run(onward, name="onward")
    again = NLAPair.from_pretrained(done, base=base)
    assert again.explain(tiny.random(3, tiny.D_MODEL, seed=1)) and again.adapter_reports["av"].loaded > 1


def test_a_hook_that_never_fires_stops_training_at_its_first_batch(tables, base, monkeypatch):
    trainer = sft_av.AVTrainer(Config.load(tables), Backbone.load(base, dtype="float32"))
    before = Backbone.load(base, dtype="float32").embedding
    monkeypatch.setattr(Backbone, "embedding", property(lambda self: before))
    with pytest.raises(InjectionError, match="the AV on .* was not injected"), trainer.backbone.using("av"):
        trainer.share_of_loss(range(4), 0, range(4))


def test_the_extractive_label_names_what_comes_next_the_ending_and_keywords():
    label = extractive.explain(
        "The old lighthouse keeper of Dunmore climbed slowly up the spiral", [" staircase", " stairs", "\n"]
    )
    assert label.startswith('Next: "staircase" (or "stairs", a line break). After: "slowly up the spiral". About: ')
    assert "Dunmore" in label and "lighthouse" in label
    assert label == extractive.explain(
        "The old lighthouse keeper of Dunmore climbed slowly up the spiral", [" staircase", " stairs", "\n"]
    )


def test_a_label_names_up_to_five_different_next_tokens():
    def named(*tokens):
        return extractive.explain("The old lighthouse keeper climbed", tokens).partition(" After: ")[0]

    assert (
        named(" up", "up", " the", "\n", "\n\n", " to", " a", " on")
        == 'Next: "up" (or "the", a line break, "to", "a").'
    )
    assert named("\n") == "Next: a line break."
    assert extractive.explain("The old keeper", []).startswith('After: "The old keeper". About: keeper')


def test_an_empty_text_cannot_be_labelled():
    with pytest.raises(ValueError, match="nothing to label"):
        extractive.explain("  ", ["a"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": -1}, r"layer: Input should be greater than or equal to 0"),
        ({"av__lr": "fast"}, r"av\.lr: Input should be a valid number"),
        ({"av__lr": float("inf")}, r"av\.lr: Input should be a finite number \(found inf\)"),
        ({"ar__contrastive": float("nan")}, r"ar\.contrastive: Input should be a finite number"),
        ({"av__epochs": float("inf")}, r"av\.epochs: Input should be a finite number"),
        ({"split": {"eval": float("nan")}}, r"split\.eval: Input should be a finite number"),
        ({"extract__shards": 3}, r"extract\.shards: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_config_names_the_key(tmp_path, base, corpus, change, message):
    with pytest.raises(InputError, match=message):
        Config.load(config_file(tmp_path, base, corpus, **change))


def test_an_impossible_date_in_a_config_is_no_yaml(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 2026-13-01\n")
    with pytest.raises(InputError, match="not valid YAML: month must be in 1..12"):
        Config.load(tmp_path / "config.yaml")


def test_a_stage_with_bad_input_says_so_in_one_line_and_exits_2(tmp_path, base, corpus):
    missing = invoke(data_stage(build.run), "--config", tmp_path / "none.yaml")
    assert missing.exit_code == 2 and len(missing.stderr.splitlines()) == 1 and missing.stdout == ""
    assert missing.stderr.startswith("error: Cannot read the config") and "Traceback" not in missing.stderr


@pytest.mark.parametrize("options", [["--lr", "0"], ["--set", "av.lr=0"], ["--lr", "nan"]])
def test_a_learning_rate_of_nothing_is_refused_with_its_key_and_trains_nothing(tmp_path, base, corpus, options):
    file = config_file(tmp_path, base, corpus)
    trained: list = []
    command = trainer_command(lambda config, *, name: trained.append(config), "av", lambda config, role: 0)
    refused = invoke(command, "--config", file, *options)
    assert refused.exit_code == 2 and "av.lr: Input should be" in refused.stderr and not trained
    assert "set on the command line" in refused.stderr


def test_a_trainers_options_and_its_settings_by_name_reach_it(tmp_path, base, corpus):
    file = config_file(tmp_path, base, corpus)
    seen: list = []
    command = trainer_command(
        lambda config, *, name: seen.append((config, name)), "av", lambda config, role: seen.append(role) or 1
    )
    done = invoke(
        command, "--config", file, "--lr", "3e-5", "--set", "av.lora.r=2", "--name", "b", "--continue-from", "c"
    )
    assert done.exit_code == 0, done.stderr
    config, name = seen.pop()
    assert (config.av.lr, config.av.lora.r, config.av.continue_from, name) == (3e-5, 2, Path("c"), "b")
    assert invoke(command, "--config", file, "--plan").exit_code == 1 and seen == ["av"]
