"""No item is said twice where the contract forbids it, whoever writes beside, however and in whatever vocabulary."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk import NLAPair
from nla_sdk.model.decoding.drawing import row_generator
from nla_sdk.model.decoding.repeats import Said, items
from nla_sdk.model.running.watching import Watch
from nla_sdk.sampling import Sampling
from tests import tiny

ROWS, LIMIT = 4, 18
OPENINGS = {"quotes": 'Next: "a", "b", "', "list": "About: ", "old list": "A sum about "}


def plain_items(text: str) -> list[str]:
    """The same character by character; lists of these tests know no registers and no style."""
    found, at = [], 0
    while at < len(text):
        opening = next((one for one in ("About: ", " about ", '"') if text.startswith(one, at)), None)
        if opening == "About: " and at and (text[at - 1].isalnum() or text[at - 1] == "_"):
            opening = None
        if opening is None:
            at += 1
            continue
        at += len(opening)
        item = ""
        while at < len(text):
            character, following = text[at], text[at + 1 : at + 2]
            at += 1
            if opening == '"' and character == '"' and item and following != '"':
                found.append(item.strip().casefold() or " ")
                item = ""
                break
            ends = character == "\n" or (character == "." and (not following or following.isspace()))
            if opening != '"' and (character == "," or ends):
                found.append(item.strip().casefold())
                item = ""
                if ends:
                    break
                continue
            item += character
        found += [item.strip().casefold()] if item.strip() else []
    return found


def says_nothing_twice(text: str) -> bool:
    said = plain_items(text)
    return "" not in said and len(set(said)) == len(said)


# --- what a text has said -----------------------------------------------------------------------------------------
PIECES = [
    '"',
    ",",
    ".",
    ", ",
    " ",
    "\n",
    "About: ",
    " about ",
    '",',
    '" (or "',
    "a",
    "A",
    "b",
    "ab",
    " a",
    "é",
    "1.5",
    ")",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_items_are_what_a_plain_reading_finds(text):
    assert items(text.strip())[0] == plain_items(text.strip())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_whatever_tokens_are_offered_no_text_says_an_item_twice(tokens):
    said, text = Said(), ""
    for token in tokens:
        if said.takes((text + token).strip()):
            text += token
            assert says_nothing_twice(text.strip())


@pytest.mark.parametrize(
    "text, expected",
    [
        ('Next: "Paris" (or "New", "the"). About: french, Tower.', ["paris", "new", "the", "french", "tower"]),
        ('Next: a line break (or """, ",", ".").', ['"', ",", "."]),
        (
            'Next: "."" (or """"", ";"). About: sea, cats',
            ['."', '"""', ";", "sea", "cats"],
        ),  # tokens that end in a mark
        ('"was" or " " comes next. A worked sum about 1.5, u.s. law, x.', ["was", " ", "1.5", "u.s"]),
        ("A narrative about a person about cats, mats.", ["cats", "mats"]),
        ("A narrative about a per", []),
        ("A narrative about a perch, sea", ["a perch", "sea"]),
        ("About: cats. Style: narrative about cats, cats.", ["cats"]),
        ("About: cats. Style: a sum\nAbout: mats", ["cats", "mats"]),
        ("About: cats,, ", ["cats", ""]),
    ],
)
def test_items_of_the_forms_that_are_written(text, expected):
    assert items(text)[0] == expected


