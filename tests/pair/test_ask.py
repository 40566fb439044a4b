"""Questions to an activation oracle, against plain hooks and a plain loop on the transformers model."""

from __future__ import annotations

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch

from nla_sdk import ActivationMean, NLAPair, Vectors
from nla_sdk.errors import (
    ActivationShapeError,
    EmptyBatchError,
    ForeignActivationError,
    InputError,
    LayerError,
    MissingHalfError,
    NotAnOracleError,
    PositionError,
    UnseenValueError,
)
from nla_sdk.io.rows.sources import open_source
from nla_sdk.jobs import work
from tests import tiny

TEXT = "She walked to the bank of the river."
QUESTION = "What is near?"
LAYERS = [1, 2]
TEMPLATE = "Layer: {layer}\n{injection_char} \n{question}"
ORACLE = {
    "injection_scale": None,
    "injection": {"site": "block", "block": 1, "rule": "add", "norm": "match", "markers": "any"},
    "av_template": TEMPLATE,
    "fields": {"layer": {"values": LAYERS}, "question": {}},
    "layers": LAYERS,
    "output": {"form": "answer", "stop": "eos"},
    "prompt_style": "chat",
    "max_new_tokens": 10,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle") / "base"
    return tiny.save_model(folder, tiny.llama_config(), tiny.tokenizer(chat=True), seed=3)


@pytest.fixture(scope="module")
def half(base):
    folder = base.parent / "oracle"
    tiny.lora_av(folder, base, tiny.plain_model(base), layer=1)
    return tiny.write_sidecar(folder, "injection_scale", **{k: v for k, v in ORACLE.items() if v is not None})


@pytest.fixture(scope="module")
def oracle(half):
    return NLAPair.from_pretrained(half)


@pytest.fixture(scope="module")
def plain(half, base):
    from peft import PeftModel

    return PeftModel.from_pretrained(tiny.plain_model(base), half).eval()


def by_hand(plain, vectors: torch.Tensor, layer: int, question: str, limit: int = 10) -> str:
    """The answer, token by token without a cache: ‖h‖·v/‖v‖ is added to h after block 1 at each marker."""
    tokenizer = tiny.tokenizer(chat=True)
    user = f"Layer: {layer}\n{tiny.MARKER * len(vectors)} \n{question}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    marker = tokenizer.convert_tokens_to_ids(tiny.MARKER)
    places = [at for at, token in enumerate(ids) if token == marker]
    assert len(places) == len(vectors) and places == list(range(places[0], places[0] + len(places)))

    def add(module, args, output):
        states = output[0] if isinstance(output, tuple) else output
        for place, vector in zip(places, vectors, strict=True):
            states[0, place] += states[0, place].norm() * vector / vector.norm()

    block = plain.base_model.model.model.layers[1]
    written = []
    for _ in range(limit):
        handle = block.register_forward_hook(add)
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([ids + written])).logits[0, -1]
        handle.remove()
        if (token := int(logits.argmax())) == tokenizer.eos_token_id:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True).strip()


def test_one_vector_and_several_are_answered_as_a_plain_loop_does(oracle, plain):
    rows = tiny.random(4, tiny.D_MODEL, seed=5, scale=3.0)
    for vectors in (rows[0], rows[:1], rows[:3], rows):
        said = oracle.ask(vectors, QUESTION, layer=2, force=True)
        assert said == by_hand(plain, vectors.reshape(-1, tiny.D_MODEL), 2, QUESTION)
        assert (said.question, said.layer) == (QUESTION, 2)
    assert oracle.ask(rows[0], QUESTION, layer=1, force=True) == by_hand(plain, rows[:1], 1, QUESTION)


def test_the_vectors_the_question_and_the_layer_all_matter(plain, oracle):
    rows = tiny.random(3, tiny.D_MODEL, seed=6, scale=3.0)
    answers = {
        oracle.ask(rows, QUESTION, layer=2, force=True),
        oracle.ask(rows[:2], QUESTION, layer=2, force=True),
        oracle.ask(rows, "Who is it?", layer=2, force=True),
        oracle.ask(rows, QUESTION, layer=1, force=True),
    }
    assert len(answers) == 4


@pytest.mark.parametrize("batch", [1, 32])
def test_sets_of_different_sizes_are_answered_alike_alone_and_together(oracle, batch):
    sets = [tiny.random(1 + at % 3, tiny.D_MODEL, seed=20 + at, scale=3.0) for at in range(batch)]
    questions = [QUESTION if at % 2 else "Who?" for at in range(batch)]
    layers = [LAYERS[at % 2] for at in range(batch)]
    together = oracle.ask(sets if batch > 1 else [sets[0]], questions, layer=layers, force=True)
    alone = [
        oracle.ask(vectors, question, layer=layer, force=True)
        for vectors, question, layer in zip(sets, questions, layers, strict=True)
    ]
    assert together == alone
    assert [one.layer for one in together] == layers and [one.question for one in together] == questions


