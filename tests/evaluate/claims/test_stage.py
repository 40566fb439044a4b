"""A whole evaluation with claims: what is in the table and the figures, against plain computations; killed, resumed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cards.report import report, summary
from nla_sdk.claims.calibration import CLAIMS, load_calibration
from nla_sdk.claims.cutting import Claim, claims_of
from nla_sdk.claims.truth import supported
from nla_sdk.claims.words import content_words
from nla_sdk.errors import InputError
from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.files import sha256_of
from tests.evaluate.claims.made import CLAIMED, speaking, without_models
from tests.evaluate.planted import evaluate, table
from tests.evaluate.test_resume import without_time
from training.evaluate.claims.given import published, texts_for
from training.evaluate.compare import lines
from training.evaluate.extras import Embedder
from training.evaluate.heldout import read
from training.evaluate.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluation of rows whose texts are in a file of their own."""
    root = tmp_path_factory.mktemp("claims")
    data = table(root / "heldout.parquet", documents=20, positions=2)
    beside = pq.read_table(table(root / "texts.parquet", documents=30, positions=2, texts=True))
    texts = root / "texts.parquet"
    pq.write_table(beside.take(pa.array(np.random.default_rng(0).permutation(len(beside)))), texts)
    with pytest.MonkeyPatch.context() as patch:
        without_models(patch)
        pair = speaking(root / "pair", data)
        found = evaluate(pair, data, root / "out", CLAIMED, texts=texts_for(read(data, None), texts))
    return root, data, texts, found


def said(root) -> list[dict]:
    return pq.read_table(root / "out" / CLAIMS_TABLE).to_pylist()


def test_every_claim_of_every_evaluated_row_is_in_the_table_with_its_truth(made):
    root, data, texts, found = made
    own = {row["row_id"]: row["detokenized_text_truncated"] for row in pq.read_table(texts).to_pylist()}
    plain = []
    for row in pq.read_table(root / "out" / ROWS).to_pylist():
        for claim in claims_of(row["explanation"]):
            agrees = 0.2 if claim.text in own[row["row_id"]] else 0.001
            plain.append((row["row_id"], row["source_family"], claim.text, claim.kind))
            plain[-1] += (supported(claim, own[row["row_id"]], agrees),)
    names = ("row_id", "source_family", "claim", "claim_kind", "supported")
    assert [tuple(one[name] for name in names) for one in said(root)] == plain
    assert found.claims.n == found.claims.known == len(plain) and found.claims.rows == 40
    assert found.claims.supported_per_explanation == pytest.approx(sum(one[-1] for one in plain) / 40)


def test_precision_chance_and_what_carries_nothing_are_plain_means(made):
    root, _, texts, found = made
    own = {row["row_id"]: row["detokenized_text_truncated"] for row in pq.read_table(texts).to_pylist()}
    rows = pq.read_table(root / "out" / ROWS).to_pylist()
    kinds = {kind.kind: kind for kind in found.claims.kinds}
    assert list(kinds) == ["next token", "register", "word"]
    for name, kind in kinds.items():
        claims = [one for one in said(root) if one["claim_kind"] == name]
        assert kind.precision.value == pytest.approx(np.mean([one["supported"] for one in claims]))
        odd = [one["supported"] for one in claims if one["source_family"] == "odd"]
        assert kind.by_family["odd"].value == pytest.approx(np.mean(odd))
        lost = [one["ablation"] for one in claims if one["ablation"] is not None]
        assert (kind.nothing.count, kind.nothing.of) == (sum(one <= 0 for one in lost), len(lost))
    chance = []
    for row in rows:
        for claim in claims_of(row["explanation"]):
            if claim.kind == "word":
                others = [own[other["row_id"]] for other in rows if other["doc_id"] != row["doc_id"]]
                chance.append(np.mean([supported(claim, text) for text in others]))
    assert kinds["word"].chance.value == pytest.approx(np.mean(chance))
    assert kinds["next token"].precision.value == 0.5 and kinds["next token"].chance.value == 0.0
    assert kinds["next token"].precision.p < 0.01