@pytest.mark.parametrize(
    "so_far, token, taken",
    [
        (['"', "."], '",', True),
        (['"', ".", '", "'], ".", False),  # the same item, of punctuation
        (['"', ".", '", "'], '."', False),  # begun and closed in one token
        (["About:", " sea", ","], " Sea", False),
        (["About:", " sea", ","], " seal", True),
        (["About:", " wa", "ter", ","], " wa", False),  # would be begun again and cut off
        (["About:", " wa", "ter", ","], " wa,", True),  # another item, and all of it
        (["About:", " -", "x", ","], " -", True),  # no letter, no digit
        (["About:", " sea"], ", sea", False),  # one item closed, the other begun
        (["About:", " sea", ","], ",", False),  # nothing is no item
        (["About:", " sea"], ".", True),
        (["About:", " sea", "."], " About: sea", False),
        (
            ['Next: "', '."', '" (or "', ";", '"). About:', " sea", ","],
            " sea",
            False,
        ),  # behind a token that ends in a mark
        (['"', "a", '" or "', "the", '" comes next. A', " narrative"], " about a", True),  # of a register's name
        (['"', "a", '" or "', "the", '" comes next. A', " narrative", " about a"], ",", False),
    ],
)
def test_a_token_is_refused_where_it_would_say_an_item_again(so_far, token, taken):
    said, text = Said(), ""
    for one in so_far:
        text += one
        assert said.takes(text.strip())
    assert said.takes((text + token).strip()) is taken
    if not taken:
        assert said.takes(text.strip()), "nothing has changed"


# --- an AV that obeys ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory, base):
    return tiny.lora_av(
        tmp_path_factory.mktemp("repeats") / "av",
        base,
        tiny.plain_model(base),
        layer=1,
        output={"form": "answer", "no_repeats": True},
    )


@pytest.fixture(scope="module")
def loaded(folder):
    return NLAPair.from_pretrained(folder).verbalizer


def letters(av) -> list[int]:
    """Tokens of which hardly anything but repeats can be made."""
    return av.backbone.tokenizer.convert_tokens_to_ids([*'ab",. ', "\n", "ba"])


@pytest.fixture(params=[*OPENINGS])
def av(loaded, request):
    """It writes few tokens, and is made to begin as its texts do. What a test does to it is undone."""
    loaded.opening = OPENINGS[request.param]
    loaded.fast = True
    loaded.restrict(letters(loaded))
    own, loaded.parse = loaded.parse, lambda tokens, finished: own(begun(loaded, tokens), finished)
    yield loaded
    del loaded.parse
    loaded.restrict(None)


def begun(av, tokens):
    return [*av.backbone.tokenizer(av.opening, add_special_tokens=False).input_ids, *tokens]


def written(av, inputs, *, temperature=0.0, limit=LIMIT, seed=3, watch=None, ignore_end=False):
    generators = [row_generator(row, seed, 0) for row in inputs] if temperature else None
    sampling = Sampling(limit, temperature=temperature, ignore_end=ignore_end)
    return av.tokens(inputs, sampling, generators=generators, **({"watch": watch} if watch else {}))


def texts_of(av, outputs) -> list[str]:
    return [str(av.parse(tokens, finished)) for tokens, finished in outputs]


def rows_of(av, count=ROWS, seed=40):
    return av.prepare(tiny.random(count, tiny.D_MODEL, seed=seed, scale=3.0))


def raw(av, tokens) -> str:
    return av.backbone.tokenizer.decode(begun(av, tokens), skip_special_tokens=True)


def plainly(av, row, temperature, seed=3) -> list[int]:
    """One row by whole forwards; each token of the vocabulary is tried, and what is refused is struck out at once
    where the likeliest is taken; where it is drawn, when it is drawn."""
    said, tokens = Said(), []
    generator = row_generator(row, seed, 0)
    allowed = av.vocabulary.tolist()
    for _ in range(LIMIT):
        ids = torch.tensor([[*av.prompt_ids, *tokens]])
        with torch.no_grad(), av.backbone.using(av.adapter):
            logits = av.injected(
                lambda ids=ids: av.backbone.model(input_ids=ids).logits[:, -1], av.default.positions, row[None]
            )[0, av.vocabulary]
        probabilities = torch.softmax(logits / (temperature or 1.0), dim=-1)
        while True:
            place = int(
                torch.multinomial(probabilities, 1, generator=generator) if temperature else probabilities.argmax()
            )
            token = allowed[place]
            if token in av.end_ids or said.takes(raw(av, [*tokens, token]).lstrip()):
                break
            probabilities[place] = 0
            probabilities /= probabilities.sum()
        if token in av.end_ids:
            return tokens
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_no_text_says_an_item_twice_and_each_is_its_rows_alone(av, temperature):
    inputs = rows_of(av)
    streamed: dict[int, str] = {}
    found = written(av, inputs, temperature=temperature, watch=Watch(on_text=streamed.__setitem__))
    texts = texts_of(av, found)
    assert all(says_nothing_twice(text) for text in texts)
    assert found == [written(av, row[None], temperature=temperature)[0] for row in inputs]
    assert [tokens for tokens, _ in found] == [plainly(av, row, temperature) for row in inputs]
    assert [streamed[row] for row in range(ROWS)] == texts
    av.fast = False
    assert written(av, inputs, temperature=temperature, watch=Watch(on_text=streamed.__setitem__)) == found
    assert [streamed[row] for row in range(ROWS)] == texts
    assert written(av, inputs[:1], temperature=temperature) == found[:1]


