"""What a half's file does not say is stated by the user, or loading fails; nothing of it is guessed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

from nla_sdk import NLAPair
from nla_sdk.cli.app import main
from nla_sdk.contract import Contract, known_release
from nla_sdk.errors import ContractError, InputError, MismatchedHalvesError, UnstatedFactError, UnstatedPromptError
from nla_sdk.halves.half import Half, read_contract
from nla_sdk.halves.inspection import describe
from nla_sdk.jobs.identity import identify
from tests import tiny


@pytest.fixture(scope="module")
def reference_pair(tmp_path_factory):
    """Whole checkpoints in the reference dialect: nothing in it says how the prompt is put."""
    root = tmp_path_factory.mktemp("reference")
    source = tiny.save_model(root / "source", tiny.llama_config(), tiny.tokenizer(chat=True), seed=20)
    tiny.write_sidecar(tiny.full_pair(root / "pair", source) / "av", "prompt_style")
    return root / "pair"


@pytest.fixture(scope="module")
def lora_pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(chat=True), seed=20)
    return tiny.lora_pair(root / "pair", base, tiny.plain_model(base), layer=1, blocks=2)


PROMPT = tiny.AV_TEMPLATE.replace("{injection_char}", tiny.MARKER)
RAW, CHAT = f"<bos>{PROMPT}", f"<bos>[user]\n{PROMPT}\n[model]\n"


# --- unstated -------------------------------------------------------------------------------------------------------
def test_a_pair_in_the_reference_dialect_in_an_unknown_folder_is_refused_with_both_prompts(reference_pair):
    with pytest.raises(UnstatedPromptError) as refused:
        NLAPair.from_pretrained(reference_pair, device="cpu")
    message = str(refused.value)
    assert repr(RAW) in message and repr(CHAT) in message
    assert "contract={'prompt_style': 'chat'}" in message and "--contract prompt_style=chat" in message
    assert "\n" not in message


def test_an_adapters_prompts_are_shown_through_its_bases_tokenizer(lora_pair, tmp_path):
    folder = shutil.copytree(lora_pair, tmp_path / "pair")
    tiny.write_sidecar(folder / "av", "prompt_style")
    with pytest.raises(UnstatedPromptError) as refused:
        NLAPair.from_pretrained(folder, device="cpu")
    assert repr(RAW) in str(refused.value) and repr(CHAT) in str(refused.value)


@pytest.mark.parametrize("gone", ["tokenizer", "template"])
def test_without_a_tokenizer_or_a_template_the_message_says_so(reference_pair, tmp_path, gone):
    folder = shutil.copytree(reference_pair, tmp_path / "pair")
    tiny.write_sidecar(folder / "av", base_checkpoint="ada/nowhere")
    for file in (folder / "av").glob("tokenizer*" if gone == "tokenizer" else "chat_template*"):
        file.unlink()
    with pytest.raises(UnstatedPromptError) as refused:
        NLAPair.from_pretrained(folder, device="cpu")
    expected = {"tokenizer": "one user message of the base's chat template", "template": "has no chat template"}[gone]
    assert expected in str(refused.value) and PROMPT.rstrip("\n") in str(refused.value).replace("\\n", "\n")


def test_an_av_without_a_scale_is_refused_however_it_is_loaded(reference_pair, tmp_path):
    folder = shutil.copytree(reference_pair, tmp_path / "pair")
    extraction = yaml.safe_load((folder / "av" / "nla_meta.yaml").read_text(encoding="utf-8"))["extraction"]
    del extraction["injection_scale"]
    tiny.write_sidecar(folder / "av", extraction=extraction, prompt_style="chat")
    with pytest.raises(
        UnstatedFactError, match=r"`injection\.site` is not stated.*never guessed.*contract={'injection"
    ):
        NLAPair.from_pretrained(folder, device="cpu")
    for scale, expected in ((150, 150.0), ("sqrt_d_model", 8.0), (None, None)):  # a scale alone overwrites
        loaded = NLAPair.from_pretrained(folder, device="cpu", contract={"injection_scale": scale})
        assert loaded.av_contract.injection_scale == expected


def test_a_tables_sidecar_beside_a_checkpoint_is_refused_unless_all_is_stated(reference_pair, tmp_path):
    """As EasyNLA leaves it: kind nla_dataset, no role, no scale, and the vector is added after a block."""
    folder = shutil.copytree(reference_pair / "av", tmp_path / "av")
    sidecar = {
        "kind": "nla_dataset",
        "base_model": "owner/lm",
        "d_model": tiny.D_MODEL,
        "extraction": {"layer_index": 1, "norm": "none", "injection_scale": None},
        "prompt_templates": {"actor": tiny.AV_TEMPLATE},
        "tokens": {"injection_char": tiny.MARKER},
    }
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True), encoding="utf-8")
    with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated"):
        NLAPair.from_pretrained(folder, device="cpu")
    del sidecar["extraction"]["injection_scale"]
    (folder / "nla_meta.yaml").write_text(
        yaml.safe_dump(sidecar | {"kind": "nla_model"}, allow_unicode=True), encoding="utf-8"
    )
    with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated"):
        NLAPair.from_pretrained(folder, device="cpu")


# --- stated ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["raw", "chat"])
def test_what_the_user_states_is_what_is_sent_and_saved(reference_pair, tmp_path, style):
    stated = {"prompt_style": style}
    if style == "raw":  # a chat template that writes BOS says it, nobody says it of raw text
        with pytest.raises(UnstatedFactError, match=r"`bos` is not stated: whether the AV's prompt begins with BOS"):
            NLAPair.from_pretrained(reference_pair, device="cpu", contract=stated)
        stated["bos"] = True
    loaded = NLAPair.from_pretrained(reference_pair, device="cpu", contract=stated)
    assert (
        loaded.verbalizer.backbone.tokenizer.decode(loaded.verbalizer.prompt_ids) == {"raw": RAW, "chat": CHAT}[style]
    )
    assert loaded.av_contract.origins["prompt_style"] == "given"
    assert "prompt_style" not in loaded.ar_contract.to_dict()
    loaded.save_pretrained(tmp_path / "saved")
    again = NLAPair.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.verbalizer.prompt_ids == loaded.verbalizer.prompt_ids
    written = Contract.load(tmp_path / "saved" / "av")
    assert written.origins["prompt_style"] == written.origins["injection_scale"] == "sidecar"


def test_what_is_stated_stands_above_the_file_and_goes_to_the_half_that_has_a_use_for_it(lora_pair):
    stated = {"extraction.injection_scale": 3, "max_new_tokens": 2, "max_length": 40, "extraction": {"mse_scale": None}}
    loaded = NLAPair.from_pretrained(lora_pair, device="cpu", contract=stated)
    av, ar = loaded.av_contract, loaded.ar_contract
    assert (av.injection_scale, av.max_new_tokens, av.max_length, av.mse_scale) == (3.0, 2, None, None)
    assert (ar.injection_scale, ar.max_new_tokens, ar.max_length, ar.mse_scale) == (None, None, 40, None)
    assert loaded.explain(tiny.random(tiny.D_MODEL, seed=1)).tokens <= 2
    plain = NLAPair.from_pretrained(lora_pair, device="cpu")
    assert torch.equal(
        loaded.verbalizer.prepare(torch.ones(1, 64)) * 8 / 3, plain.verbalizer.prepare(torch.ones(1, 64))
    )


def test_another_marker_takes_the_files_ids_along(lora_pair):
    marked = {"injection_char": "Q", "injection_token_id": None}
    loaded = NLAPair.from_pretrained(lora_pair, device="cpu", contract=marked)
    assert loaded.av_contract.injection_token_id == loaded.verbalizer.backbone.tokenizer.convert_tokens_to_ids("Q")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"promt_style": "chat"}, "`promt_style` is no key of a contract.*Did you mean `prompt_style`"),
        ({"extraction": {"scale": 3}}, r"`extraction\.scale` is no key"),
        ({"tokens.marker": "x"}, r"`tokens\.marker` is no key"),
        ({"prompt_style": "poem"}, r"`prompt_style` \(as given\) is 'poem'"),
        ({"injection_scale": "loud"}, "`injection_scale` is 'loud'"),
        ({"injection_scale": 1, "extraction.injection_scale": 2}, r"both give `injection\.scale`"),
        ({"pair": "ada/ar"}, "`pair` is not stated this way"),
        ({"provenance": {}}, "`provenance` is not stated this way"),
        (["prompt_style"], "expected a mapping of keys to values, found a list"),
    ],
)
def test_what_cannot_be_stated_is_named(lora_pair, stated, message):
    with pytest.raises(ContractError, match=message):
        NLAPair.from_pretrained(lora_pair, device="cpu", contract=stated)


def test_two_halves_that_want_two_tokenizers_of_one_base_are_refused(lora_pair, tmp_path):
    folder = shutil.copytree(lora_pair, tmp_path / "pair")
    tiny.write_sidecar(folder / "av", tokenizer="file")
    assert NLAPair.from_pretrained(folder, device="cpu").av_contract.tokenizer == "file"
    tiny.write_sidecar(folder / "ar", tokenizer="class")
    with pytest.raises(MismatchedHalvesError, match="two tokenizers of one base"):
        NLAPair.from_pretrained(folder, device="cpu")
    NLAPair.from_pretrained(folder, device="cpu", contract={"tokenizer": "class"})


def test_work_done_under_another_statement_is_not_gone_on_with(lora_pair):
    plain = identify(NLAPair.from_pretrained(lora_pair, device="cpu"))
    stated = identify(NLAPair.from_pretrained(lora_pair, device="cpu", contract={"injection_scale": 3}))
    assert stated["av_contract"] == {"injection_scale": 3.0, "injection_norm": "fixed"}
    assert "av_contract" not in plain and "ar_contract" not in stated


# --- a release in a folder of another name --------------------------------------------------------------------------
AVS = [
    "kitft/nla-qwen2.5-7b-L20-av",
    "kitft/nla-gemma3-12b-L32-av",
    "kitft/nla-gemma3-27b-L41-av",
    "kitft/Llama-3.3-70B-NLA-L53-av",
    "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1",
]


def sidecar_of(repo: str, **changes) -> dict:
    """What lies in a copy of a release, in the reference dialect."""
    entry = known_release(repo)
    entry |= {"injection_scale": entry["injection"].get("scale", "sqrt_d_model")} | changes
    return {
        "kind": "nla_model",
        "role": "actor",
        "base_checkpoint": entry["base_model"],
        "d_model": entry["d_model"],
        "extraction": {"layer_index": entry["layer"], "injection_scale": entry["injection_scale"]},
        "tokens": {"injection_char": entry["injection_char"], "injection_token_id": entry["injection_token_id"]},
        "prompt_templates": {"actor": entry["av_template"]},
    }


def read(folder, sidecar) -> Contract:
    folder.mkdir(exist_ok=True)
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True), encoding="utf-8")
    return read_contract(folder, str(folder), None)


@pytest.mark.parametrize("repo", AVS)
@pytest.mark.parametrize("base", [lambda name: name, str.upper, lambda name: f"/models/{name.split('/')[1]}/"])
def test_a_copy_of_a_known_release_is_recognised_in_any_folder(tmp_path, repo, base):
    entry = known_release(repo)
    contract = read(tmp_path / "copy", sidecar_of(repo, base_model=base(entry["base_model"])))
    assert contract.prompt_style == entry["prompt_style"]
    assert contract.origins["prompt_style"] == "release"
    assert contract.pair is None and not contract.provenance, "a copy is not that repository"


@pytest.mark.parametrize("repo", AVS)
def test_a_pair_whose_scale_is_null_is_no_release_that_overwrites(tmp_path, repo):
    with pytest.raises(UnstatedFactError):
        read(tmp_path / "other", sidecar_of(repo, injection_scale=None))


@pytest.mark.parametrize("repo", AVS)
@pytest.mark.parametrize(
    "change",
    [
        {"base_model": "owner/other"},
        {"layer": 3},
        {"d_model": 64},
        {"injection_char": "§", "injection_token_id": 5},
        {"injection_token_id": 5},
        {"injection_scale": 2.5},
        {"av_template": "Depth 73: <concept>{injection_char}</concept>"},  # as descendants on the same base and layer
    ],
)
def test_a_pair_that_differs_in_one_fact_is_not_taken_for_the_release(tmp_path, repo, change):
    with pytest.raises(UnstatedPromptError) as refused:
        read(tmp_path / "other", sidecar_of(repo, **change))
    near = {"injection_scale", "av_template"} & set(change)
    assert ("Base, layer and marker are those of" in str(refused.value)) is bool(near)


@pytest.mark.parametrize("repo", AVS)
def test_a_sidecar_without_a_scale_is_not_taken_for_a_release_that_has_one(tmp_path, repo):
    """Descendants that add the vector after a block have the same sidecar, less the scale."""
    with pytest.raises(UnstatedFactError, match="`injection.site` is not stated"):
        read(tmp_path / "other", sidecar_of(repo, injection_scale=None))


def test_a_release_by_its_own_name_needs_no_such_facts(tmp_path):
    (tmp_path / "nla_meta.yaml").write_text("{}")
    contract = read_contract(tmp_path, AVS[0], None)
    assert (contract.prompt_style, contract.injection_scale) == ("chat", 150.0)


def run(arguments: list[str], capsys) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `nla`."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, *capsys.readouterr()


# --- at the shell ---------------------------------------------------------------------------------------------------
def test_the_command_line_refuses_in_one_line_and_takes_the_statement(reference_pair, capsys):
    ar = ["--ar", str(reference_pair / "ar")]
    command = ["explain", "cat", "--device", "cpu", "--av", str(reference_pair / "av"), *ar, "--json"]
    code, out, err = run(command, capsys)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "`prompt_style` is not stated" in err
    code, out, _ = run([*command, "--contract", "prompt_style=chat"], capsys)
    assert code == 0 and json.loads(out)["api_explanation"] is not None
    for word, message in (
        ("prompt_style", "expected KEY=VALUE"),
        ("=chat", "expected KEY=VALUE"),
        ("prompt_style=[", "is no value as YAML writes them"),
        ("prompt_stile=chat", "Did you mean `prompt_style`"),
    ):
        code, _, err = run([*command, "--contract", word], capsys)
        assert code == 2 and message in err
    twice = ["--contract", "prompt_style=chat", "--contract", "prompt_style=raw"]
    code, _, err = run([*command, *twice], capsys)
    assert code == 2 and "gives `prompt_style` twice" in err


def test_info_shows_what_was_stated(reference_pair, capsys):
    code, _, err = run(["info", str(reference_pair)], capsys)
    assert code == 2 and repr(CHAT) in err
    stated = ["--contract", "prompt_style=chat", "--contract", "injection_scale=null"]
    code, out, _ = run(["info", str(reference_pair), "--json", *stated], capsys)
    av = json.loads(out)[0]["contract"]
    assert av["prompt_style"] == {"value": "chat", "origin": "given"}
    assert av["injection_norm"] == {"value": "raw", "origin": "given"}
    assert [one.half.role for one in describe(str(reference_pair), contract={"prompt_style": "chat"})] == ["av", "ar"]


def test_a_half_is_found_with_what_is_stated(reference_pair):
    half = Half.find(str(reference_pair / "av"), "av", given={"prompt_style": "raw"})
    assert half.contract.prompt_style == "raw"
    with pytest.raises(InputError):
        NLAPair.from_pretrained(None, contract={"prompt_style": "raw"})
