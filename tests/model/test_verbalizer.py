"""What the AV writes: ends, tags, status, limits and sampling. An AV whose every word is foreseeable stands in."""

from __future__ import annotations

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.errors import InputError, ZeroActivationError
from nla_sdk.model.decoding import writing
from nla_sdk.model.output import parse_output
from nla_sdk.sampling import Sampling
from tests import tiny

SCRIPTS = {
    "A": ["red", "fish", "<eos>"],
    "B": ["<explanation>", "one", "day", "</explanation>", "never", "seen"],
    "C": ["<eos>"],
    "D": ["on", "and", "on2", "and2", "on"],
    "E": ["just", "this", "</explanation>"],
    "F": ["it", "has", "six", "words", "before", "its", "end", "<eos>"],
}
EXPECTED = {
    "A": ("red fish", "ok"),
    "B": ("one day", "ok"),
    "C": ("", "empty"),
    "D": ("on and on2 and2 on and on2 and2 on and", "truncated"),
    "E": ("just this", "ok"),
    "F": ("it has six words before its end", "ok"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama_base):
    return tiny.scripted_av(tmp_path_factory.mktemp("scripted") / "av", llama_base, SCRIPTS)


@pytest.fixture(scope="module")
def scripted(folder):
    return NLAPair.from_pretrained(folder)


def starts(folder, names) -> torch.Tensor:
    return torch.stack([tiny.word_vector(folder, name) for name in names])


def test_rows_that_end_at_different_steps_do_not_disturb_each_other(scripted, folder):
    names = list("DABCEFDCBA")
    written = scripted.verbalizer(starts(folder, names))
    assert [(one, one.status) for one in written] == [EXPECTED[name] for name in names]
    assert scripted.explain(starts(folder, names)) == [EXPECTED[name][0] for name in names]


def test_rows_that_go_on_keep_their_own_cache_when_others_have_ended(pair, monkeypatch):
    rows = tiny.random(8, tiny.D_MODEL, seed=16, scale=3.0)
    whole = [tokens for tokens, _ in run(pair, rows, limit=10, ignore_end=True)]
    ends = {whole[0][1], whole[3][4], whole[5][6]}
    expected = [
        next(((tokens[:at], True) for at, token in enumerate(tokens) if token in ends), (tokens, False))
        for tokens in whole
    ]
    assert len({len(tokens) for tokens, _ in expected}) > 2 and not all(finished for _, finished in expected)
    monkeypatch.setattr(pair.verbalizer, "end_ids", frozenset(ends))
    assert run(pair, rows, limit=10) == expected


def test_raw_output_is_kept_as_decoded(scripted, folder):
    [written] = scripted.verbalizer(starts(folder, "B"))
    assert written.raw == "<explanation> one day </explanation>"


def test_the_limit_cuts_and_a_text_that_ends_exactly_there_is_whole(scripted, folder):
    cut, whole = (scripted.verbalizer(starts(folder, "B"), Sampling(limit))[0] for limit in (3, 4))
    assert (cut, cut.status) == ("one day", "truncated")
    assert (whole, whole.status) == ("one day", "ok")
    cut, whole = (scripted.verbalizer(starts(folder, "A"), Sampling(limit))[0] for limit in (2, 3))
    assert (cut, cut.status) == ("red fish", "truncated"), "nothing says that it would have ended"
    assert whole.status == "ok"


def test_exactly_as_many_tokens_as_asked_for_are_written_when_the_end_is_ignored(scripted, folder):
    lengths = [len(tokens) for tokens, _ in run(scripted, starts(folder, "DF"), limit=9, ignore_end=True)]
    assert lengths == [9, 9]


def run(pair, vectors, *, limit, ignore_end=False):
    return pair.verbalizer.tokens(pair.verbalizer.prepare(vectors), Sampling(limit, ignore_end=ignore_end))


@pytest.mark.parametrize(
    ("raw", "finished", "text", "status"),
    [
        ("<explanation>\na cat\n</explanation>", True, "a cat", "ok"),
        ("a cat</explanation>", False, "a cat", "ok"),
        ("a cat", True, "a cat", "ok"),
        ("a cat", False, "a cat", "truncated"),
        ("So: <explanation>a cat", False, "a cat", "truncated"),
        ("<explanation><explanation>a cat</explanation>", True, "a cat", "ok"),
        ("a cat</explanation> and <explanation>a dog</explanation>", True, "a cat", "ok"),
        ("<explanation> \n </explanation>", True, "", "empty"),
        ("", True, "", "empty"),
        ("", False, "", "empty"),
        ("a < b </ c", True, "a < b </ c", "ok"),
    ],
)
def test_tags_are_stripped_where_present(raw, finished, text, status):
    parsed = parse_output(raw, finished)
    assert (parsed, parsed.status, parsed.raw) == (text, status, raw)


def test_the_closing_tag_is_seen_even_where_it_is_many_tokens(pair, monkeypatch):
    tokenizer = pair.source.tokenizer
    tag = tokenizer("</explanation>", add_special_tokens=False).input_ids
    assert len(tag) > 8
    script = tokenizer("a cat</explanation>no more", add_special_tokens=False).input_ids
    monkeypatch.setattr(writing, "draw", lambda logits, *rest: torch.tensor([script.pop(0)]))
    [written] = pair.verbalizer(tiny.random(1, tiny.D_MODEL, seed=1), Sampling(40))
    assert (written.raw, written.status) == ("a cat</explanation>", "ok")


# --- sampling -----------------------------------------------------------------------------------------------------
def test_sampling_depends_on_the_seed_and_the_vector_and_not_on_the_batch(pair):
    rows = tiny.random(4, tiny.D_MODEL, seed=11, scale=3.0)
    options = {"temperature": 1.0, "max_new_tokens": 8}
    together = pair.explain(rows, seed=3, **options)
    assert pair.explain(rows, seed=3, **options) == together
    assert pair.explain(rows.flip(0), seed=3, **options) == together[::-1]
    assert [pair.explain(row, seed=3, **options) for row in rows] == together
    assert pair.explain(rows, seed=4, **options) != together


def test_sampling_leaves_the_global_generator_alone(pair):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    pair.explain(tiny.random(2, tiny.D_MODEL, seed=11), temperature=1.0, max_new_tokens=2)
    assert torch.equal(torch.rand(3), expected)


def test_n_gives_a_list_of_n_per_vector(pair):
    rows = tiny.random(2, tiny.D_MODEL, seed=11, scale=3.0)
    sampled = pair.explain(rows, n=3, temperature=1.0, max_new_tokens=6)
    assert [len(samples) for samples in sampled] == [3, 3]
    assert len(set(sampled[0])) > 1
    assert pair.explain(rows[1], n=3, temperature=1.0, max_new_tokens=6) == sampled[1]
    assert pair.explain(rows[1], temperature=1.0, max_new_tokens=6) == sampled[1][0], "the first sample stays the first"
    greedy = pair.explain(rows, n=2, max_new_tokens=4)
    assert greedy == [[text, text] for text in pair.explain(rows, max_new_tokens=4)]


def test_a_cold_temperature_is_nearly_greedy(pair):
    rows = tiny.random(3, tiny.D_MODEL, seed=12, scale=3.0)
    assert pair.explain(rows, temperature=1e-4, max_new_tokens=6) == pair.explain(rows, max_new_tokens=6)


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"n": 0}, {"temperature": -1.0}])
def test_settings_out_of_range_are_refused(pair, options):
    with pytest.raises(InputError, match="=(0|-1.0): expected a (whole )?number ≥ [01]"):
        pair.explain(tiny.random(tiny.D_MODEL, seed=1), **options)