def test_claims_are_taken_out_of_the_drawn_rows_only_and_the_rest_has_the_other_receipts(made):
    root, _, _, found = made
    asked = {one["row_id"] for one in said(root) if one["ablation"] is not None}
    assert len(asked) == CLAIMED.claims_n and all(one["lens"] is not None for one in said(root))
    assert all((one["alone"] is None) == (one["claim_kind"] != "word") for one in said(root))
    receipts = {one.name: one for one in found.claims.receipts}
    assert receipts["ablation"].n < receipts["lens"].n == found.claims.n
    assert receipts["in_text"].auroc is None, "the truth is made of it"


def test_next_tokens_among_the_likeliest_and_claims_made_twice_are_plain_shares(made):
    """The planted source finds three tokens likelier than a name that its text has, else forty; "nine" is none."""
    root, _, _, found = made
    likeliest, rows = found.claims.likeliest, said(root)
    named = [one for one in rows if one["claim_kind"] == "next token"]
    first_ = {one["row_id"]: one for one in reversed(named)}.values()
    for figure, of in ((likeliest.named, named), (likeliest.first, list(first_))):
        plain = [one["place"] is not None and one["place"] < 10 for one in of]
        assert figure.value == pytest.approx(np.mean(plain)) and figure.n == len(of) and figure.p < 0.01
    assert (likeliest.of, likeliest.named.value, likeliest.first.value) == (10, 0.5, 1.0)
    assert likeliest.named_chance.value == likeliest.first_chance.value == 0.0
    assert {one["place_by_chance"] for one in named} == {40, None}
    assert all(one["place"] is None for one in rows if one["claim_kind"] != "next token")
    assert (found.claims.repeats.count, found.claims.repeats.of) == (40, 40), "each name stands in two claims"
    assert found.claims.near is None, "no embedder was at hand"


def test_words_near_the_text_are_those_that_few_strange_words_are_as_near_to(tmp_path, made, monkeypatch):
    root, data, texts, before = made
    without_models(monkeypatch)
    embed = Embedder("letters", None, letters)
    named = CLAIMED.model_copy(update={"embedder": "letters"})
    given = texts_for(read(data, None), texts)
    found = evaluate(speaking(tmp_path / "pair", data), data, tmp_path / "out", named, texts=given, embed=embed)
    own = {row["row_id"]: row["detokenized_text_truncated"] for row in pq.read_table(texts).to_pylist()}
    rows = pq.read_table(tmp_path / "out" / ROWS).to_pylist()

    def cosine(word: str, text: str) -> float:
        if supported(Claim(word, "word", 0, len(word)), text):
            return 1.0
        one, each = letters([word])[0], letters(content_words(text))
        return max(each @ one / np.linalg.norm(each, axis=1) / np.linalg.norm(one))

    plain, chance = [], []
    for at, row in enumerate(rows):
        other = next(one for one in (*rows[at:], *rows[:at]) if one["doc_id"] != row["doc_id"])
        for claim in claims_of(row["explanation"]):
            if claim.kind == "word":
                plain.append(cosine(claim.text, own[row["row_id"]]))
                chance.append(cosine(claim.text, own[other["row_id"]]))
    near, strange = found.claims.near, np.array([one for one in chance if one < 1.0])
    assert (strange > near.cosine + 1e-6).mean() <= 0.05 < (strange >= near.cosine - 1e-6).mean()
    limit = near.cosine + 1e-6
    assert near.exceeded == pytest.approx((strange > limit).mean())
    assert near.precision.value == pytest.approx(np.mean([one > limit for one in plain])) and near.precision.n == 120
    assert near.chance.value == pytest.approx(np.mean([one > limit for one in chance]))
    word = next(kind for kind in found.claims.kinds if kind.kind == "word")
    assert near.precision.value >= word.precision.value and word == before.claims.kinds[-1]
    assert "claims against the texts" in verify(tmp_path / "out" / EVALUATION, data=data, texts=texts).checked
    page, told = report(found), summary(found)
    assert f"within a cosine of {near.cosine:.3f}" in page and "words in the text or near it" in told
    assert "next tokens among 10 likeliest" in told and "40 of 40 (100 %) explanations make a claim twice" in page
    text = "\n".join(lines(tmp_path / "out" / EVALUATION, root / "out" / EVALUATION))
    assert "words in or near the text" in text and "next tokens among the likeliest" in text


def letters(words: list[str]) -> np.ndarray:
    """An embedder that counts letters and digits."""
    return np.array([[word.count(one) + 0.01 for one in "abcdefghijklmnopqrstuvwxyz0123456789"] for word in words])


