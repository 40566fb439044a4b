"""Every kind of base writes what whole forwards of transformers write, whether its blocks are known or not."""

from __future__ import annotations

import pytest

from nla_sdk import NLAPair
from nla_sdk.model import verbalizer
from nla_sdk.model.decoding.stepping import ModelSteps
from nla_sdk.model.decoding.writing import Writing
from nla_sdk.model.fast.steps import Steps
from nla_sdk.sampling import Sampling
from tests import reference, tiny
from tests.model.fast.backbones import KINDS

LIMIT, ROWS = 6, 3
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
SHORT = {"sliding_window": 24}  # shorter than the prompt
CASES = {
    **{kind: (make, Steps) for kind, make in KINDS.items()},
    "mistral, a window": (lambda: KINDS["mistral"](**SHORT), ModelSteps),
    "gemma3, a window": (lambda: KINDS["gemma3"](**SHORT), ModelSteps),
    "gemma3, a wide window": (lambda: KINDS["gemma3"](sliding_window=400), Steps),
    "gemma3, a soft cap": (lambda: KINDS["gemma3"](final_logit_softcapping=20.0), Steps),
    "dynamic rope": (lambda: KINDS["llama"](rope_parameters=DYNAMIC), ModelSteps),
    "gemma4": (tiny.gemma_config, ModelSteps),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_are_those_of_whole_forwards(name, tmp_path, monkeypatch):
    make, way = CASES[name]
    base = tiny.save_model(tmp_path / "base", make(), tiny.tokenizer(), seed=3)
    folder = tiny.lora_av(tmp_path / "av", base, tiny.plain_model(base), layer=1)
    av, ways, own = NLAPair.from_pretrained(folder).verbalizer, [], Writing._stepping

    def noted(self, call):
        ways.append(type(made := own(self, call)))
        return made

    monkeypatch.setattr(Writing, "_stepping", noted)
    monkeypatch.setattr(verbalizer, "ROWS_PER_BATCH", 2)
    inputs = av.prepare(tiny.random(ROWS, tiny.D_MODEL, seed=45, scale=3.0))
    found = [tokens for tokens, _ in av.tokens(inputs, Sampling(LIMIT))]
    ids = list(av.default.ids)
    model = reference.load(base, folder)
    assert found == [reference.write(model, ids, ids[av.default.marker], row, LIMIT) for row in inputs]
    assert set(ways) == {way}
    av.fast = False
    assert found == [tokens for tokens, _ in av.tokens(inputs, Sampling(LIMIT))]


def test_a_window_that_holds_the_prompt_but_not_all_that_may_be_written_is_left_to_the_model(tmp_path, monkeypatch):
    base = tiny.save_model(tmp_path / "base", KINDS["mistral"](sliding_window=60), tiny.tokenizer(), seed=3)
    av = NLAPair.from_pretrained(tiny.lora_av(tmp_path / "av", base, tiny.plain_model(base), layer=1)).verbalizer
    room, ways, own = 60 - len(av.default.ids), [], Writing._stepping
    assert 4 < room < 40

    def noted(self, call):
        ways.append(type(made := own(self, call)))
        return made

    monkeypatch.setattr(Writing, "_stepping", noted)
    inputs = av.prepare(tiny.random(ROWS, tiny.D_MODEL, seed=44, scale=3.0))
    texts = [
        [tokens for tokens, _ in av.tokens(inputs, Sampling(limit, ignore_end=True))] for limit in (room, room + 9)
    ]
    assert ways == [Steps, ModelSteps]
    assert texts[0] == [tokens[:room] for tokens in texts[1]]
