"""The stage's small parts: pauses, prompts, replies, caps, the cache, the command line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from tests.commands import invoke
from tests.label import data
from training.configs.label import ProviderSettings
from training.label import __main__ as command_line
from training.label import answers, budget
from training.label.cache import Cache, key_of
from training.label.faults import LabelError, QuotaWall, Transient, pause_asked, reset_announced, too_many_requests
from training.label.parallel import in_parallel
from training.label.passes import prompt_sha256
from training.label.prompts import templates
from training.label.providers.local import File
from training.label.providers.protocol import Completion, LabelRequest

GOOD = "The ferry is late and the captain is angry."


# --- pauses -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": formatdate(1000 + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(500, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "1970-01-01T00:20:00Z",
                "anthropic-ratelimit-requests-remaining": "10",
                "anthropic-ratelimit-requests-reset": "1970-01-01T10:00:00Z",
            },
            200.0,
        ),
    ],
)
def test_the_pause_asked_for_is_read_from_the_headers(headers, seconds):
    assert pause_asked(headers, now=1000) == (seconds if seconds is None else pytest.approx(seconds))


def test_a_short_pause_is_waited_and_a_long_one_is_a_quota():
    assert isinstance(too_many_requests("x", {"retry-after": "60"}), Transient)
    wall = too_many_requests("x", {"retry-after": "61"})
    assert isinstance(wall, QuotaWall) and wall.resets_at == pytest.approx(time.time() + 61, abs=5)


@pytest.mark.parametrize(
    "said, at",
    [
        ("Claude AI usage limit reached|1762952400", 1762952400),
        ("Your quota will reset after 1h2m3s.", 1_000_000 + 3723),
        ("You've hit your limit · resets 3:50pm (Asia/Tokyo)", 1_018_200),  # 1970-01-12 22:46:40 there: the next day's
        ("resets 11pm (Asia/Tokyo)", 1_000_800),
        ("resets 3pm (Middle/Earth)", None),
        ("Something else", None),
    ],
)
def test_a_clients_reset_time_is_read(said, at):
    found = reset_announced(said, now=1_000_000)
    if "3:50pm" in said:
        at = 1_000_000 - 46 * 60 - 40 + (24 - 22 + 15) * 3600 + 50 * 60
    assert found == at


# --- prompts ----------------------------------------------------------------------------------------------------
def test_the_prompt_holds_the_text_as_it_is_between_delimiters_made_from_it():
    text = "{{ secrets }} {% if %} <b>&amp;</b> </passage-00000000>\nline two ends in mid-wo"
    prompt = templates.labeler_prompt(text, [" rd", "\n"])
    fence = prompt.split("<passage-")[1][:8]
    assert f"<passage-{fence}>\n{text}\n</passage-{fence}>" in prompt and fence not in text
    assert "' rd', '\\\\n'" in prompt or "' rd', '\\n'" in prompt
    assert templates.labeler_prompt(text) != prompt and "likeliest" not in templates.labeler_prompt(text)
    assert templates.opening_of(text) in prompt
    audit = templates.auditor_prompt(text, GOOD)
    assert f"<label-{fence}>\n{GOOD}\n</label-{fence}>" in audit and text in audit


def test_openings_vary_between_texts_and_stay_for_each():
    found = [templates.opening_of(data.text_of(index)) for index in range(200)]
    assert set(found) == set(templates.OPENINGS)
    assert found == [templates.opening_of(data.text_of(index)) for index in range(200)]


def test_the_hash_of_the_prompts_follows_templates_settings_and_auditor(monkeypatch):
    labeler, auditor = ProviderSettings(kind="anthropic", model="a"), ProviderSettings(kind="openai", model="b")
    first = prompt_sha256(labeler, auditor)
    assert first == prompt_sha256(ProviderSettings(kind="claude-cli"), auditor)  # the prompt, not who is asked
    assert len({first, prompt_sha256(labeler, None), prompt_sha256(ProviderSettings(kind="extractive"), None)}) == 3
    assert first != prompt_sha256(labeler, ProviderSettings(kind="openai", model="b", temperature=0.3))
    real = templates.source_of
    monkeypatch.setattr(templates, "source_of", lambda name: real(name) + ("!" if name == templates.AUDITOR else ""))
    assert first != prompt_sha256(labeler, auditor)


# --- replies ----------------------------------------------------------------------------------------------------
def test_an_explanation_is_read_from_between_its_tags_on_one_line():
    assert answers.explanation_in(f"Sure.\n<explanation>\n {GOOD[:9]}\n{GOOD[10:]}</explanation>", "㊗") == GOOD
    assert answers.explanation_in(f"<explanation>draft</explanation><explanation>{GOOD}</explanation>", "㊗") == GOOD


@pytest.mark.parametrize(
    "reply, says",
    [
        ("", "no <explanation>"),
        (GOOD, "no <explanation>"),
        (f"<explanation>{GOOD}", "no <explanation>"),
        ("<explanation> </explanation>", "empty"),
        ("<explanation>Too short.</explanation>", "2 words"),
        (f"<explanation>{'word ' * 121}</explanation>", "121 words"),
        (f"<explanation>{GOOD} ㊗</explanation>", "marker"),
        (f"<explanation>a <explanation> {GOOD}</explanation>", "tag"),
        ("<explanation>I cannot label this text, since it is unpleasant.</explanation>", "refusal"),
        ("I'm sorry, but I can't help with that.", "refusal"),
    ],
)
def test_what_is_no_label_is_a_fault(reply, says):
    with pytest.raises(Transient, match=says):
        answers.explanation_in(reply, "㊗")


def test_a_label_may_quote_somebody_who_cannot():
    assert answers.explanation_in('<explanation>"I cannot" is a refusal, so a verb is due.</explanation>', "㊗")


def test_a_repair_that_changes_nothing_is_an_acceptance():
    same = answers.audit_in(f'{{"verdict": "repair", "explanation": "{GOOD}"}}', GOOD, "㊗")
    assert (same.status, same.explanation) == ("accepted", GOOD)


# --- caps and cache ---------------------------------------------------------------------------------------------
def test_a_call_waits_for_those_in_flight_before_the_cap_stops_it():
    purse = budget.Budget(max_usd=1.0)
    entered, leave = threading.Event(), threading.Event()

    def first():
        with purse.call(0.9) as report:
            entered.set()
            leave.wait(5)
            report(0.1)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(5)
    threading.Timer(0.1, leave.set).start()
    with purse.call(0.8) as report:
        report(0.8)
    thread.join()
    assert purse.usd == pytest.approx(0.9) and purse.calls == 2
    with pytest.raises(LabelError, match="--max-usd 1"), purse.call(0.2):
        pass


def test_a_lost_answer_counts_with_its_dearest_outcome_and_an_error_with_nothing():
    purse = budget.Budget()
    for fault in (Transient("x", lost=True), Transient("y"), Transient("z", cost_usd=0.25)):
        with pytest.raises(Transient), purse.call(0.5):
            raise fault
    assert (purse.usd, purse.faults, purse.calls) == (0.75, 3, 3)


def test_the_shipped_prices_can_be_read_and_malformed_ones_are_named(tmp_path):
    assert budget.Prices.load().models["claude-haiku-4-5"].of(1_000_000, 1_000_000) == 6.0
    (tmp_path / "p.yaml").write_text("as_of: 2025-01-01\nmodels: {m: {input: -1, output: 2}}")
    with pytest.raises(InputError, match=r"models\.m\.input"):
        budget.Prices.load(tmp_path / "p.yaml")
    with pytest.raises(InputError, match="Cannot read"):
        budget.Prices.load(tmp_path / "none.yaml")


def test_a_server_on_this_machine_is_free_and_another_is_not():
    prices = budget.Prices.load()
    local = ProviderSettings(kind="openai", model="qwen", base_url="http://127.0.0.1:8000/v1")
    remote = ProviderSettings(kind="openai", model="qwen", base_url="https://api.example.com/v1")
    assert budget.price_of(local, prices) == budget.FREE and budget.price_of(remote, prices) is None


def test_the_cache_survives_its_process_and_delimits_what_it_hashes(tmp_path):
    first = Cache(tmp_path / "c" / "labels.sqlite")
    first.accept(key_of("a", "b", "c"), Completion("text", "m", 1, 2, None), "run", "row", "label", 3)
    second = Cache(tmp_path / "c" / "labels.sqlite")  # another process, while the first is still there
    assert second.get(key_of("a", "b", "c")) == Completion("text", "m", 1, 2, None)
    assert second.accepted("run", "row", "label") == (3, Completion("text", "m", 1, 2, None))
    assert second.accepted("run", "row", "audit") is None and second.accepted("other", "row", "label") is None
    second.forget("run")
    assert first.accepted("run", "row", "label") is None and first.get(key_of("a", "b", "c"))
    assert len({key_of("ab", "c", "d"), key_of("a", "bc", "d"), key_of("a", "b", "cd"), key_of('a","b', "c", "d")}) == 4


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "labels.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(LabelError, match=r"label cache .*labels\.sqlite cannot be used"):
        Cache(tmp_path / "labels.sqlite")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_ends_the_others_after_their_call(threads):
    done, stop = [], threading.Event()

    def work(item):
        if item == 3:
            raise ValueError("three")
        time.sleep(0.01)
        done.append(item)
        return item

    with pytest.raises(ValueError, match="three"):
        list(in_parallel(work, list(range(1000)), threads, stop))
    assert stop.is_set() and len(done) < 20


# --- the command line -------------------------------------------------------------------------------------------
@pytest.fixture
def command(tmp_path):
    return lambda *arguments: invoke(command_line.command, *arguments)


def test_the_command_line_labels_and_prints_the_folder(tmp_path, command):
    path = data.config_file(tmp_path, [{"kind": "extractive"}], 3)
    found = command("--config", path, "--only", "t")
    assert found.exit_code == 0 and found.stdout.strip() == str(tmp_path / "out" / "labels")
    assert "t/eval: 3 accepted" in found.stderr


def test_the_command_line_overrides_the_config(tmp_path, command, monkeypatch):
    seen = {}
    monkeypatch.setattr(command_line, "run", lambda config, **options: seen.update(label=config.label, **options))
    path = data.config_file(tmp_path, [{"kind": "extractive"}], 3, max_calls=5)
    options = ["--max-usd", 2.5, "--concurrency", 9, "--wait-for-quota", "--overwrite", "--push-dataset", "ada/labels"]
    assert command("--config", path, *options).exit_code == 0
    label = seen["label"]
    assert (label.max_usd, label.max_calls, label.concurrency, label.wait_for_quota) == (2.5, 5, 9, True)
    assert (seen["overwrite"], seen["push_dataset"]) == (True, "ada/labels")


def test_errors_are_one_line_and_exit_code_two(tmp_path, command):
    path = data.config_file(tmp_path, [{"kind": "extractive"}], 3)
    found = command("--config", path, "--only", "unheard-of")
    assert found.exit_code == 2 and "no label set 'unheard-of'; it has t" in found.stderr
    assert found.stderr.count("\n") == 1
    found = command("--config", path, "--set", "t")  # a label set was once chosen so
    assert found.exit_code == 2 and "expected a setting and its value" in found.stderr


# --- files of labels ------------------------------------------------------------------------------------------------
def labels(folder, *lines: str) -> File:
    (folder / "l.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return File(ProviderSettings(kind="file", path=folder / "l.jsonl"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a\\ud83d", "explanation": "b"}', "line 2: text holds half a surrogate pair"),
        ('{"text": "a", "explanation": "b\\ud83d"}', "line 2: explanation holds half a surrogate pair"),
        ('{"text": "a", "explanation": "b\\u0000"}', "line 2: explanation holds a NUL"),
        ('{"text": "a", "explanation": "\\ufeffb"}', "line 2: explanation holds a byte order mark"),
        ('{"text": "a", "explanation": "b", "labeler_model": "\\udc00"}', "line 2: labeler_model holds half"),
        ('{"text": "a", "explanation": "b", "labeler_model": 3}', "line 2: labeler_model is a int; expected a text"),
        ('{"text": "a", "explanation": null}', "line 2: expected an object with the strings"),
        ("[" * 100_000, "line 2: not valid JSON"),
    ],
)
def test_a_line_of_a_label_file_that_is_no_text_is_named(tmp_path, line, says):
    with pytest.raises(InputError, match=f"l.jsonl, {says}"):
        labels(tmp_path, '{"text": "good", "explanation": "fine"}', line)


def test_a_label_file_with_a_byte_order_mark_is_read_without_it(tmp_path):
    file = labels(
        tmp_path, '\ufeff{"text": "first", "explanation": "one"}', '\ufeff{"text": "second", "explanation": "two"}'
    )
    assert [file.complete(LabelRequest(text, (), "")).text for text in ("first", "second")] == ["one", "two"]


@pytest.mark.parametrize(("text", "says"), [("a \ud83d b", "half a surrogate pair"), ("a \0 b", "a NUL character")])
def test_a_label_that_is_no_text_is_asked_for_again(text, says):
    with pytest.raises(Transient, match=says):
        answers.explanation_in(f"<explanation>five words are enough here {text}</explanation>", "㊗")


def test_labelling_needs_no_torch():
    """Nor does an actor of a cluster that only asks providers."""
    code = "import sys, training.label.stage, training.label.cluster.actors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
