"""AVs trained with their vector elsewhere than in the embedding, or with several: what is trained is what is loaded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from nla_sdk import NLAPair
from nla_sdk.contract import Injection
from nla_sdk.errors import InputError
from nla_sdk.model.backbone import Backbone
from tests import tiny
from tests.fit.test_training import config_file, text
from training import pipeline
from training.configs.config import Config
from training.fit import av as sft_av
from training.fit import on_policy
from training.fit.engine.rows import Layers, refuse_several

ADD_AT_1 = {"site": "block", "block": 1, "rule": "add"}
SETTINGS = {
    "one": {"av__injection": ADD_AT_1},
    "several": {"av__injection": {**ADD_AT_1, "layers": [0, 1, 2]}, "extract__layers": [0, 2]},
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def built(request, tmp_path_factory, base) -> Path:
    corpus, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    rows = [{"doc_id": f"doc{i // 2}", "text": text(rng), "family": "a"} for i in range(60)]
    lines = [json.dumps({**row, "explanation": f"On {row['text'][:9]}."}) + "\n" for row in rows]
    for name in ("passages", "labels"):
        (corpus / f"{name}.jsonl").write_text("".join(lines))
    path = config_file(tmp_path_factory.mktemp(request.param), base, corpus, centred=False, **SETTINGS[request.param])
    pipeline.run(Config.load(path))
    return path


def add_at_1(model, ids: list[int], marker: int, vectors: torch.Tensor):
    """A plain forward of one row whose markers get ‖h‖·v/‖v‖ added after block 1: logits [tokens, vocabulary]."""

    def add(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        if states.shape[1] > 1:
            places = [at for at, token in enumerate(ids) if token == marker]
            for at, vector in zip(places, vectors, strict=True):
                states[0, at] += states[0, at].norm() * vector / vector.norm()
        return (states, *output[1:]) if isinstance(output, tuple) else states

    decoder = model.get_base_model() if isinstance(model, PeftModel) else model
    hook = decoder.model.layers[1].register_forward_hook(add)
    try:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0]
    finally:
        hook.remove()


def test_the_loss_is_that_of_a_plain_forward_with_the_vectors_added_after_block_1(built, base):
    config = Config.load(built)
    trainer = sft_av.AVTrainer(config, Backbone.load(base, device="cpu", dtype="float32"))
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    marker, prompt = trainer.contract.injection_token_id, list(trainer.verbalizer.prompt_ids)
    total = 0.0
    for vectors, target in zip(trainer.inputs[:5], trainer.targets[:5], strict=True):
        logits = add_at_1(plain, [*prompt, *target], marker, vectors.reshape(-1, vectors.shape[-1]))
        predicting = logits[len(prompt) - 1 : -1]
        total += float(functional.cross_entropy(predicting, torch.tensor(target), reduction="sum"))
    with torch.no_grad(), trainer.backbone.using("av"):
        found = trainer.batch_loss(trainer.inputs[:5], trainer.targets[:5], exact=True)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_what_was_trained_is_in_the_contract_and_writes_as_plain_code_does(built, base):
    config = Config.load(built)
    folder = sft_av.run(config)
    pair = NLAPair.from_pretrained(folder)
    contract, layers = pair.av_contract, config.av.injection.layers
    assert contract.injection == Injection(
        "block", 1, "add", "match", markers=len(layers) or 1, layers=tuple(layers) or None
    )
    assert (contract.output_form, contract.output_stop, contract.weights_kind) == ("opened", "closing_tag", "lora")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    vectors = tiny.random(2, len(layers) or 1, pair.d_model, seed=4)
    written = pair.explain(vectors if layers else vectors[:, 0], max_new_tokens=6, force=True)
    prompt = config.av.template.replace("{injection_char}", config.marker * (len(layers) or 1))
    for row, explanation in zip(vectors, written, strict=True):
        ids = tokenizer(prompt).input_ids
        start = len(ids)
        for _ in range(6):
            token = int(add_at_1(model, ids, contract.injection_token_id, row)[-1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        assert explanation.raw == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_stages_that_have_one_vector_a_row_refuse_an_av_that_takes_several(built):
    config = Config.load(built)
    if config.av.injection.layers:
        with pytest.raises(InputError, match="on_policy gives the AV one vector a row"):
            on_policy.run(config)
    else:
        refuse_several(config, "on_policy")


def test_a_row_without_its_other_layers_is_refused_by_its_name(built):
    config = Config.load(built)
    own, rows = torch.zeros(1, 64), [{"row_id": "nowhere"}]
    if config.av.injection.layers:
        with pytest.raises(InputError, match="row nowhere at layer 0 is in no table here"):
            Layers(config).stacked(own, rows)
    else:
        assert Layers(config).stacked(own, rows) is own