def test_progress_counts_explanations(pair):
    done = []
    pair.explain(tiny.random(3, tiny.D_MODEL, seed=1), n=2, max_new_tokens=1, progress=done.append)
    assert sum(done) == 6


# --- what is injected ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e5, 1e30])
def test_only_the_direction_of_a_vector_matters(pair, size):
    row = tiny.random(tiny.D_MODEL, seed=13)
    torch.testing.assert_close(pair.verbalizer.prepare((row * size)[None]), pair.verbalizer.prepare(row[None]))
    assert pair.verbalizer.prepare(row[None]).norm().item() == pytest.approx(8.0, rel=1e-6)


def test_a_raw_scale_injects_vectors_as_they_are(copied):
    folder = copied()
    tiny.write_sidecar(folder / "av", injection_scale=None)
    rows = tiny.random(2, tiny.D_MODEL, seed=13)
    assert torch.equal(NLAPair.from_pretrained(folder / "av").verbalizer.prepare(rows), rows)


def test_the_mean_itself_has_no_direction_in_a_centred_pair(lora_pair):
    pair = lora_pair("centred")
    rows = torch.stack([tiny.random(tiny.D_MODEL, seed=1), pair.verbalizer.mean])
    with pytest.raises(ZeroActivationError, match="row 1 equals the pair's activation mean"):
        pair.explain(rows)


def test_the_prompt_before_the_marker_is_computed_once(pair):
    pair.verbalizer.reset()
    pair.explain(tiny.random(tiny.D_MODEL, seed=1), max_new_tokens=1)
    lengths = []
    handle = pair.source.embedding.register_forward_pre_hook(lambda module, args: lengths.append(tuple(args[0].shape)))
    pair.explain(tiny.random(3, tiny.D_MODEL, seed=1), max_new_tokens=2)
    handle.remove()
    tail = len(pair.verbalizer.prompt_ids) - pair.verbalizer.marker
    assert lengths == [(3, tail), (3, 1)]
