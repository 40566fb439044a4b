"""Nothing private leaves the machine, and nothing harmless is held back."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from training.runs.scan import Scanner

SECRETS = {
    "a Hugging Face token": "hf_" + "aB3" * 12,
    "an OpenAI key": "sk-proj-" + "aB3_" * 10,
    "an Anthropic key": "sk-ant-api03-" + "aB3-" * 10,
    "a Google key": "AIza" + "aB3_x" * 7,
    "an AWS key": "AKIA" + "ABCD1234" * 2,
    "a home folder": "/home/somebody/models",
    "an e-mail address": "ada@example.org",
}
PLACES = ["/Users/ada/x", "C:\\Users\\ada", "C:\\\\Users\\\\ada\\\\x", "/root/models/x", "file:///home/ada/x"]


def whats(findings) -> set[str]:
    return {one.what for one in findings}


@pytest.mark.parametrize("what", SECRETS)
def test_secrets_are_found_where_they_stand(tmp_path, what):
    (tmp_path / "nla_meta.yaml").write_text(f"a: 1\nb: {SECRETS[what]}\n")
    found = Scanner().folder(tmp_path)
    assert whats(found) == {what} and str(found[0]).startswith("nla_meta.yaml, line 2: ")
    assert SECRETS[what] not in str(found[0]), "the secret is not repeated"


@pytest.mark.parametrize("place", PLACES)
def test_anybodys_home_folder_is_found(tmp_path, place):
    (tmp_path / "log.jsonl").write_text(json.dumps({"path": place}))
    assert whats(Scanner().folder(tmp_path)) == {"a home folder"}


@pytest.mark.parametrize(
    "harmless", ["/homepage/x", "see /home", "a root of 2", "x@y", "task-force", "hf_hub", "/rooted/x"]
)
def test_what_only_looks_like_it_passes(tmp_path, harmless):
    (tmp_path / "card.md").write_text(harmless)
    assert Scanner().folder(tmp_path) == []


def test_this_machine_is_found_by_its_names(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "curie-7.lab.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "marie")
    monkeypatch.setattr(Path, "home", lambda: Path("/srv/people/marie"))
    for text, what in [
        ("trained on curie-7 last night", "this machine's host name"),
        ("by marie", "this machine's user name"),
        ("in /srv/people/marie/runs", "this machine's home folder"),
    ]:
        (tmp_path / "log.jsonl").write_text(text)
        assert what in whats(Scanner().folder(tmp_path)), text
    (tmp_path / "log.jsonl").write_text("mariecurie curie-70 marieke")
    assert Scanner().folder(tmp_path) == []


def test_a_common_user_name_is_no_news(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    (tmp_path / "card.md").write_text("the square root of localhost")
    assert Scanner().folder(tmp_path) == []


def test_binary_files_headers_and_parquet_are_searched(tmp_path):
    token = SECRETS["a Hugging Face token"]
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "a.safetensors", metadata={"by": token})
    (tmp_path / "linear_head.pt").write_bytes(b"\x80\x02\x00\xff" + token.encode() + b"\x00\xff")
    rows = pa.table({"explanation": [f"says {token}"]}).replace_schema_metadata({"author": "ada@example.org"})
    pq.write_table(rows, tmp_path / "rows.parquet")
    found = {str(one) for one in Scanner().folder(tmp_path)}
    assert found == {
        "a.safetensors, header: a Hugging Face token",
        "linear_head.pt, strings: a Hugging Face token",
        "rows.parquet, column explanation: a Hugging Face token",
        "rows.parquet, metadata: an e-mail address",
    }


def test_text_that_is_published_as_text_may_name_addresses_and_folders(tmp_path):
    rows = {"detokenized_text_truncated": ["cd /home/user; mail a@b.org"], "doc_id": ["/home/user/corpus/a.txt"]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    assert [str(one) for one in Scanner().folder(tmp_path)] == ["rows.parquet, column doc_id: a home folder"]


def test_addresses_are_allowed_in_notes_citations_and_licences_only(tmp_path):
    mail = SECRETS["an e-mail address"]
    (tmp_path / "LICENSE").write_text(f"write to {mail}")
    (tmp_path / "README.md").write_text(f"<!-- notes -->\n{mail}\n<!-- /notes -->\n```bibtex\n{mail}\n```\n")
    assert Scanner().folder(tmp_path) == []
    (tmp_path / "README.md").write_text(f"<!-- notes -->\n{mail}\n<!-- /notes -->\nand {mail}\n")
    assert [str(one) for one in Scanner().folder(tmp_path)] == ["README.md, line 4: an e-mail address"]


def test_a_token_in_the_notes_is_still_a_token(tmp_path):
    (tmp_path / "README.md").write_text(f"<!-- notes -->\n{SECRETS['an AWS key']}\n<!-- /notes -->")
    assert whats(Scanner().folder(tmp_path)) == {"an AWS key"}


def test_tokenizers_are_not_searched_and_file_names_are(tmp_path):
    (tmp_path / "tokenizer.json").write_text(SECRETS["a home folder"])
    assert Scanner().folder(tmp_path) == []
    (tmp_path / f"notes {SECRETS['an e-mail address']}.md").write_text("x")
    assert [str(one).rpartition(", ")[2] for one in Scanner().folder(tmp_path)] == ["its name: an e-mail address"]


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(sorted(set(SECRETS) - {"an e-mail address"})))
def test_a_secret_is_found_in_any_surroundings_that_end_it(before, after, what):
    found = Scanner().text("x", f"{before} {SECRETS[what]} {after}")
    assert what in whats(found)


# --- in whatever form they come ---------------------------------------------------------------------------------------
TOKEN = SECRETS["a Hugging Face token"]
FORMS = [
    ("x.json", json.dumps({"a": f"line\n{TOKEN}"}), "a Hugging Face token"),
    ("x.yaml", f'a: "tab\\there\\n{TOKEN}"', "a Hugging Face token"),
    ("x.yaml", f"u: https://x.org/?t%3D{TOKEN}", "a Hugging Face token"),
    ("x.yaml", f"HF_{TOKEN}", "a Hugging Face token"),
    ("x.yaml", "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJv", "a Hugging Face token"),
    ("x.yaml", "secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "an AWS key"),
    ("x.json", json.dumps("-----BEGIN RSA PRIVATE KEY-----\nMIIE"), "a private key"),
    ("x.jsonl", json.dumps({"cmd": "cd\n/home/ada/secret"}), "a home folder"),
    ("x.json", json.dumps("/home/дмитрий/x"), "a home folder"),
    ("x.json", r'"\/home\/ada\/x"', "a home folder"),
    *(
        ("x.yaml", f"at {place}", "a home folder")
        for place in (
            "/mnt/c/Users/ada/x",
            "/c/Users/ada/x",
            "/nfs/home/ada/x",
            "/var/home/ada/x",
            "-I/home/ada/include",
            "c:\\users\\ada\\x",
            "C:/Users/ada",
            "/home/дмитрий/x",
            "C:\\Users\\Дмитрий\\x",
        )
    ),
    ("x.yaml", "a: <!-- notes -->ada@example.org<!-- /notes -->", "an e-mail address"),
    ("vocab.parquet.nla_meta.yaml", TOKEN, "a Hugging Face token"),
    ("tokenizer_config.json", '{"name_or_path": "/home/ada/base"}', "a home folder"),
]


@pytest.mark.parametrize(("name", "text", "what"), FORMS)
def test_other_forms_are_found(tmp_path, name, text, what):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert what in whats(Scanner().folder(tmp_path))


@pytest.mark.parametrize(
    "harmless", ["https://site.org/home/page", "github.com/Users/x", "docs/home/a", "half_" + "a" * 20]
)
def test_addresses_that_hold_such_words_pass(tmp_path, harmless):
    (tmp_path / "card.md").write_text(harmless)
    assert Scanner().folder(tmp_path) == []


def test_every_kind_of_column_is_searched_and_its_name(tmp_path):
    columns = {
        "dictionary": pa.array(["a", TOKEN]).dictionary_encode(),
        "list": pa.array([[TOKEN], []]),
        "struct": pa.array([{"role": TOKEN}, None]),
        "binary": pa.array([TOKEN.encode(), b""]),
        "view": pa.array([TOKEN, "x"]).cast(pa.string_view()),
        "activation_vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4, np.float32)), 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "vocab.parquet")
    found = {one.place for one in Scanner().folder(tmp_path)}
    assert found == {f"column {name}" for name in columns if name != "activation_vector"}
    pq.write_table(pa.table({TOKEN: ["x"]}), tmp_path / "vocab.parquet")
    assert {one.place for one in Scanner().folder(tmp_path)} == {"column names"}


def test_metadata_of_tensors_is_searched_as_it_reads(tmp_path):
    save_file(
        {"x": np.ones(2, np.float32)}, tmp_path / "a.safetensors", metadata={"c": f"a\n{TOKEN}", "p": "/home/Ünal/y"}
    )
    assert whats(Scanner().folder(tmp_path)) == {"a Hugging Face token", "a home folder"}


# --- and what is not a secret -----------------------------------------------------------------------------------------
def test_a_name_that_is_published_anyway_is_no_secret(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "cat-box")
    monkeypatch.setattr(getpass, "getuser", lambda: "lovelace")
    text = 'NLAPair.from_pretrained("lovelace/cat-av")'
    assert whats(Scanner().text("README.md", text)) == {"this machine's user name"}
    assert Scanner(["lovelace/cat-av"]).text("README.md", text) == []


@pytest.mark.parametrize("user", ["max", "will"])
def test_a_user_name_that_is_a_word_is_found_in_paths_only(monkeypatch, user):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr(getpass, "getuser", lambda: user)
    assert Scanner().text("README.md", f"median 0.4, {user} 0.5. The card {user} say") == []
    for place in (f"/scratch/{user}/runs", f"D:\\{user.upper()}\\x", f"{user}@cluster"):
        assert whats(Scanner().text("log", place)) == {"this machine's user name"}, place


def test_names_of_this_machine_are_found_in_any_case_and_a_users_not_in_a_corpus(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "DESKTOP-X1")
    monkeypatch.setattr(getpass, "getuser", lambda: "Marie")
    assert len(whats(Scanner().text("a.log", "c:/x/marie/y desktop-x1"))) == 2
    assert Scanner().text("rows.parquet", "Marie Curie", published=True) == []


def test_what_texts_of_a_corpus_hold_is_counted_for_the_author(tmp_path):
    rows = {"detokenized_text_truncated": ["cd /home/user; mail a@b.org", "c@d.org"], "n": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    scanner = Scanner()
    assert scanner.folder(tmp_path) == []
    said = "\n".join(scanner.seen_in_texts())
    assert (
        "column detokenized_text_truncated: an e-mail address (found 2×)" in said and "a home folder (found 1×)" in said
    )


def test_an_example_row_names_nobody(tmp_path):
    from cards.facts.dataset import DatasetFacts
    from training.publish.copies import clean_example

    texts = ["write to ada@example.org", "x" * 500, "plain"]
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"detokenized_text_truncated": texts, "n": [1, 2, 3]}), table)
    facts = DatasetFacts.read([table]).tables[0]
    assert facts.example["detokenized_text_truncated"] == texts[0]
    found = clean_example(table, facts, Scanner())
    assert found["n"] == "2" and found["detokenized_text_truncated"] == "x" * 399 + "…"


def test_a_table_pushed_by_a_stage_is_searched_too(tmp_path):
    from training.runs.results import ResultsError, push

    table = tmp_path / "train.parquet"
    pq.write_table(pa.table({"explanation": [TOKEN]}), table)
    table.with_name("train.parquet.nla_meta.yaml").write_text("config:\n  out: /home/ada/runs\n")
    with pytest.raises(
        ResultsError, match="column explanation: a Hugging Face token; .*line 2: a home folder"
    ) as caught:
        push("ada/data", table, Path("train.parquet"))
    assert TOKEN not in str(caught.value) and "/home/ada" not in str(caught.value)


def test_the_terms_of_gemma_go_along_word_for_word_and_not_otherwise(tmp_path):
    from importlib import resources

    page = (resources.files("nla_sdk") / "demo" / "GEMMA_TERMS.html").read_bytes()
    (tmp_path / "GEMMA_TERMS.html").write_bytes(page)
    assert Scanner().folder(tmp_path) == []
    (tmp_path / "GEMMA_TERMS.html").write_bytes(page + b"!")
    assert {one.what for one in Scanner().folder(tmp_path)} == {"a Google key"}
