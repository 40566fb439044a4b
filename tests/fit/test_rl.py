"""Readout labels, the restricted vocabulary, expert rows and GRPO, on a tiny Llama."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk import NLAPair, metrics
from nla_sdk.claims.cutting import claims_of
from nla_sdk.errors import InputError, NonFiniteOutputError
from nla_sdk.halves.half import Half
from nla_sdk.io.files import hash64, sha256_of
from nla_sdk.io.tables import read_vectors
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.decoding.repeats import items
from nla_sdk.model.output import parse_output
from nla_sdk.sampling import Sampling
from tests.fit.launching import fork
from tests.fit.test_training import config_file, text
from training import pipeline
from training.configs.config import Config
from training.configs.data import Readout
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit import expert, grpo, on_policy
from training.fit.engine import checkpoints, collapse
from training.fit.engine.base import load_base
from training.fit.engine.losses import in_turn, response_states
from training.fit.engine.rows import held_apart, label_texts, label_tokens
from training.label.readout import stage as readout
from training.label.readout.probes import Probes
from training.label.readout.words import same_stem, spellings, usual


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rng, folder = random.Random(3), tmp_path_factory.mktemp("corpus")
    rows = [{"doc_id": f"doc{i // 2}", "text": text(rng), "family": rng.choice("ab")} for i in range(80)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.jsonl").write_text(json.dumps({**rows[0], "explanation": "Not used."}) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, corpus) -> Path:
    """A config whose pair has been trained a little, on readout labels."""
    folder = tmp_path_factory.mktemp("run")
    written = {"name": "readout", "providers": [{"kind": "readout"}]}
    path = config_file(
        folder,
        base,
        corpus,
        readout={"min_documents": 2, "next_candidates": 6, "word_candidates": 6, "words": 2},
        label={"sets": [written], "cache": str(folder / "labels.sqlite")},
        split={"eval": 0.1, "validation": 0.15, "av_sft": 0.3, "ar_sft": 0.25, "rl": 0.2},
        av__sources=["readout"],
        ar__sources=["readout"],
        expert={"rows": 6, "best_of": 3},
        grpo={
            "quantization": None,
            "gradient_checkpointing": False,
            "batch_size": 2,
            "micro_batch": 1,
            "samples": 4,
            "max_rows": 12,
            "epochs": 1,
            "eval_rows": 6,
            "eval_interval": 3,
            "save_interval": 2,
            "lr": 1e-3,
            "max_truncated": 1.0,
            "min_unique": 0.0,
            "max_kl": 100,
        },
    )
    config = Config.load(path)
    pipeline.run(config)
    (config.out / "eval.parquet").unlink()  # no trainer misses it
    sft_av.run(config)
    sft_ar.run(config)
    return path


def chosen_by(half: Path) -> dict:
    return yaml.safe_load((half / "nla_meta.yaml").read_text())["provenance"]["training"]["chosen_by"]


def test_trainers_choose_by_the_validation_table_and_never_open_the_reported_one(trained):
    config = Config.load(trained)
    made = grpo.run(changed(trained, max_rows=4, samples=2), name="chosen")
    assert not (config.out / "eval.parquet").exists()
    used = {"table": "validation.parquet", "table_sha256": sha256_of(config.out / "validation.parquet")}
    for half in (config.half("av"), config.half("ar"), made / "av", made / "ar"):
        assert chosen_by(half).items() >= used.items()


def test_validation_rows_are_in_no_other_table(trained):
    config = Config.load(trained)
    columns = ["doc_id", "detokenized_text_truncated"]
    validation = pq.read_table(config.out / "validation.parquet", columns=columns)
    assert len(validation)
    for name in ("av_sft", "ar_sft", "rl", "split/eval"):
        other = pq.read_table(config.out / f"{name}.parquet", columns=columns)
        for column in columns:
            assert not set(other[column].to_pylist()) & set(validation[column].to_pylist())


def changed(trained: Path, **settings) -> Config:
    config = Config.load(trained)
    return config.model_copy(update={"grpo": config.grpo.model_copy(update=settings)})


def trainer_of(config: Config) -> grpo.GRPOTrainer:
    halves = {role: Half.find(str(config.half(role)), role) for role in ("av", "ar")}
    return grpo.GRPOTrainer(config, load_base(config, config.grpo, torch.device("cpu")), halves)


# --- readout labels -----------------------------------------------------------------------------------------------
def planted(count: int, seed: int) -> tuple[np.ndarray, list[dict]]:
    """Activations that are sums of one direction for a word of the text and one for the next token."""
    rng = np.random.default_rng(7)
    words, tokens = ["lobster", "hurricane", "insulin", "piano"], ["was", "of", "1", ")"]
    directions = rng.standard_normal((8, 32)).astype(np.float32)
    draw = np.random.default_rng(seed)
    vectors, rows = [], []
    for at in range(count):
        word, token = draw.integers(4, size=2)
        vectors.append(
            20 * np.ones(32) + directions[word] * 4 + directions[4 + token] * 4 + draw.standard_normal(32) / 4
        )
        said = f"It is a matter of some {words[word]} that we are speaking of"
        rows.append({"doc_id": f"d{at}", "detokenized_text_truncated": said, "next_tokens": [tokens[token]]})
    return np.array(vectors, dtype=np.float32), rows


SETTINGS = Readout(next_tokens=1, words=1, least_words=1, next_candidates=3, word_candidates=3, min_documents=3)


def test_readout_names_what_is_in_vectors_it_was_not_fitted_on():
    probes = Probes.fit(*planted(400, 0), SETTINGS)
    vectors, rows = planted(60, 1)
    for row, explanation in zip(rows, probes.explain(vectors), strict=True):
        word = row["detokenized_text_truncated"].split()[6]
        assert explanation == f'Next: "{row["next_tokens"][0]}". About: {word}. Style: expository prose.'


def test_of_what_a_vector_makes_nobody_sure_a_label_says_that_it_is_related():
    probes = Probes.fit(*planted(400, 0), SETTINGS)
    sure = probes.confidence.of
    vectors, rows = planted(60, 1)
    # As sure of all as of a coin: the likeliest token is named all the same.
    probes.confidence = SimpleNamespace(of=lambda *given: sure(*given) * (SETTINGS.sure - 0.01))
    for row, explanation in zip(rows, probes.explain(vectors), strict=True):
        word = row["detokenized_text_truncated"].split()[6]
        assert explanation == f'Next: "{row["next_tokens"][0]}". Related: {word}. Style: expository prose.'


def test_what_a_vector_makes_implausible_is_not_even_said_to_be_related():
    probes = Probes.fit(*planted(400, 0), SETTINGS.model_copy(update={"plausible": 0.3}))
    sure = probes.confidence.of
    vectors, rows = planted(60, 1)
    for share, related in ((0.45, True), (0.25, False)):
        probes.confidence = SimpleNamespace(of=lambda *given, share=share: sure(*given) * share)
        assert all(("Related: " in explanation) == related for explanation in probes.explain(vectors))


def test_a_word_is_named_for_what_it_adds_and_none_twice():
    vectors, rows = planted(400, 0)
    both = Readout(next_tokens=2, words=4, least_words=1, least_gain=0.05, preference=0, min_documents=3)
    for explanation in Probes.fit(vectors, rows, both).explain(vectors[:40]):
        named = [claim.text for claim in claims_of(explanation) if claim.kind != "register"]
        assert len(named) == len(set(named)) == 2, "one token and one word are in each vector, and the rest is noise"


def test_words_are_spelled_as_the_text_spells_them():
    text = "Anna met Bob at NASA. Lobsters met Anna's friend, and it's said that they don't. Bob left"
    assert spellings(text, 40) == {
        "met": "met",
        "bob": "Bob",
        "nasa": "NASA",
        "lobsters": None,
        "anna": "Anna",
        "friend": "friend",
        "said": "said",
        "left": "left",
    }
    assert usual([{"james": None, "will": None}, {"james": "James"}, {"nasa": "nasa"}, {"nasa": "NASA"}] * 2) == {
        "james": "James",
        "will": "will",
        "nasa": "NASA",
    }


def test_readout_never_looks_at_a_held_out_text(trained, tmp_path):
    config = Config.load(trained)
    split = tmp_path / "out" / "split"
    split.mkdir(parents=True)
    for name in config.split.names:
        table = pq.read_table(config.out / "split" / f"{name}.parquet")
        if name in ("eval", "validation"):
            blank = [["?"]] * len(table)
            table = table.set_column(table.column_names.index("next_tokens"), "next_tokens", [blank])
        pq.write_table(table, split / f"{name}.parquet")
    other = config.model_copy(update={"out": tmp_path / "out"})
    assert readout.run(other).read_bytes() == (config.out / "readout.jsonl").read_bytes()
    with pytest.raises(InputError, match="does not exist"):
        (split / "rl.parquet").unlink()
        readout.run(other)


def test_readout_says_when_there_is_too_little_to_fit_on():
    with pytest.raises(InputError, match="occurs in 500 documents"):
        Probes.fit(*planted(40, 0), Readout(min_documents=500))


def test_one_word_a_stem(trained):
    rows = [json.loads(line) for line in (Config.load(trained).out / "readout.jsonl").read_text().splitlines()]
    assert {row["labeler_model"] for row in rows} == {readout.VERSION}
    assert len({row["explanation"] for row in rows}) > 10
    for row in rows:
        words = row["explanation"].rpartition(" about ")[2].rstrip(".").split(", ")
        assert not any(same_stem(a, b) for at, a in enumerate(words) for b in words[:at])


# --- the restricted vocabulary ------------------------------------------------------------------------------------
def test_a_restricted_av_writes_the_same_where_it_may_and_nothing_else(trained):
    config = Config.load(trained)
    pair = NLAPair.from_pretrained(config.half("av"), config.half("ar"), base=config.base)
    vectors = torch.from_numpy(read_vectors(pq.read_table(config.out / "validation.parquet")).copy())[:8]
    verbalizer = pair.verbalizer
    inputs = verbalizer.prepare(vectors)
    free = verbalizer.tokens(inputs, Sampling(8))
    used = {token for tokens, _ in free for token in tokens}
    verbalizer.restrict(used)
    assert verbalizer.tokens(inputs, Sampling(8)) == free
    fewer = sorted(used)[: len(used) // 2]
    verbalizer.restrict(fewer)
    draws = [torch.Generator().manual_seed(row) for row in range(8)]
    sampled = verbalizer.tokens(inputs, Sampling(8, temperature=1.5), generators=draws)
    assert {token for tokens, _ in sampled for token in tokens} <= set(fewer)
    verbalizer.restrict(None)
    assert verbalizer.tokens(inputs, Sampling(8)) == free
    with pytest.raises(InputError, match="expected ids below"):
        verbalizer.restrict([10**9])


# --- expert rows --------------------------------------------------------------------------------------------------
def test_expert_rows_are_the_best_of_their_groups_and_train_the_av(trained, tmp_path):
    config = Config.load(trained)
    expert.run(config)
    table = pq.read_table(config.out / "expert.parquet")
    vectors, texts = read_vectors(table).copy(), table["api_explanation"].to_pylist()
    pair = NLAPair.from_pretrained(config.half("av"), config.half("ar"), base=config.base)
    pair.verbalizer.restrict(label_tokens(label_texts(config), pair.verbalizer.backbone.tokenizer))
    greedy = pair.reconstruct([one or " " for one in pair.explain(vectors)])
    chosen = metrics.cosine(pair.reconstruct(texts), torch.from_numpy(vectors))
    assert len(texts) == 6 and (chosen >= metrics.cosine(greedy, torch.from_numpy(vectors)) - 1e-5).all()
    settings = config.av.model_copy(update={"sources": ["readout", "expert"], "max_rows": 10, "epochs": 0.5})
    written = (config.out / "expert.parquet").stat().st_mtime_ns
    expert.run(config.model_copy(update={"av": settings}))  # as who mixes them in then runs it again
    assert (config.out / "expert.parquet").stat().st_mtime_ns == written
    made = sft_av.run(config.model_copy(update={"av": settings}), name="with_expert")
    facts = yaml.safe_load((made / "nla_meta.yaml").read_text())["provenance"]["training"]
    kept = [hash64(doc_id) % 8 > 0 for doc_id in table["doc_id"].to_pylist()]
    assert facts["rows"] == 10 + (sum(kept) or len(kept))
    assert facts["tables_sha256"]["expert.parquet"] == sha256_of(config.out / "expert.parquet")


def test_an_av_of_expert_rows_is_chosen_by_such_rows_too(trained, tmp_path, base):
    """By labels alone the half that training starts from would always be the best."""
    config = Config.load(trained)
    expert.run(config)
    found = pq.read_table(config.out / "expert.parquet")
    held = ["doc3", "doc20"]  # those of an eighth of all documents
    documents = pa.array([["doc1", *held][at % 3] for at in range(len(found))])
    (tmp_path / "out").mkdir()
    own = found.set_column(found.schema.get_field_index("doc_id"), "doc_id", documents)
    pq.write_table(own, tmp_path / "out" / "expert.parquet")
    settings = config.av.model_copy(update={"sources": ["readout", "expert"], "max_rows": 10})
    changes = {"av": settings, "out": tmp_path / "out", "tables": config.out}
    trainer = sft_av.AVTrainer(config.model_copy(update=changes), Backbone.load(base, device="cpu", dtype="float32"))
    documents = {
        name: {row["doc_id"] for row in rows if row["labeler_model"].startswith("expert")}
        for name, rows in {"trained on": trainer.rows, "chosen by": trainer.eval_rows}.items()
    }
    assert documents == {"trained on": {"doc1"}, "chosen by": set(held)}
    assert len(trainer.eval_inputs) == len(trainer.eval_rows) and len(trainer.inputs) == len(trainer.rows)


def test_an_ar_of_what_the_av_writes_is_chosen_by_that_too(trained, tmp_path, base, monkeypatch):
    """On activations that it was shown with no label either."""
    monkeypatch.setattr("training.fit.engine.rows.hash64", lambda doc_id: int(int(doc_id[3:]) % 3 > 0))
    config = Config.load(trained)
    settings = config.ar.model_copy(update={"sources": ["readout", "on_policy"], "on_policy_rows": 1000})
    config = config.model_copy(update={"ar": settings, "after": config.out, "out": tmp_path / "out"})
    config.half("av").parent.mkdir(parents=True)
    config.half("av").symlink_to(config.half_before("av"))
    on_policy.run(config)
    trainer = sft_ar.ARTrainer(config, Backbone.load(base, device="cpu", dtype="float32"))
    assert len(trainer.eval_rows) == len(trainer.eval_vectors) and len(trainer.rows) == len(trainer.targets)
    apart = {row["doc_id"] for row in trainer.eval_rows if row["labeler_model"].startswith("av:")}
    assert apart and all(int(doc_id[3:]) % 3 == 0 for doc_id in apart)
    assert any(row["labeler_model"].startswith("readout") for row in trainer.eval_rows)
    assert {row["doc_id"] for row in trainer.rows if row["labeler_model"].startswith("av:")}
    assert not apart & {row["doc_id"] for row in trainer.rows}


@given(st.lists(st.integers(0, 40).map(str), max_size=30), st.integers(1, 8))
def test_rows_to_choose_by_are_of_documents_that_are_not_trained_on(documents, wanted):
    kept, apart = held_apart([{"doc_id": one} for one in documents], wanted)
    assert not {documents[at] for at in kept} & {documents[at] for at in apart}
    assert len(apart) <= wanted and (kept or not documents)
    sides = {hash64(one) % 8 == 0 for one in documents}
    assert bool(apart) == (len(sides) == 2)


def test_a_second_round_trains_on_the_tables_and_from_the_halves_of_the_first(trained, tmp_path):
    """Nothing of the first run is written to, and what is made says what it was made from."""
    first = Config.load(trained)
    values = {"extends": str(trained), "out": str(tmp_path / "out"), "after": str(first.out)}
    again = tmp_path / "round2.yaml"
    again.write_text(yaml.safe_dump(values | {"av": {"sources": ["readout", "expert"], "max_rows": 8}}), "utf-8")
    before = {file: file.stat().st_mtime_ns for file in first.out.rglob("*")}
    second = Config.load(again, {"ar.sources": ["readout", "on_policy"], "ar.on_policy_rows": 4, "ar.max_rows": 8})
    expert.run(second)
    sft_av.run(second)
    on_policy.run(second)
    sft_ar.run(second)
    assert {file: file.stat().st_mtime_ns for file in first.out.rglob("*")} == before
    for role, table in {"av": "expert.parquet", "ar": "on_policy.parquet"}.items():
        made = yaml.safe_load((second.half(role) / "nla_meta.yaml").read_text())["provenance"]["training"]
        assert made["parent"]["adapter_sha256"] == sha256_of(first.half(role) / "adapter_model.safetensors")
        assert made["tables_sha256"][table] == sha256_of(second.out / table)
    av = sha256_of(second.half("av") / "adapter_model.safetensors")[:12]
    assert set(pq.read_table(second.out / "on_policy.parquet")["labeler_model"].to_pylist()) == {f"av:{av}"}


# --- GRPO ---------------------------------------------------------------------------------------------------------
def test_advantages_are_scores_within_their_group():
    rewards = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = [[(one - row.mean()) / row.std() for one in row] for row in rewards.double()]
    torch.testing.assert_close(grpo.advantages(rewards).double(), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert not grpo.advantages(torch.ones(2, 4)).any()


def test_k3_is_the_divergence_on_average():
    generator = torch.Generator().manual_seed(0)
    own, reference = torch.log_softmax(torch.randn(2, 12, generator=generator), dim=-1)
    drawn = torch.multinomial(own.exp(), 200_000, replacement=True, generator=generator)
    estimate = grpo.k3(own[drawn], reference[drawn])
    assert (estimate >= 0).all()
    assert float(estimate.mean()) == pytest.approx(float((own.exp() * (own - reference)).sum()), rel=0.03)


@pytest.mark.parametrize("vocabulary", ["labels", "all"])
def test_a_step_has_the_gradient_of_an_independent_computation(trained, vocabulary):
    config = changed(trained, vocabulary=vocabulary, kl=0.0, temperature=0.8, ar_lr=1e-4)
    trainer = trainer_of(config)
    rows = [0, 1]
    with trainer.backbone.using("av"):
        trainer.accumulate(rows, 0, rows)
    found = {
        name: parameter.grad.clone() for name, parameter in trainer.parameters.items() if parameter.grad is not None
    }
    assert any(".av." in name for name in found) and any(".ar." in name for name in found)
    for parameter in trainer.parameters.values():
        parameter.grad = None

    # The same, one sample at a time, through embeddings that are put together here.
    model, verbalizer, tokenizer = trainer.backbone.model, trainer.verbalizer, trainer.backbone.tokenizer
    allowed = trainer.verbalizer.vocabulary if vocabulary == "labels" else torch.arange(len(tokenizer))
    terms, count = [], 0
    for row in rows:
        vector = trainer.vectors[row]
        draws = [grpo.row_generator(vector, config.seed, sample) for sample in range(4)]
        prepared = verbalizer.prepare(vector[None])
        written = verbalizer.tokens(prepared.repeat(4, 1), Sampling(temperature=0.8), generators=draws)
        rewards = []
        for tokens, finished in written:
            words = parse_output(tokenizer.decode(tokens, skip_special_tokens=True), finished)
            made = trainer.reconstructor([words])
            rewards.append(-float(metrics.direction_mse(made, vector[None])[0]) - 0.5 * (words.status == "truncated"))
        for gain, (tokens, finished) in zip(grpo.advantages(torch.tensor([rewards]))[0], written, strict=True):
            ids = [*tokens, trainer.end] if finished else tokens
            with trainer.backbone.using("av"):
                embeds = model.get_input_embeddings()(torch.tensor([[*verbalizer.prompt_ids, *ids]])).clone()
                embeds[0, verbalizer.marker] = prepared[0]
                states = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
                logits = model.lm_head(states[len(verbalizer.prompt_ids) - 1 : -1])[:, allowed] / 0.8
            places = [int((allowed == token).nonzero()) for token in ids]
            likelihood = torch.log_softmax(logits, dim=-1)[range(len(ids)), places]
            terms.append(-gain * likelihood.sum())
            count += len(ids)
    total = sum(terms) / count
    with trainer.backbone.using("av"):
        total.backward()
    for name, parameter in trainer.parameters.items():
        if ".av." in name and name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=2e-3, atol=1e-5)


def test_draws_that_are_refused_have_their_likelihood_in_the_gradient():
    """Against the sum over every way that a tiny sampler can go: its expected reward, differentiated as it is."""
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = {0: 1.0, 3: -0.5}  # of what is taken; 1 and 2 are refused
    probabilities = logits.softmax(0)
    left = probabilities[[0, 3]] / probabilities[[0, 3]].sum()
    (left[0] * rewards[0] + left[1] * rewards[3]).backward()
    expected, logits.grad = logits.grad, None
    ways = [[*before, taken] for before in ([], [1], [2], [1, 2], [2, 1]) for taken in rewards]
    total = 0.0
    for way in ways:
        scores, places = in_turn(logits[None], [torch.tensor(way)])
        likelihood = scores.log_softmax(1)[range(len(way)), places].sum()
        total += likelihood.detach().exp() * rewards[way[-1]] * likelihood
    total.backward()
    torch.testing.assert_close(logits.grad, expected)


def test_grpo_samples_what_the_pair_writes_and_scores_every_draw(trained):
    trainer = trainer_of(changed(trained, vocabulary="all", kl=0.0, temperature=1.5))
    verbalizer = trainer.verbalizer
    verbalizer.contract = verbalizer.contract.replace(output_no_repeats=True, max_new_tokens=30)
    tokenizer, own = trainer.backbone.tokenizer, verbalizer.parse
    verbalizer.restrict(tokenizer.convert_tokens_to_ids([*"ab, "]))
    opening = tokenizer("About: ", add_special_tokens=False).input_ids  # it has learnt too little to begin a list
    verbalizer.parse = lambda tokens, finished: own([*opening, *tokens], finished)
    group = trainer._sample([0, 1], 0)
    assert any(group.refused)
    for output in group.outputs:
        said = items(output)[0]
        assert len(set(said)) == len(said)
    with torch.no_grad(), trainer.backbone.using("av"):
        found, rows = trainer._log_likelihood(group)
        states, _, _ = response_states(verbalizer, group.inputs, group.targets)
        logits = (verbalizer.logits_of(states).float() / 1.5).split([len(ids) for ids in group.targets])
    expected = []
    for sample, (ids, refused) in enumerate(zip(group.targets, group.refused, strict=True)):
        for at, token in enumerate(ids):
            left = logits[sample][at].exp()
            for place in verbalizer.places_of(torch.tensor([*refused.get(at, []), token])):
                expected.append((sample, float((left[place] / left.sum()).log())))
                left[place] = 0
    assert rows.tolist() == [sample for sample, _ in expected]
    torch.testing.assert_close(found, torch.tensor([value for _, value in expected]), rtol=1e-4, atol=1e-4)


def test_what_is_written_is_not_compiled_and_what_is_learnt_from_is(trained, monkeypatch):
    trainer, compiled = trainer_of(changed(trained)), []
    for block in trainer.backbone.blocks:
        block.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward, dynamic=True)
    real, before = trainer.verbalizer._written, []

    def written(*given, **how):
        before.append(len(compiled))
        made = real(*given, **how)
        before.append(len(compiled))
        return made

    monkeypatch.setattr(trainer.verbalizer, "_written", written)
    trainer.accumulate([0, 1], 0, [0, 1])
    trainer.evaluate()
    assert len(before) >= 4 and before[::2] == before[1::2] and compiled


def gradients_of(trainer: grpo.GRPOTrainer, rows: list[int], batch: list[int]) -> dict[str, torch.Tensor]:
    with trainer.backbone.using("av"):
        trainer.accumulate(rows, 0, batch)
    found = {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}
    for parameter in trainer.parameters.values():
        parameter.grad = None
    return found


def test_grpo_has_one_gradient_whatever_fits_into_a_forward(trained):
    """Explanations differ in length: a mean over each micro-batch's tokens is not one over all of them."""
    rows = list(range(5))
    found, notes = [], []
    for size in (None, 1, 2):
        trainer = trainer_of(changed(trained, kl=0.2, micro_batch=size, ar_lr=1e-4))
        found.append(gradients_of(trainer, rows, rows))
        notes.append(trainer.notes)
        lengths = {len(ids) for ids in trainer._sample(rows, 0).targets}
        assert len(lengths) > 1, "else every mean is the same"
    for other, told in zip(found[1:], notes[1:], strict=True):
        assert other.keys() == found[0].keys() and told == pytest.approx(notes[0], rel=1e-4, abs=1e-6)
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=2e-3, atol=2e-6)