def test_numbers_that_the_text_does_not_have_are_invented(made):
    """Every word "doc012" is a number (it has digits); the rows' texts have their own."""
    _, _, _, found = made
    number = next(one for one in found.claims.specifics if one.what == "number")
    assert number.stated == 40 and number.invented.count == 0 and number.chance.count == 40


def test_the_calibration_is_of_all_known_claims_and_names_what_it_was_made_from(made):
    root, _, texts, found = made
    saved = load_calibration(root / "out" / CLAIMS)
    assert saved.made_from == found.inputs and saved.made_from["texts"] == sha256_of(texts)
    assert found.files[CLAIMS] == sha256_of(root / "out" / CLAIMS)
    assert saved.needed == {"alone", "lens"} and saved.reliability == found.claims.reliability
    assert set(saved.kinds) == {"next token", "word"}
    assert found.claims.why_no_support.startswith("register: 0 supported and 40 not")
    assert saved.chance["word"]["repeats"] == 0.0


def test_nothing_of_the_texts_is_kept(made):
    root, _, _, _ = made
    for file in (root / "out").rglob("*"):
        assert not file.is_file() or b"the very end" not in file.read_bytes(), file
    assert "token_class" in pq.read_table(root / "out" / ROWS).column_names


@pytest.fixture(scope="module")
def in_chunks(tmp_path_factory, made):
    """Chunks of claims of ten rows and twelve, the settings, and the folder of an evaluation that nothing stopped."""
    root, (_, data, texts, _) = tmp_path_factory.mktemp("chunks"), made
    settings = CLAIMED.model_copy(update={"permutations": 19, "bootstrap_draws": 5})
    with pytest.MonkeyPatch.context() as patch:
        without_models(patch)
        for name, size in (("READ_PER_CHUNK", 10), ("PER_CHUNK", 12)):
            patch.setattr(f"training.evaluate.claims.measuring.{name}", size)
        given = texts_for(read(data, None), texts)
        evaluate(speaking(root / "pair", data), data, root / "out", settings, texts=given)
        yield settings, root / "out"


@pytest.mark.parametrize("death", range(5))
def test_killed_at_any_chunk_it_gives_the_same_file_and_tables(tmp_path, made, in_chunks, monkeypatch, death):
    (_, data, texts, _), (settings, whole) = made, in_chunks
    without_models(monkeypatch)
    pair, given = speaking(tmp_path / "pair", data), texts_for(read(data, None), texts)
    real, writes = Chunks.write, iter(range(100))

    def dying(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        if next(writes) == death:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pair, data, tmp_path / "broken", settings, texts=given)
    evaluate(pair, data, tmp_path / "broken", settings, texts=given)
    assert without_time(tmp_path / "broken" / EVALUATION) == without_time(whole / EVALUATION)
    for name in (ROWS, CLAIMS_TABLE, CLAIMS):
        assert sha256_of(tmp_path / "broken" / name) == sha256_of(whole / name)
    assert not (tmp_path / "broken" / "chunks").exists()


def test_without_texts_there_are_receipts_but_no_precision_and_no_probability_and_it_says_why(tmp_path, monkeypatch):
    without_models(monkeypatch)
    data = table(tmp_path / "heldout.parquet", documents=12)
    found = evaluate(speaking(tmp_path / "pair", data), data, tmp_path / "out", CLAIMED)
    assert found.claims.known == 0 and found.claims.n == 24 * 6
    assert all(kind.precision is None and kind.chance is None and kind.nothing for kind in found.claims.kinds)
    assert "--texts FILE" in found.claims.why_no_precision and "--texts FILE" in found.claims.why_no_support
    assert found.token_classes is None and CLAIMS not in found.files and CLAIMS_TABLE in found.files
    assert not (tmp_path / "out" / CLAIMS).exists()
    assert "every claim's figures" in verify(tmp_path / "out" / EVALUATION).checked


