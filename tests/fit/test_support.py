"""Rewarding supported claims: the score is the calibration's, advantages follow it, and without it nothing changes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nla_sdk import NLAPair, metrics
from nla_sdk.claims.calibration import CLAIMS, Calibration, Weight, Weights
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import without
from nla_sdk.claims.forms.claim import KINDS
from nla_sdk.errors import InputError, MissingFileError
from nla_sdk.halves.beside.digests import half_digests
from nla_sdk.halves.half import Half
from nla_sdk.model.output import parse_output
from tests import configs, tiny
from tests.fit.tables import write_tables
from training.configs.config import Config
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit import expert, grpo
from training.fit.engine import checkpoints
from training.fit.engine.base import load_base
from training.fit.reward.support import find_calibration

ROWS = 24
LABELS = [
    f'"{configs.WORDS[at % 9]}" comes next. Fiction about {configs.WORDS[at % 5]}, {configs.WORDS[9 + at % 8]}.'
    for at in range(ROWS)
]
FREE = "The old cat sat. Dogs ran over hills."
FORM = '"mat" or "cat" comes next. Fiction about dogs, hills.'


@pytest.fixture(scope="module")
def started(tmp_path_factory, base) -> Path:
    """A config whose pair was trained for a step or two, and its activations."""
    folder = tmp_path_factory.mktemp("support")
    short = {
        "quantization": None,
        "gradient_checkpointing": False,
        "micro_batch": None,
        "batch_size": 8,
        "epochs": 0.7,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        "lr": 1e-3,
        "eval_rows": 4,
        "sources": ["written"],
    }
    rl = {"batch_size": 2, "micro_batch": 1, "samples": 3, "max_rows": 8, "epochs": 1, "eval_interval": 4, "lr": 1e-3}
    rl |= {"save_interval": 2, "max_truncated": 1.0, "min_unique": 0.0, "max_kl": 100, "vocabulary": "all", "kl": 0.0}
    own = {key: value for key, value in short.items() if key not in (*rl, "sources")}
    settings = configs.sections(
        folder, base, av={**short, "max_new_tokens": 12}, ar=short, grpo=own | rl,
        expert={"rows": 8, "best_of": 3, "vocabulary": "all"}, extract={"sources": [{"corpus": "unused.jsonl"}]},
    )  # fmt: skip
    path = configs.write(folder, settings)
    config = Config.load(path)
    pair = tiny.plain_model(base)
    vectors = 3 * tiny.random(ROWS, pair.config.hidden_size, seed=2).numpy()
    write_tables(config.out, vectors, dict.fromkeys(("av_sft", "ar_sft", "eval"), LABELS))
    table = pq.read_table(config.out / "eval.parquet")
    more = {
        "row_id": [f"r{at}" for at in range(ROWS)],
        "n_raw_tokens": [9] * ROWS,
        "activation_layer": [1] * ROWS,
        "detokenized_text_truncated": ["the cat"] * ROWS,
        "source_family": ["a"] * ROWS,
    }
    for name, values in more.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, config.out / "rl.parquet")
    sft_av.run(config)
    sft_ar.run(config)
    return path


def halves_of(config: Config) -> dict[str, Half]:
    return {role: Half.find(str(config.half(role)), role) for role in ("av", "ar")}


def planted(config: Config, weights: dict[str, dict[str, float]], file: Path, **changes) -> Path:
    """A calibration of this pair: by kind an intercept, and of receipts what a unit adds."""
    made_from = {"data.parquet": "00"}
    for role, half in halves_of(config).items():
        made_from |= half_digests(role, half.folder, half.contract)
    kinds = {
        kind: Weights(
            n=9,
            supported=4,
            intercept=of["intercept"],
            receipts={name: Weight(weight=one, mean=0.0, std=1.0) for name, one in of.items() if name != "intercept"},
        )
        for kind, of in weights.items()
    }
    facts = {"made_from": made_from, "data": "data.parquet", "unit": "gain", "kinds": kinds} | changes
    return Calibration(**facts).save(file)


BY_KIND = {kind: {"intercept": -4.0 if kind == "sentence" else 4.0} for kind in KINDS}


def rewarding(config: Config, tmp_path: Path, weights=BY_KIND, mse=1.0, support=1.0, **settings) -> Config:
    reward = type(config.grpo.reward)(mse=mse, support=support)
    told = {"reward": reward, "claims": planted(config, weights, tmp_path / "planted.json")}
    return config.model_copy(
        update={
            "grpo": config.grpo.model_copy(update={**told, **settings}),
            "expert": config.expert.model_copy(update=told),
        }
    )


def trainer_of(config: Config) -> grpo.GRPOTrainer:
    return grpo.GRPOTrainer(config, load_base(config, config.grpo, torch.device("cpu")), halves_of(config))


def writes(trainer: grpo.GRPOTrainer, texts: list[str]) -> None:
    """Have the AV draw these explanations for each activation."""

    def sample(rows, step):
        vectors = trainer.vectors[list(rows)].repeat_interleave(len(texts), dim=0)
        outputs = [parse_output(f"{text}</explanation>", True, 5) for _ in rows for text in texts]
        targets = [trainer.backbone.tokenizer(str(output)).input_ids[1:9] for output in outputs]
        return grpo.Group(trainer.verbalizer.prepare(vectors), targets, outputs, vectors)

    trainer._sample = sample


def logged(config: Config, name: str) -> list[dict]:
    return [json.loads(line) for line in (config.out / name / "log.jsonl").read_text().splitlines()]


# --- the score --------------------------------------------------------------------------------------------------------
def test_support_is_the_mean_probability_of_an_explanations_claims(started, tmp_path):
    """By hand: the AR without each claim, the base's own lm_head on the vector, what is said twice."""
    weights = {
        "next token": {"intercept": 0.3, "lens": 0.2},
        "word": {"intercept": -0.2, "ablation": 9.0, "repeats": 1.5},
        "sentence": {"intercept": 0.1, "ablation": -7.0},
    }
    config = rewarding(Config.load(started), tmp_path, weights)
    trainer = trainer_of(config)
    texts = [FORM, FREE, "", '"cat" comes next. Fiction about cat, cat, mat.']
    vectors = trainer.vectors[: len(texts)]
    found = trainer.support(texts, vectors)
    empty = trainer.reconstructor([""])[0]
    model = trainer.backbone.model
    for text, vector, value in zip(texts, vectors, found.tolist(), strict=True):
        each = []
        for claim in claims_of(text):
            of = dict(weights.get(claim.kind, {}))
            if not of:
                each.append(0.0)  # the register, which the calibration does not know
                continue
            score = of.pop("intercept")
            if "lens" in of:
                with torch.no_grad(), trainer.backbone.using(None):
                    logits = model.lm_head(model.model.norm(vector[None]))[0].double()
                ids = [at for at in range(len(logits)) if trainer.backbone.tokenizer.decode([at]).strip() == claim.text]
                if not ids:
                    each.append(0.0)  # no such token
                    continue
                score += of["lens"] * float(torch.logsumexp(torch.log_softmax(logits, -1)[ids], 0))
            if "ablation" in of:
                whole, less = trainer.reconstructor([text, without(text, claim, claims_of(text))])
                lost = metrics.direction_mse(less, vector) - metrics.direction_mse(whole, vector)
                score += of["ablation"] * lost / metrics.direction_mse(empty, vector)
            if "repeats" in of:
                score += of["repeats"] * (sum(one.text == claim.text for one in claims_of(text)) - 1)
            each.append(1 / (1 + math.exp(-score)))
        assert value == pytest.approx(np.mean(each) if each else 0.0, abs=1e-4), text
    assert found[2] == 0.0 and len(set(found.tolist())) == 4