def test_a_text_is_read_at_a_slice_of_its_tokens(oracle):
    everything = oracle.extract(TEXT, "all", layer=2)
    answer = oracle.ask(TEXT, QUESTION, layer=2, positions=(4, 9))
    assert answer == oracle.ask(everything.vectors[4:9], QUESTION, layer=2, force=True)
    assert answer.layer == 2
    assert oracle.ask(TEXT, QUESTION, layer=2, positions=(-5, -1)) == oracle.ask(
        everything.vectors[-5:-1], QUESTION, layer=2, force=True
    )
    assert oracle.ask(TEXT, QUESTION, layer=2, positions=[4, 8]) == oracle.ask(
        everything.vectors[[4, 8]], QUESTION, layer=2, force=True
    )
    assert oracle.ask(TEXT, QUESTION, layer=2) == oracle.ask(everything.vectors[-1], QUESTION, layer=2, force=True)
    assert oracle.ask(TEXT, QUESTION, positions="all", layer=2) == oracle.ask(everything, QUESTION)


def test_activations_say_their_layer_themselves(oracle):
    first, second = (oracle.extract(TEXT, [3, 4], layer=layer) for layer in LAYERS)
    one, two = oracle.ask(first, QUESTION), oracle.ask(second, QUESTION)
    assert (one.layer, two.layer) == (1, 2) and one != two
    assert oracle.ask([first, second], QUESTION) == [one, two]
    assert oracle.ask([TEXT, TEXT], QUESTION, layer=LAYERS, positions=[3, 4]) == [one, two]


def test_several_questions_of_one_set_and_one_question_of_several_sets(oracle):
    sets = tiny.random(3, 2, tiny.D_MODEL, seed=9, scale=3.0)
    questions = [QUESTION, "Who?", "When?"]
    asked = oracle.ask(sets[0], questions, force=True)
    assert asked == [oracle.ask(sets[0], question, force=True) for question in questions]
    assert oracle.ask(sets, QUESTION, force=True) == [oracle.ask(one, QUESTION, force=True) for one in sets]
    assert oracle.ask(sets, questions, force=True)[1] == oracle.ask(sets[1], questions[1], force=True)


def test_several_answers_to_one_question(oracle):
    vectors = tiny.random(2, tiny.D_MODEL, seed=10, scale=3.0)
    three = oracle.ask(vectors, QUESTION, n=3, temperature=1.5, seed=1, force=True)
    assert len(three) == 3 and len(set(three)) > 1 and all(one.question == QUESTION for one in three)
    assert three == oracle.ask([vectors, vectors], QUESTION, n=3, temperature=1.5, seed=1, force=True)[1]


def test_an_answer_is_a_row_of_a_table_and_survives_a_copy(oracle):
    answer = oracle.ask(tiny.random(2, tiny.D_MODEL, seed=11), QUESTION, layer=2, force=True)
    row = answer.to_row()
    assert row["question"] == QUESTION and row["activation_layer"] == 2 and row["api_explanation"] == str(answer)
    for same in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer)):
        assert same == answer and (same.question, same.layer, same.status) == (QUESTION, 2, answer.status)


def test_an_oracle_needs_no_ar_and_none_is_looked_for(oracle):
    with pytest.raises(MissingHalfError, match="is an activation oracle, which has no AR"):
        oracle.reconstruct("a cat")
    with pytest.raises(MissingHalfError, match="round_trip needs an AR"):
        oracle.round_trip(TEXT)
    assert oracle.ar is None


def test_explain_asks_the_default_question_and_says_where_there_is_none(oracle, half, tmp_path):
    vectors = tiny.random(2, tiny.D_MODEL, seed=12, scale=3.0)
    with pytest.raises(InputError, match=r"no question to explain with .*pair\.ask"):
        oracle.explain(vectors, force=True)
    shutil.copytree(half, tmp_path / "half")
    fields = {"layer": {"values": LAYERS}, "question": {"default": QUESTION}}
    tiny.write_sidecar(tmp_path / "half", fields=fields)
    pair = NLAPair.from_pretrained(tmp_path / "half")
    said = pair.explain(vectors, force=True)
    assert said == [oracle.ask(one, QUESTION, force=True) for one in vectors], "a row a vector"
    assert pair.explain(vectors[0], force=True) == said[0]
    assert pair.explain(vectors[0], layer=2, force=True) == oracle.ask(vectors[0], QUESTION, layer=2, force=True)
    assert pair.explain(vectors[None], force=True) == [oracle.ask(vectors, QUESTION, force=True)], "a row a set"