def test_with_claims_of_no_rows_none_is_taken_out(tmp_path, monkeypatch):
    without_models(monkeypatch)
    data = table(tmp_path / "heldout.parquet", documents=12, texts=True)
    none = CLAIMED.model_copy(update={"claims_n": 0})
    found = evaluate(speaking(tmp_path / "pair", data), data, tmp_path / "out", none)
    assert found.claims.known == found.claims.n, "data that have texts need no file of them"
    assert {one.name for one in found.claims.receipts} == {
        "in_text",
        "in_text_exact",
        "model_agrees",
        "lens",
        "repeats",
        "alone",
    }
    assert "texts" not in found.inputs
    verify(tmp_path / "out" / EVALUATION)


def test_a_finished_evaluation_is_read_unless_other_published_figures_are_to_stand_in_it(tmp_path, monkeypatch):
    without_models(monkeypatch)
    data = table(tmp_path / "heldout.parquet", documents=12, texts=True)
    pair = speaking(tmp_path / "pair", data)
    first = evaluate(pair, data, tmp_path / "out", CLAIMED)
    assert evaluate(pair, data, tmp_path / "out", CLAIMED) == first
    listed = tmp_path / "published.yaml"
    listed.write_text("- {what: invented claims, value: 0.6, n: 100, of: a pair, source: a paper}\n", encoding="utf-8")
    second = evaluate(pair, data, tmp_path / "out", CLAIMED, published=published(listed))
    assert second.published[0].value == 0.6 and second.claims == first.claims


# --- what is given ----------------------------------------------------------------------------------------------------
def changed(table_, **columns):
    for name, values in columns.items():
        table_ = table_.set_column(table_.column_names.index(name), name, pa.array(values))
    return table_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["doc_id"]), "lacks the columns doc_id; it has row_id"),
        (lambda t: t.slice(1), "has no text for row_id 'doc000-0' of document 'doc000'"),
        (
            lambda t: changed(t, detokenized_text_truncated=["", *t["detokenized_text_truncated"].to_pylist()[1:]]),
            "has no text for row_id 'doc000-0'",
        ),
        (
            lambda t: pa.concat_tables([t, changed(t, detokenized_text_truncated=["other"] * len(t))]),
            "two texts for row_id 'doc000-0' of document 'doc000'",
        ),
        (lambda t: t.append_column("n_raw_tokens", pa.array([9] * len(t))), "has 9 tokens of row_id 'doc000-0'"),
    ],
    ids=["column", "row", "empty", "two", "position"],
)
def test_texts_that_are_not_of_the_rows_are_refused(tmp_path, change, message):
    data = table(tmp_path / "heldout.parquet", documents=3)
    rows = pq.read_table(data)
    pq.write_table(rows.append_column("n_raw_tokens", pa.array([5] * len(rows))), data)
    texts = pq.read_table(table(tmp_path / "texts.parquet", documents=3, texts=True))
    pq.write_table(change(texts), tmp_path / "texts.parquet")
    with pytest.raises(InputError, match=message):
        texts_for(read(data, None), tmp_path / "texts.parquet")


def test_texts_for_data_that_have_their_own_are_refused(tmp_path):
    data = table(tmp_path / "heldout.parquet", documents=3, texts=True)
    assert texts_for(read(data, None), None).digest is None
    with pytest.raises(InputError, match="has the texts of its rows"):
        texts_for(read(data, None), data)
    with pytest.raises(InputError, match="does not exist"):
        texts_for(read(table(tmp_path / "b.parquet"), None), tmp_path / "nothing.parquet")


def test_rows_whose_ids_two_documents_share_find_their_texts(tmp_path):
    data = table(tmp_path / "heldout.parquet", documents=3)
    texts = table(tmp_path / "texts.parquet", documents=3, texts=True)
    for file in (data, texts):
        rows = pq.read_table(file)
        pq.write_table(changed(rows, row_id=[name.split("-")[1] for name in rows["row_id"].to_pylist()]), file)
    found = texts_for(read(data, None), texts)
    assert [text.split()[2] for text in found.of_rows] == read(data, None).documents


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no list"),
        ("[", "no readable YAML"),
        ("- {what: x, value: 1.0, of: a}", "entry 1: source: Field required"),
        ("- {what: x, value: .nan, of: a, source: b}", "entry 1: value"),
    ],
)
def test_published_figures_without_all_that_makes_them_readable_are_refused(tmp_path, text, message):
    file = tmp_path / "published.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        published(file)
    with pytest.raises(InputError, match="cannot be read"):
        published(tmp_path / "none.yaml")