def test_support_is_that_of_the_row_whatever_stands_beside_it(started, tmp_path):
    """Also where other rows' claims stand in for its own."""
    weights = {kind: {"intercept": 0.0, "replacement": 20.0, "alone": 3.0} for kind in KINDS}
    trainer = trainer_of(rewarding(Config.load(started), tmp_path, weights))
    pool, _ = trainer.support.others
    trainer.support.others = pool, LABELS[: len(pool)]  # the tiny AV's own words make no claims of these kinds
    trainer.support.kinds = [{claim.kind for claim in claims_of(text)} for text in LABELS[: len(pool)]]
    texts = [LABELS[3], LABELS[4], FORM]
    together = trainer.support(texts, trainer.vectors[:3])
    singly = [trainer.support([text], vector[None])[0] for text, vector in zip(texts, trainer.vectors, strict=False)]
    torch.testing.assert_close(together, torch.stack(singly), rtol=1e-4, atol=1e-5)
    assert together.std() > 1e-3


# --- GRPO -------------------------------------------------------------------------------------------------------------
def test_a_planted_calibration_makes_the_advantage_prefer_supported_claims(started, tmp_path):
    rewards, gains = {}, {}
    real = grpo.advantages
    for name, weights in {"mse": (1.0, 0.0), "both": (1.0, 5.0), "support": (0.0, 1.0)}.items():
        config = rewarding(Config.load(started), tmp_path, mse=weights[0], support=weights[1])
        trainer = trainer_of(config)
        writes(trainer, [FREE, FORM, "Mary read."])

        def kept(reward, name=name):
            rewards[name], gains[name] = reward.clone(), real(reward)
            return gains[name]

        with pytest.MonkeyPatch.context() as patch, trainer.backbone.using("av"):
            patch.setattr(grpo, "advantages", kept)
            trainer.accumulate([0, 1], 0, [0, 1])
        texts = [FREE, FORM, "Mary read."]
        made = trainer.reconstructor(texts)
        error = [float(metrics.direction_mse(one, trainer.vectors[1])) for one in made]
        low, high = 1 / (1 + math.exp(4.0)), 1 / (1 + math.exp(-4.0))
        expected = [-weights[0] * one + weights[1] * two for one, two in zip(error, (low, high, low), strict=True)]
        assert rewards[name][0].tolist() == pytest.approx(expected, abs=1e-4)  # micro-batches of one row: the last
        if weights[1]:
            assert trainer.notes["reward_support"] == pytest.approx((2 * low + high) / 3, abs=1e-5)
        else:
            assert trainer.support is None and "reward_support" not in trainer.notes
    for name in ("both", "support"):
        assert gains[name][0].argmax() == 1 and gains[name][0][1] > 1.1
    assert float(gains["support"][0][0]) == pytest.approx(float(gains["support"][0][2]), abs=1e-5)


