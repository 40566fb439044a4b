"""What is an explanation in an output, and what ends one: each form and stop that a contract may state."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk import NLAPair
from nla_sdk.calls.scoring import write_best
from nla_sdk.model.output import CLOSE_TAG, OPEN_TAG, Stop, parse_output, text_so_far
from nla_sdk.results import Explanation
from nla_sdk.sampling import Sampling
from tests import tiny

FORMS = (None, "tagged", "opened", "lines", "dashes", "span", "answer")
words = st.text(st.characters(codec="utf-8", exclude_characters="<>-"), max_size=30)
raws = st.lists(st.one_of(words, st.sampled_from([OPEN_TAG, CLOSE_TAG, "\n", "- ", " "])), max_size=8).map("".join)
stops = st.builds(Stop, tag=st.booleans(), budget=st.booleans())


@pytest.mark.parametrize(
    ("form", "raw", "text", "status"),
    [
        ("tagged", "<explanation>\na cat\n</explanation>", "a cat", "ok"),
        ("tagged", "Well: <explanation>a cat</explanation> and so on", "a cat", "ok"),
        ("tagged", "a</explanation> <explanation>cat</explanation>", "cat", "ok"),
        ("tagged", "<explanation><explanation>a cat</explanation>", "a cat", "ok"),
        ("tagged", "<explanation>a cat", "a cat", "truncated"),
        ("tagged", " a cat ", "a cat", "untagged"),
        ("tagged", "a cat</explanation>", "a cat</explanation>", "untagged"),
        ("tagged", "<explanation> </explanation>", "", "empty"),
        ("tagged", " \n ", "", "empty"),
        ("span", "<explanation>of the sea</explanation>", "of the sea", "ok"),
        ("span", "of the sea", "of the sea", "untagged"),
        ("opened", "\na cat\n</explanation>never", "a cat", "ok"),
        ("opened", "<explanation>a cat</explanation>", "a cat", "ok"),
        ("opened", "a cat", "a cat", "truncated"),
        ("lines", "a cat\n\n  a mat \n", "a cat\na mat", "truncated"),
        ("lines", "<explanation>a cat\na mat</explanation>x", "a cat\na mat", "ok"),
        ("dashes", "- a cat\n\n- a mat", "- a cat\n- a mat", "truncated"),
        ("dashes", "a cat\na mat", "a cat\na mat", "untagged"),
        ("answer", " Yes. ", "Yes.", "truncated"),
        ("answer", "Yes.</explanation>", "Yes.", "ok"),
    ],
)
def test_the_explanation_of_each_form(form, raw, text, status):
    parsed = parse_output(raw, False, form=form)
    assert (parsed, parsed.status, parsed.raw) == (text, status, raw)
    ended = parse_output(raw, True, form=form)
    assert (ended, ended.status) == (text, "ok" if status == "truncated" else status)
    assert parsed.parsed == (status in ("ok", "truncated"))


@given(raw=raws, finished=st.booleans(), form=st.sampled_from(FORMS), stop=stops)
def test_nothing_is_made_up_and_only_an_output_without_words_is_empty(raw, finished, form, stop):
    parsed = parse_output(raw, finished, 3, form=form, stop=stop)
    assert (parsed.raw, parsed.tokens) == (raw, 3)
    assert parsed == parsed.strip()
    assert (parsed.status == "empty") == (parsed == "")
    left = iter(raw)
    assert all(character in left for character in parsed if not character.isspace()), "it is read out of the output"


@given(raw=raws, finished=st.booleans(), stop=stops)
def test_what_has_no_opening_tag_is_never_counted_where_tags_are_stated(raw, finished, stop):
    for form in ("tagged", "span"):
        parsed = parse_output(raw, finished, form=form, stop=stop)
        if OPEN_TAG not in raw:
            assert not parsed.parsed and parsed == raw.strip()
        else:
            assert OPEN_TAG not in parsed and CLOSE_TAG not in parsed


@given(raw=raws, form=st.sampled_from(FORMS))
def test_an_output_is_cut_only_where_the_budget_is_not_its_end_and_nothing_else_ended_it(raw, form):
    ended = parse_output(raw, True, form=form, stop=Stop(tag=False)).status
    assert parse_output(raw, False, form=form, stop=Stop(tag=False, budget=True)).status == ended != "truncated"


@given(raw=raws)
def test_items_stand_one_a_line_without_blank_ones(raw):
    for form in ("lines", "dashes"):
        text = parse_output(raw, True, form=form)
        assert all(line and line == line.strip() for line in text.splitlines())


def test_the_tag_is_looked_for_in_as_many_tokens_as_it_may_be():
    spelled = [ord(letter) for letter in "a cat" + CLOSE_TAG]

    def decode(tokens):
        return "".join(map(chr, tokens))

    assert Stop().closes(spelled, decode) and not Stop().closes(spelled[:-1], decode)
    assert not Stop(tag=False).closes(spelled, decode)


# --- an AV whose every word is foreseeable -------------------------------------------------------------------------
SCRIPTS = {
    "A": ["<explanation>", "one", "day", "</explanation>", "more", "<eos>"],
    "B": ["red", "fish", "<eos>"],
    "C": ["on", "and", "on2", "and2", "on"],
    "D": ["some", "words", "STOP", "never", "seen"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama_base):
    return tiny.scripted_av(tmp_path_factory.mktemp("scripted") / "av", llama_base, SCRIPTS)


def said(folder, limit: int = 8, **output) -> dict[str, tuple[str, str]]:
    """What the AV says for each script, and its status, by a contract with such an `output`."""
    pair = NLAPair.from_pretrained(folder, contract={f"output.{key}": value for key, value in output.items()})
    rows = torch.stack([tiny.word_vector(folder, name) for name in SCRIPTS])
    written = pair.verbalizer(rows, Sampling(limit))
    return {name: (str(one), one.status) for name, one in zip(SCRIPTS, written, strict=True)}


def test_by_default_the_closing_tag_or_the_end_token_ends_it(folder):
    found = said(folder)
    assert found["A"] == ("one day", "ok") and found["B"] == ("red fish", "ok")
    assert found["C"] == ("on and on2 and2 on and on2 and2", "truncated")


def test_where_only_the_end_token_ends_it_the_model_writes_past_the_tag(folder):
    found = said(folder, stop="eos", form="answer")
    assert found["A"] == ("<explanation> one day </explanation> more", "ok")


def test_a_token_that_ends_it_is_no_part_of_it(folder):
    token = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]["STOP"]
    assert said(folder, stop=token)["D"] == ("some words", "ok")
    assert said(folder, stop="eos", limit=4)["D"] == ("some words STOP never", "truncated")


def test_where_the_budget_is_the_end_nothing_counts_as_cut(folder):
    found = said(folder, stop="budget", form="lines", limit=3)
    assert found["C"] == ("on and on2", "ok") and found["B"] == ("red fish", "ok")


def test_an_av_that_leaves_out_its_tags_says_so(folder):
    found = said(folder, form="tagged")
    assert found["A"] == ("one day", "ok") and found["B"] == ("red fish", "untagged")
    assert found["C"][1] == "untagged"


def test_of_several_candidates_one_that_is_no_explanation_is_never_chosen():
    candidates = [Explanation("far", status="untagged"), Explanation("near", status="untagged"), Explanation("mid")]
    vectors = {"far": [0.0, 1.0], "near": [1.0, 0.0], "mid": [1.0, 1.0]}

    def write(sampling):
        return candidates[1:] if sampling.n > 1 else candidates[:1]

    def reconstruct(texts, layers):
        return torch.tensor([vectors[text] for text in texts])

    chosen, made = write_best(write, reconstruct, torch.tensor([[1.0, 0.0]]), [None], Sampling(), 3)
    assert chosen == ["mid"] and made.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("form", FORMS)
@given(body=st.text("ab<>/-\n e", max_size=20), before=st.sampled_from(["", "\n", " "]), tagged=st.booleans())
def test_a_text_that_grows_letter_by_letter_is_the_beginning_of_what_it_becomes(form, body, before, tagged):
    if form in ("tagged", "span") or (tagged and form != "answer"):
        raw = f"{before}{OPEN_TAG}{body}{CLOSE_TAG}"
    else:
        raw = before + body + (CLOSE_TAG if form == "opened" else "")
    stop = Stop(tag=form != "answer")
    told = [text_so_far(raw[:end], form=form, stop=stop) for end in range(len(raw) + 1)]
    final = str(parse_output(raw, True, form=form, stop=stop))
    for text, later in zip(told, [*told[1:], final], strict=True):
        assert later.startswith(text)
    assert not any("explanation" in text for text in told)


def test_half_a_character_and_half_a_tag_are_not_told():
    found = [text_so_far(raw, form=None, stop=Stop()) for raw in ("a caf\ufffd", "a caf</expl", "a caf<", "a caf <b")]
    assert found == ["a caf", "a caf", "a caf", "a caf <b"]
    assert text_so_far("It may be", form="tagged", stop=Stop()) == ""
