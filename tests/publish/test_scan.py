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

from training.publish.scan import Scanner

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