def test_without_the_rule_the_same_av_repeats_itself(av):
    kept, av.contract = av.contract, av.contract.replace(output_no_repeats=False)
    free = texts_of(av, written(av, rows_of(av), temperature=2.0))
    av.contract = kept
    assert any(not says_nothing_twice(text) for text in free)


def test_every_part_of_a_text_says_nothing_twice(av):
    inputs = rows_of(av)
    whole = written(av, inputs)
    for limit in range(1, LIMIT, 5):
        cut = written(av, inputs, limit=limit)
        assert [tokens for tokens, _ in cut] == [tokens[:limit] for tokens, _ in whole]
        assert all(says_nothing_twice(text) for text in texts_of(av, cut))


def test_calls_of_several_threads_write_what_each_writes_alone(av):
    rows = [rows_of(av, 3, seed) for seed in (40, 41, 42)]
    how = [{}, {"temperature": 1.0}, {"temperature": 0.5, "limit": 12}]
    expected = [written(av, one, **options) for one, options in zip(rows, how, strict=True)]
    found: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda at=at: found.__setitem__(at, written(av, rows[at], **how[at])))
        for at in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(3)] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_ends_where_nothing_is_left_to_say(av, temperature):
    av.opening = "About: "
    av.vocabulary = torch.tensor(av.backbone.tokenizer.convert_tokens_to_ids([","]))  # no token that ends a text
    assert written(av, rows_of(av), temperature=temperature) == [([], False)] * ROWS


def test_tokens_that_end_a_text_may_be_written_again_and_again_where_they_do_not(av):
    found = written(av, rows_of(av), limit=60, ignore_end=True)
    assert {len(tokens) for tokens, _ in found} == {60}
    assert all(says_nothing_twice(text) for text in texts_of(av, found))


def test_what_is_drawn_is_drawn_among_what_is_left(loaded):
    """The shares of first tokens after an item, against probabilities with the refused ones left out."""
    loaded.opening = "About: b, "
    loaded.restrict(letters(loaded))
    own, loaded.parse = loaded.parse, lambda tokens, finished: own(begun(loaded, tokens), finished)
    try:
        row, draws = rows_of(loaded, 1)[0], 1000
        ids = torch.tensor([loaded.prompt_ids])
        with torch.no_grad(), loaded.backbone.using(loaded.adapter):
            logits = loaded.injected(
                lambda: loaded.backbone.model(input_ids=ids).logits[:, -1], loaded.default.positions, row[None]
            )[0, loaded.vocabulary]
        refused = loaded.places_of(torch.tensor(loaded.backbone.tokenizer.convert_tokens_to_ids(["b", ",", ".", "\n"])))
        expected = torch.softmax(logits.index_fill(0, refused, -torch.inf) / 2, dim=-1)
        generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
        found = loaded.tokens(row.expand(draws, -1), Sampling(1, temperature=2.0), generators=generators)
        ends = min(loaded.end_ids)
        drawn = loaded.places_of(torch.tensor([tokens[0] if tokens else ends for tokens, _ in found]))
        shares = drawn.bincount(minlength=len(expected)) / draws
        assert (shares - expected).abs().max() < 4 * (0.25 / draws) ** 0.5 and not shares[refused].any()
    finally:
        del loaded.parse
        loaded.restrict(None)