def test_what_cannot_be_asked(oracle, base, tmp_path):
    vectors = tiny.random(2, tiny.D_MODEL, seed=13, scale=3.0)
    with pytest.raises(UnseenValueError, match="layer 3 was never trained"):
        oracle.ask(vectors, QUESTION, layer=3, force=True)
    with pytest.raises(UnseenValueError, match="layer 0 was never trained"):
        oracle.ask(TEXT, QUESTION, layer=0)
    with pytest.raises(LayerError, match="Layer 99 does not exist"):
        oracle.ask(TEXT, QUESTION, layer=99)
    with pytest.raises(ForeignActivationError, match="layer 3 .all rows.; this pair reads layer 1, 2"):
        oracle.ask(oracle.extract(TEXT, layer=3), QUESTION)
    with pytest.raises(PositionError, match=r"none of a text of \d+ tokens"):
        oracle.ask(TEXT, QUESTION, positions=(5, 500))
    with pytest.raises(PositionError, match="b not included"):
        oracle.ask(TEXT, QUESTION, positions=(5, 5))
    with pytest.raises(InputError, match="2 questions and 3 sets"):
        oracle.ask(tiny.random(3, 2, tiny.D_MODEL, seed=1), [QUESTION, "Who?"], force=True)
    with pytest.raises(InputError, match="expected a text"):
        oracle.ask(vectors, 3, force=True)
    with pytest.raises(InputError, match="expected a text"):
        oracle.ask(vectors, "  ", force=True)
    with pytest.raises(EmptyBatchError, match="list of questions is empty"):
        oracle.ask(vectors, [], force=True)
    with pytest.raises(ActivationShapeError):
        oracle.ask(torch.ones(2, 5), QUESTION, force=True)
    with pytest.raises(InputError, match="2 layers for 1 rows"):
        oracle.ask(vectors, QUESTION, layer=[1, 2], force=True)


def test_a_layer_that_activations_contradict_is_refused_unless_forced(oracle):
    read = oracle.extract(TEXT, [3, 4], layer=2)
    for given in (read, [read, read]):
        with pytest.raises(InputError, match="layer=1, but row 0 of the Activations was read from layer 2"):
            oracle.ask(given, QUESTION, layer=1)
    assert oracle.ask(read, QUESTION, layer=2) == oracle.ask(read, QUESTION)
    assert oracle.ask(read, QUESTION, layer=1, force=True) == oracle.ask(read.vectors, QUESTION, layer=1, force=True)


def test_of_vectors_of_several_layers_no_one_layer_is_said_and_a_row_of_a_table_is_not_enough(base, tmp_path):
    folder = tiny.lora_av(tmp_path / "several", base, tiny.plain_model(base), layer=1)
    injection = {"site": "block", "block": 1, "rule": "add", "norm": "match", "layers": [2, 1]}
    pair = NLAPair.from_pretrained(tiny.write_sidecar(folder, "injection_scale", injection=injection))
    vectors = tiny.random(6, tiny.D_MODEL, seed=14).view(3, 2, tiny.D_MODEL)
    for layer in (1, [1, 2, 1]):
        with pytest.raises(InputError, match=r"takes a vector of each of the layers \[2, 1\]"):
            pair.explain(vectors, layer=layer, force=True)
    np.save(tmp_path / "two.npy", vectors[0].numpy())
    with pytest.raises(InputError, match=r"two\.npy: a row holds one vector, and a prompt of this pair takes 2"):
        work.explain(pair, open_source(str(tmp_path / "two.npy"), ("activation_vector",)))


def test_a_verbalizer_is_not_asked(pair):
    with pytest.raises(NotAnOracleError, match=r"takes no question.*pair\.explain"):
        pair.ask(tiny.random(tiny.D_MODEL, seed=1), QUESTION)


# --- directions ---------------------------------------------------------------------------------------------------
def test_directions_are_asked_about_over_the_mean_or_as_they_are(oracle, plain):
    rows = tiny.random(2, tiny.D_MODEL, seed=61, scale=4.0)
    mean = tiny.random(tiny.D_MODEL, seed=62, scale=3.0)
    known = ActivationMean(mean, 20.0)
    points = mean + 20.0 * rows / rows.norm(dim=-1, keepdim=True)
    of_sae = Vectors(rows, "direction", 1, origin="sae")
    assert oracle.ask(of_sae, QUESTION, mean=known) == by_hand(plain, points, 1, QUESTION)
    assert oracle.ask(rows, QUESTION, kind="direction", direction="raw") == by_hand(plain, rows, 1, QUESTION)
    with pytest.raises(ForeignActivationError, match="sae: directions of layer 3"):
        oracle.ask(Vectors(rows, "direction", 3, origin="sae"), QUESTION, mean=known)
    both = [ActivationMean(mean, 20.0, layer) for layer in LAYERS]
    assert oracle.ask(Vectors(rows, "direction", 2), QUESTION, mean=both[1]) == by_hand(plain, points, 2, QUESTION)
    with pytest.raises(ForeignActivationError, match="a mean of layer 1 .*this pair reads layer 2"):
        oracle.ask(Vectors(rows, "direction", 2), QUESTION, mean=both[0])
    with pytest.raises(InputError, match="A prompt takes 2 vectors of one layer; row 0 has those of"):
        oracle.ask(Vectors(rows, "direction", (1, 2)), QUESTION, mean=known)