def test_reconstructions_that_are_nan_stop_grpo_and_are_no_advantage_of_nothing(trained):
    trainer = trainer_of(changed(trained))
    with torch.no_grad():
        trainer.reconstructor.head.weight[0] = float("nan")
    with pytest.raises(NonFiniteOutputError, match="reconstructs is NaN or infinite"), trainer.backbone.using("av"):
        trainer.accumulate([0, 1], 0, [0, 1])


class TwoProcesses:
    """What accelerate gives a process of two, with the other's share written down beforehand."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, others: list[list[float]]) -> None:
        self.others = iter(others)

    def reduce(self, shares: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return shares + torch.tensor(next(self.others), dtype=shares.dtype)


def test_grpo_of_two_processes_adds_up_to_that_of_one_and_an_empty_share_to_nothing(trained, monkeypatch):
    monkeypatch.setattr("accelerate.utils.gather_object", lambda texts: texts)
    config = changed(trained, kl=0.0, micro_batch=2, ar_lr=1e-4)
    batch = [0, 1, 2]
    alone = trainer_of(config)
    expected = gradients_of(alone, batch, batch)
    tokens = {row: sum(len(ids) for ids in alone._sample([row], 0).targets) for row in batch}
    summed: dict[str, torch.Tensor] = {}
    nothing = [0.0] * (1 + len(collapse.Seen().sums))  # the divergence, and what is counted beside the rows
    for own in ([0, 2], [1], []):
        rest = [row for row in batch if row not in own]
        trainer = trainer_of(config)
        trainer.accelerator = TwoProcesses([[sum(tokens[row] for row in rest)], [4.0 * len(rest)] + nothing])
        found = gradients_of(trainer, own, batch)
        assert bool(found) == bool(own)
        for name, gradient in found.items():
            summed[name] = summed.get(name, 0.0) + gradient
    assert summed.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(summed[name], gradient, rtol=2e-3, atol=2e-6)


def test_two_processes_train_the_pair_of_one(trained):
    """Really two, over gloo."""
    settings = yaml.safe_load(trained.read_text())
    settings["grpo"] |= {"batch_size": 3, "max_rows": 9, "kl": 0.1, "ar_lr": 1e-4, "save_interval": 100, "trackers": []}
    trained.with_name("two.yaml").write_text(yaml.safe_dump(settings))
    grpo.run(Config.load(trained.with_name("two.yaml")), name="alone")
    fork(["training.fit.grpo", "--config", trained.with_name("two.yaml"), "--name", "together"], machines=1)
    out = Config.load(trained).out
    logs = [
        [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", "together")
    ]
    for key in ("loss", "reward", "kl", "unique", "tokens", "grad_norm"):
        alone, together = ([record[key] for record in log if key in record] for log in logs)
        assert len(alone) == 3 and together == pytest.approx(alone, rel=1e-3, abs=1e-4), key


def test_variety_is_that_of_a_whole_step_not_of_one_activation(trained):
    """Each activation gets one text, every activation another: no collapse, whatever fits into a forward."""
    watch = collapse.Watch(changed(trained, min_unique=0.2).grpo)
    for step in range(8):
        seen = collapse.Seen()
        for row in range(4):
            outputs = [parse_output(f"text {row}", True, 2)] * 4
            seen.add(outputs, torch.zeros(4), torch.zeros(4), 0.0)
        notes = seen.notes()
        assert notes["unique"] == 0.25
        watch.look(notes, step)


def test_grpo_ends_in_the_same_weights_however_often_it_is_killed(trained, monkeypatch):
    config = changed(trained)
    grpo.run(config, name="whole")
    real = grpo.GRPOTrainer.accumulate
    for death in (1, 4):

        def dying(self, rows, step, batch, death=death):
            if step == death:
                raise RuntimeError("killed")
            return real(self, rows, step, batch)

        with monkeypatch.context() as patch:
            patch.setattr(grpo.GRPOTrainer, "accumulate", dying)
            with pytest.raises(RuntimeError, match="killed"):
                grpo.run(config, name="broken")
    grpo.run(config, name="broken")
    latest = [checkpoints.latest_checkpoint(config.out / name) for name in ("whole", "broken")]
    states = [torch.load(path / checkpoints.STATE, weights_only=True)["parameters"] for path in latest]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][key], tensor) for key, tensor in states[0].items())
    logged = [json.loads(line) for line in (config.out / "broken" / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in logged] == list(range(7))
    assert {"reward", "kl", "unique", "truncated", "tokens"} <= logged[3].keys()
    pair = NLAPair.from_pretrained(config.out / "whole" / "final")
    assert pair.matched and pair.round_trip(pair.extract("the cat sat on a mat").vectors[0]).fve is not None


def test_grpo_raises_the_reward_it_is_given(trained):
    """Enough steps at a high rate on few activations: what is rewarded becomes likelier."""
    config = changed(trained, max_rows=2, epochs=30, lr=3e-3, kl=0.0, ar_lr=0.0, eval_interval=100, save_interval=100)
    grpo.run(config, name="rewarded")
    logged = [json.loads(line) for line in (config.out / "rewarded" / "log.jsonl").read_text().splitlines()]
    rewards = [one["reward"] for one in logged if "reward" in one]
    assert len(rewards) == 30 and np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.05


def test_grpo_stops_on_collapse_and_keeps_what_was_best(trained):
    config = changed(trained, min_unique=1.0, max_rows=2, epochs=20, lr=3e-3, kl=0.0)
    with pytest.raises(collapse.CollapseError, match="of the explanations differ"):
        grpo.run(config, name="collapsed")
    assert (config.out / "collapsed" / "final" / "av" / "adapter_model.safetensors").is_file()


def test_grpo_says_what_is_missing(trained):
    config = Config.load(trained)
    with pytest.raises(InputError, match="no section grpo"):
        grpo.run(config.model_copy(update={"grpo": None}))
    with pytest.raises(InputError, match="grpo.shard_base"):
        grpo.run(changed(trained, shard_base=True))
