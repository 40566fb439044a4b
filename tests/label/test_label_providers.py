"""Providers other than the APIs: command-line clients, files, the extractive labeler, a model on this machine."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from tests.label import data
from training.configs.label import ProviderSettings
from training.label import extractive, passes, stage
from training.label.faults import LabelError, QuotaWall, Refused, Transient
from training.label.providers.choose import provider_of
from training.label.providers.protocol import LabelRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins for the clients are shell scripts")

LABEL = "Said by a command-line client, in enough words."
CLAUDE = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": f"<explanation>{LABEL}</explanation>",
    "total_cost_usd": 0.25,
    "usage": {"input_tokens": 5, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 7},
}
GEMINI = {
    "response": f"<explanation>{LABEL}</explanation>",
    "stats": {"models": {"gemini-x": {"tokens": {"prompt": 40, "candidates": 9, "thoughts": 2, "total": 51}}}},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(passes, "BACKOFF", 0.001)


def program(path: Path, answer: object, *, code: int = 0, stderr: str = "", before: str = "") -> Path:
    """An executable that keeps its arguments, folder and stdin beside itself, and prints `answer`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = answer if isinstance(answer, str) else json.dumps(answer)
    (path.parent / "answer").write_text(text)
    (path.parent / "complaint").write_text(stderr)
    path.write_text(
        '#!/bin/sh\nhere="$(dirname "$0")"\ncat > "$here/stdin"\nprintf "%s\\n" "$@" > "$here/arguments"\n'
        f'pwd > "$here/folder"\n{before}\ncat "$here/answer"\ncat "$here/complaint" >&2\nexit {code}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def ask(settings: dict, prompt: str = "Label this; é ㊗ {x} $(echo no) `no`"):
    provider = provider_of(ProviderSettings(**settings))
    try:
        return provider.complete(LabelRequest("text", (), prompt))
    finally:
        provider.close()


def test_the_claude_client_on_the_path_reports_tokens_and_cost(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    program(folder / "claude", CLAUDE)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    found = ask({"kind": "claude-cli", "model": "haiku"})
    assert (found.text, found.model) == (CLAUDE["result"], "haiku")
    assert (found.tokens_in, found.tokens_out, found.cost_usd) == (325, 7, 0.25)
    assert (folder / "stdin").read_text() == "Label this; é ㊗ {x} $(echo no) `no`"
    assert (folder / "arguments").read_text().split("\n")[:5] == ["-p", "--output-format", "json", "--model", "haiku"]
    assert Path((folder / "folder").read_text().strip()) != Path.cwd()


def test_the_gemini_client_reports_tokens(tmp_path):
    path = program(tmp_path / "gemini", GEMINI)
    found = ask({"kind": "gemini-cli", "command": [str(path)]})
    assert (found.model, found.tokens_in, found.tokens_out, found.cost_usd) == ("gemini-x", 40, 11, 0.0)


@pytest.mark.parametrize("name", ["my programs/claude", "claude.cmd", "a b/claude code.cmd"])
def test_a_client_may_lie_in_a_folder_with_spaces_or_be_a_cmd_shim(tmp_path, name):
    path = program(tmp_path / name, CLAUDE)
    config = data.config(
        tmp_path / "run", [{"kind": "claude-cli", "model": "m", "command": [str(path), "--extra x"]}], 3
    )
    stage.run(config)
    assert {(row["label_status"], row["api_explanation"]) for row in data.rows_of(config)} == {("accepted", LABEL)}
    assert {row["cost_usd"] for row in data.rows_of(config)} == {0.25}
    assert (path.parent / "arguments").read_text().startswith("--extra x\n-p\n")


def test_a_shim_on_the_path_is_found_by_its_name(tmp_path, monkeypatch):
    program(tmp_path / "my bin" / "gemini.cmd", GEMINI)
    monkeypatch.setenv("PATH", f"{tmp_path / 'my bin'}:/usr/bin:/bin")
    assert ask({"kind": "gemini-cli", "command": ["gemini.cmd"]}).text == GEMINI["response"]


def test_a_client_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabelError, match="gemini was not found.*`command:`"):
        ask({"kind": "gemini-cli"})


def test_a_client_that_hangs_is_ended_with_all_it_started(tmp_path):
    path = program(tmp_path / "claude", CLAUDE, before='sleep 60 & echo $! > "$here/child"; wait')
    started = time.monotonic()
    with pytest.raises(Transient, match="no answer in 1 s"):
        ask({"kind": "claude-cli", "command": [str(path)], "timeout": 1})
    assert time.monotonic() - started < 20
    assert not alive(int((tmp_path / "child").read_text()))


def alive(pid: int) -> bool:
    """Zombies that nobody has waited for yet don't count."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "answer, code, stderr, fault, says",
    [
        ({**CLAUDE, "is_error": True, "result": "Claude AI usage limit reached|4102444800"}, 1, "", QuotaWall, "limit"),
        (
            {**CLAUDE, "is_error": True, "result": "You've hit your limit · resets 3pm (Asia/Tokyo)"},
            0,
            "",
            QuotaWall,
            "hit your limit",
        ),
        ("", 1, "Error: You have exhausted your capacity. Your quota will reset after 5h2m1s.", QuotaWall, "quota"),
        ("", 1, "Error: Your quota will reset after 2s. You have exhausted your capacity.", Transient, "exhausted"),
        ({"error": {"type": "ApiError", "message": "RESOURCE_EXHAUSTED", "code": 429}}, 1, "", Transient, "EXHAUSTED"),
        ("", 1, "API Error: unable to respond to this request: violates our Usage Policy", Refused, "Policy"),
        ({**CLAUDE, "is_error": True, "result": "Invalid API key · Please run /login"}, 1, "", LabelError, "logged in"),
        ("", 41, "Please set an Auth method", LabelError, "not logged in"),
        ("", 1, "There's an issue with the selected model (x).", LabelError, "no such model"),
        ("", 1, "Segmentation fault", Transient, "exit code 1.*Segmentation"),
        ('{"result": "<expl', 0, "", Transient, "no answer"),
        ({"type": "result", "is_error": False}, 0, "", Transient, "malformed JSON"),
    ],
)
def test_what_a_client_complains_of_decides_what_is_done(tmp_path, answer, code, stderr, fault, says):
    path = program(tmp_path / "claude", answer, code=code, stderr=stderr)
    with pytest.raises(fault, match=says):
        ask({"kind": "claude-cli", "command": [str(path)]})


def test_a_clients_quota_ends_when_it_says(tmp_path):
    path = program(tmp_path / "claude", {**CLAUDE, "is_error": True, "result": "usage limit reached|4102444800"})
    with pytest.raises(QuotaWall) as caught:
        ask({"kind": "claude-cli", "command": [str(path)]})
    assert caught.value.resets_at == 4102444800


def test_the_cost_a_client_reports_counts_against_the_cap(tmp_path):
    path = program(tmp_path / "claude", CLAUDE)
    providers = [{"kind": "claude-cli", "command": [str(path)]}]
    with pytest.raises(LabelError, match=r"Stopped at \$0\.75.*--max-usd 0\.6"):
        stage.run(data.config(tmp_path / "run", providers, 9, concurrency=1, max_usd=0.6))


def test_a_key_in_a_clients_complaint_is_blotted_out(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-very-secret")
    path = program(tmp_path / "gemini", "", code=1, stderr="crashed with key=AIza-very-secret")
    with pytest.raises(Transient, match=r"key=\*\*\*"):
        ask({"kind": "gemini-cli", "command": [str(path)]})


# --- offline ----------------------------------------------------------------------------------------------------
def labels_file(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_extractive_set_needs_no_cache_no_key_and_no_call(tmp_path):
    config = data.config(tmp_path, [{"kind": "extractive"}], 7, rows_per_chunk=3)
    stage.run(config)
    rows = data.rows_of(config)
    assert [row["api_explanation"] for row in rows] == [
        extractive.explain(data.text_of(index), [" wind", " tide"]) for index in range(7)
    ]
    assert {(row["labeler_model"], row["tokens"], row["cost_usd"]) for row in rows} == {(extractive.VERSION, 0, 0.0)}
    assert len({row["prompt_sha256"] for row in rows}) == 1


def test_a_file_gives_labels_by_text_and_says_none_where_it_has_none(tmp_path):
    written = [
        {"text": data.text_of(2), "explanation": "Written by hand — five wörds here.", "labeler_model": "ada"},
        {"text": data.text_of(0), "explanation": "Another one that nobody signed at all."},
        {"text": data.text_of(0), "explanation": "A second one for the same text."},
    ]
    config = data.config(tmp_path, [{"kind": "file", "path": str(labels_file(tmp_path, written))}], 4)
    stage.run(config)
    rows = data.rows_of(config)
    assert [row["label_status"] for row in rows] == ["accepted", "none", "accepted", "none"]
    assert [row["labeler_model"] for row in rows] == ["file:labels.jsonl", None, "ada", None]
    assert rows[2]["api_explanation"] == "Written by hand — five wörds here."
    assert rows[0]["api_explanation"] == "Another one that nobody signed at all."


def test_what_a_file_lacks_the_next_provider_writes(tmp_path):
    path = labels_file(tmp_path, [{"text": data.text_of(1), "explanation": "Written by hand, in five words."}])
    config = data.config(tmp_path, [{"kind": "file", "path": str(path)}, {"kind": "extractive"}], 3)
    stage.run(config)
    assert [row["labeler_model"] for row in data.rows_of(config)] == [
        extractive.VERSION,
        "file:labels.jsonl",
        extractive.VERSION,
    ]


@pytest.mark.parametrize("line", ["not json", '{"text": "a"}', "[]"])
def test_a_malformed_line_of_a_file_is_named(tmp_path, line):
    path = labels_file(tmp_path, [{"text": "a", "explanation": "b"}])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"labels\.jsonl, line 2"):
        stage.run(data.config(tmp_path, [{"kind": "file", "path": str(path)}]))


def test_another_file_is_another_table(tmp_path):
    path = labels_file(tmp_path, [{"text": data.text_of(0), "explanation": "The first version of this label."}])
    config = data.config(tmp_path, [{"kind": "file", "path": str(path)}], 1)
    stage.run(config)
    labels_file(tmp_path, [{"text": data.text_of(0), "explanation": "The second version of this label."}])
    stage.run(config, overwrite=True)
    assert data.rows_of(config)[0]["api_explanation"] == "The second version of this label."


def test_a_label_with_the_marker_in_it_is_not_accepted(tmp_path):
    rows = [{"text": data.text_of(0), "explanation": "This label holds ㊗ in its middle."}]
    rows += [{"text": data.text_of(1), "explanation": "This label holds no such thing."}]
    config = data.config(tmp_path, [{"kind": "file", "path": str(labels_file(tmp_path, rows))}], 2)
    stage.run(config)
    assert [row["label_status"] for row in data.rows_of(config)] == ["failed", "accepted"]


def test_a_model_on_this_machine_answers_by_its_chat_template_and_greedily(llama_base):
    settings = {"kind": "transformers", "model": str(llama_base), "max_tokens": 16}
    first, second = ask(settings, "Say it."), ask(settings, "Say it.")
    assert first.model == llama_base.name
    assert first == second and first.tokens_out <= 16 < first.tokens_in
    assert ask(settings, "Say something else.") != first


def test_a_model_without_a_chat_template_takes_no_instructions(gemma_base):
    with pytest.raises(LabelError, match="no chat template"):
        ask({"kind": "transformers", "model": str(gemma_base)})


# --- config -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "provider, says",
    [
        ({"kind": "anthropic"}, "needs `model`"),
        ({"kind": "file"}, "needs `path`"),
        ({"kind": "anthropic", "model": "m", "temperature": 0.5}, "takes no temperature"),
        ({"kind": "openai", "model": "m", "base_url": "http://u:secret@host/v1"}, "credentials"),
    ],
)
def test_a_provider_that_cannot_work_is_a_config_error(tmp_path, provider, says):
    with pytest.raises(InputError, match=says):
        data.config(tmp_path, [provider])


def test_what_only_writes_cannot_audit(tmp_path):
    with pytest.raises(InputError, match="extractive cannot audit"):
        data.config(tmp_path, [{"kind": "extractive"}], auditors=[{"kind": "extractive"}])


def test_every_kind_that_a_config_takes_has_a_provider_or_says_why_not(tmp_path, monkeypatch):
    from typing import get_args

    for key in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(key, "k")
    client = [str(program(tmp_path / "bin" / "client", {}))]
    (tmp_path / "labels.jsonl").write_text("")
    more = {
        **dict.fromkeys(("anthropic", "openai", "transformers"), {"model": "m"}),
        **dict.fromkeys(("claude-cli", "gemini-cli"), {"command": client}),
        "file": {"path": tmp_path / "labels.jsonl"},
    }
    for kind in get_args(ProviderSettings.model_fields["kind"].annotation):
        settings = ProviderSettings(kind=kind, **more.get(kind, {}))
        if kind == "readout":
            with pytest.raises(InputError, match="kind: file, path: <out>/readout.jsonl"):
                provider_of(settings)
        else:
            provider_of(settings).close()