def test_without_support_training_is_bit_for_bit_what_it_was(started, tmp_path, monkeypatch):
    """As the reward was before: −mse less the penalties. No calibration is looked for."""
    config = Config.load(started)
    assert config.grpo.reward.support == 0 and not (config.half("av") / CLAIMS).exists()

    def before(self, group, error, support):
        lengths = torch.tensor([float(output.tokens) for output in group.outputs])
        cut = torch.tensor([float(output.status in ("truncated", "untagged")) for output in group.outputs])
        return -error - self.settings.truncation_penalty * cut - self.settings.length_penalty * lengths

    found = []
    for patched in (False, True):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(grpo.GRPOTrainer, "_reward", before)
            grpo.run(config, name=f"plain{patched}")
        latest = checkpoints.latest_checkpoint(config.out / f"plain{patched}")
        found.append(torch.load(latest / checkpoints.STATE, weights_only=True))
    assert all(torch.equal(found[1]["parameters"][key], one) for key, one in found[0]["parameters"].items())
    assert "reward" not in json.loads(found[0]["identity"])["settings"], "as in a checkpoint from before"
    lines = logged(config, "plainFalse")
    assert all(line["reward_mse"] == -line["sampled_mse"] for line in lines if "reward" in line)
    assert not any("support" in key for line in lines for key in line)


def test_support_is_logged_each_step_and_a_killed_run_ends_in_the_same_weights(started, tmp_path, monkeypatch):
    weights = {kind: {"intercept": 0.5, "ablation": 3.0, "repeats": 1.0} for kind in KINDS}
    config = rewarding(Config.load(started), tmp_path, weights, support=0.7, kl=0.1, ar_lr=1e-3)
    grpo.run(config, name="whole")
    real = grpo.GRPOTrainer.accumulate

    def dying(self, rows, step, batch):
        if step == 3:
            raise RuntimeError("killed")
        return real(self, rows, step, batch)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(grpo.GRPOTrainer, "accumulate", dying)
        grpo.run(config, name="broken")
    grpo.run(config, name="broken")
    states = [
        torch.load(checkpoints.latest_checkpoint(config.out / name) / checkpoints.STATE, weights_only=True)
        for name in ("whole", "broken")
    ]
    assert all(torch.equal(states[1]["parameters"][key], one) for key, one in states[0]["parameters"].items())
    for name in ("whole", "broken"):
        lines = [line for line in logged(config, name) if "reward" in line]
        assert len(lines) == 4
        for line in lines:
            cut = 0.5 * (line["truncated"] + line["untagged"])
            parts = line["reward_mse"] + 0.7 * line["reward_support"] - cut
            assert line["reward"] == pytest.approx(parts, abs=1e-5) and 0 <= line["reward_support"] <= 1
        assert "heldout_support" in logged(config, name)[0]
    other = rewarding(config, tmp_path, BY_KIND, support=0.7, kl=0.1, ar_lr=1e-3)
    with pytest.raises(checkpoints.TrainingError, match="another"):
        grpo.run(other, name="broken")


# --- rejection sampling -----------------------------------------------------------------------------------------------
def test_expert_rows_are_those_with_the_largest_reward(started, tmp_path):
    weights = {kind: {"intercept": 0.0, "alone": -25.0} for kind in KINDS}
    config = rewarding(Config.load(started), tmp_path, weights, mse=0.5, support=2.0)
    expert.run(config)
    chosen = pq.read_table(config.out / "expert.parquet")["api_explanation"].to_pylist()
    pair = NLAPair.from_pretrained(config.half("av"), config.half("ar"), base=config.base)
    vectors = torch.from_numpy(np.stack(pq.read_table(config.out / "expert.parquet")["activation_vector"].to_pylist()))
    support = expert._Rewarded(config, find_calibration("expert", config.expert.claims, halves_of(config)))
    support = support._supporter(pair)
    differing = 0
    for vector, text in zip(vectors, chosen, strict=True):
        candidates = [pair.explain(vector, force=True)]
        candidates += pair.explain(vector, n=2, temperature=0.7, seed=config.seed, force=True)
        texts = [str(one) if one.parsed else "" for one in candidates]
        error = metrics.direction_mse(pair.reconstructor(texts), vector.expand(3, -1))
        reward = 2.0 * support(texts, vector.expand(3, -1)).numpy() - 0.5 * error
        assert text == texts[int(np.argmax(reward))]
        differing += int(np.argmax(reward)) != int(np.argmin(error))
    assert differing, "the calibration was planted so that support decides"


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.fixture
def unloaded(monkeypatch):
    """Nothing of this may come after the base was loaded."""

    def loaded(*_, **__):
        raise AssertionError("the base was loaded first")

    monkeypatch.setattr(grpo, "load_base", loaded)
    monkeypatch.setattr(expert, "explain_rows", loaded)


@pytest.mark.parametrize("stage", ["grpo", "expert"])
def test_support_without_a_calibration_of_this_pair_is_refused_before_training(started, tmp_path, unloaded, stage):
    run = {"grpo": grpo.run, "expert": expert.run}[stage]
    config = rewarding(Config.load(started), tmp_path)

    def with_claims(path):
        return config.model_copy(update={stage: getattr(config, stage).model_copy(update={"claims": path})})

    with pytest.raises(MissingFileError, match=f"{stage}.reward.support is over 0 and there is no claims.json in .*av"):
        run(with_claims(None))
    foreign = dict.fromkeys(half_digests("av", config.half("av"), halves_of(config)["av"].contract), "0")
    path = planted(config, BY_KIND, tmp_path / "foreign.json", made_from=foreign)
    with pytest.raises(InputError, match=r"foreign.json was fitted with other halves .*: av/.* differs"):
        run(with_claims(path))
    path = planted(config, {"word": {"intercept": 0.0, "dictionary": 1.0}}, tmp_path / "more.json")
    with pytest.raises(InputError, match="more.json rests on dictionary; training can make ablation, alone"):
        run(with_claims(path))


@pytest.mark.parametrize("place", ["av", "."])
def test_a_calibration_beside_the_av_is_found(started, tmp_path, place):
    config = Config.load(started)
    half = halves_of(config)["av"]
    file = planted(config, BY_KIND, half.folder.parent / CLAIMS if place == "." else half.folder / CLAIMS)
    try:
        assert find_calibration("grpo", None, halves_of(config)).kinds["word"].intercept == 4.0
    finally:
        file.unlink()


def test_receipts_are_in_the_unit_of_the_calibration(started, tmp_path):
    config = rewarding(Config.load(started), tmp_path, {"word": {"intercept": 0.0, "ablation": 1.0}})
    assert trainer_of(config).support.parts.baseline_mse is None
    changes = {"unit": "FVE", "baseline_mse": 0.125}
    planted(config, {"word": {"intercept": 0.0, "ablation": 1.0}}, tmp_path / "planted.json", **changes)
    assert trainer_of(config).support.parts.baseline_mse == 0.125


@pytest.mark.parametrize(
    ("reward", "message"),
    [({"fve": 1}, "grpo.reward.fve"), ({"mse": 0}, "both weights are 0"), ({"support": -1}, "grpo.reward.support")],
)
def test_a_reward_of_unknown_or_no_parts_is_refused(started, reward, message):
    with pytest.raises(InputError, match=message):
        Config.load(started, {"grpo.reward": reward})
