"""The data on published releases: every row of the census is there, and nothing that runs lacks a fact."""

from __future__ import annotations

import hashlib
from importlib import resources

import pytest
import yaml

from nla_sdk.contract import Contract, known_faults, known_release, refuse_unrunnable, written_as
from nla_sdk.contract.releases.catalogue import families, find, releases
from nla_sdk.errors import UnrunnableReleaseError

ALL = list(releases())
RUNNABLE = [release for release in ALL if release.runnable]
# Rows of the census whose decisive facts it marks as not verified: nothing of them may run.
UNVERIFIED = {9, 12, 13, 16, 17, 20, 22, 24, 25, 27, 29, 30, 31, 37, 38, 39, 41, 42, 43, *range(44, 50), *range(54, 61)}
FILES = sorted(resources.files("nla_sdk.contract.releases").joinpath("data").iterdir(), key=lambda file: file.name)
TEXT = "\n".join(file.read_text(encoding="utf-8") for file in FILES)


def by_name(release) -> str:
    return f"{release.repo}/{release.subfolder or ''}"


def test_every_row_of_the_census_is_an_entry():
    assert {row for release in ALL for row in release.rows} == set(range(1, 61))


def test_nothing_runs_of_which_the_census_does_not_know_a_decisive_fact():
    assert not {row for release in RUNNABLE for row in release.rows} & UNVERIFIED
    assert not [by_name(release) for release in RUNNABLE if "?" in release.evidence]


@pytest.mark.parametrize("release", RUNNABLE, ids=by_name)
def test_what_runs_is_a_whole_contract_of_a_checkpoint(release):
    contract = Contract.from_dict({}, known=release.facts, source=release.repo)
    assert contract.kind == "nla_model" and not contract.extras
    if contract.role == "av":
        assert contract.injection is not None and contract.prompt_style and contract.weights_kind
        assert contract.injection_token_id is not None or contract.asks
    else:
        stated = {"ar_num_blocks", "ar_bos", "ar_final_norm", "ar_state", "ar_heads", "ar_position", "ar_target"}
        assert {contract.origins[name] for name in stated} == {"release"}
    if contract.asks:
        assert contract.fields["question"].default and contract.enable_thinking is False
        assert contract.injection_markers == "any" and contract.layer in contract.layers


@pytest.mark.parametrize("release", [release for release in ALL if not release.runnable], ids=by_name)
def test_what_does_not_run_says_which_facts_of_a_contract_it_lacks(release):
    repo = release.repo.replace("*", "x")
    folder = (release.subfolder or "").replace("*", "x") or None
    with pytest.raises(UnrunnableReleaseError) as refused:
        refuse_unrunnable(repo, folder)
    if release.unsupported:
        assert "cannot be run by this version" in str(refused.value)
        return
    keys = {written_as(name) for name in Contract.model_fields} | {"fields.depth", "fields.layer", "fields.model_tag"}
    assert release.missing and set(release.missing) <= keys
    for key in release.missing:
        assert f"--contract {key}=…" in str(refused.value)
    refuse_unrunnable(repo, folder, dict.fromkeys(release.missing, "said"))


def test_no_entry_states_a_fact_that_it_calls_missing():
    for release in ALL:
        for key in release.missing:
            block, _, leaf = key.rpartition(".")
            holder = release.facts.get(block) or {} if block else release.facts
            assert leaf not in holder, f"{by_name(release)}: {key}"


@pytest.mark.parametrize(
    "stated",
    [
        [{"prompt_style": "raw"}],
        [None, {"prompt_style": "chat"}],
    ],
)
def test_a_missing_fact_may_be_stated_by_the_user_or_by_the_sidecar(stated):
    repo = "anicka/nla-qwen2.5-7b-L20-av-v2"
    with pytest.raises(UnrunnableReleaseError, match=r"`prompt_style` is not published.*\{'prompt_style': …\}"):
        refuse_unrunnable(repo, None, {"prompt_style": None})
    refuse_unrunnable(repo, None, *stated)
    whole = Contract.from_dict({}, known=known_release(repo), given={"prompt_style": "raw"})
    assert whole.prompt_style == "raw" and whole.fields["depth"].default == 73


@pytest.mark.parametrize(
    "said",
    [
        {"injection.scale": 30},
        {"injection": {"scale": 30}},
        {"injection_scale": 30},
        {"extraction": {"injection_scale": 30}},
    ],
)
def test_a_missing_fact_may_be_stated_in_any_dialect(said):
    refuse_unrunnable("Kameshr/nla-qwen2.5-7b-L20-av", None, said)


def test_a_release_that_runs_and_one_that_is_not_known_are_let_through():
    refuse_unrunnable("kitft/nla-qwen2.5-7b-L20-av")
    refuse_unrunnable("owner/other", "folder")


# --- the data itself ------------------------------------------------------------------------------------------------
def test_no_key_stands_twice():
    def keys(node) -> None:
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if key.value != "<<"]
            assert len(names) == len(set(names)), f"twice, near line {node.start_mark.line}: {names}"
            for _, value in node.value:
                keys(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                keys(value)

    keys(yaml.compose(TEXT))


def test_a_template_stands_once_in_the_data():
    templates = yaml.safe_load(TEXT)["_templates"]
    used = {release.facts.get(name) for release in ALL for name in ("av_template", "ar_template")} - {None}
    assert used == set(templates.values())
    for words in ("Please provide an explanation.\n\nreference", "{question}", "{explanation}</text> <summary>㈎"):
        assert TEXT.count(words) <= 1


def test_the_references_template_is_that_of_the_reference_byte_for_byte():
    template = yaml.safe_load(TEXT)["_templates"]["T-KITFT"]
    assert len(template) == 520
    assert hashlib.sha256(template.encode()).hexdigest().startswith("054c09450507")
    others = yaml.safe_load(TEXT)["_templates"]
    assert template.startswith(others["T-SEED"]) and others["T-SEED"].endswith("</concept>")
    assert others["T-DEPTH"].endswith("<explanation>") and others["T-AR"].endswith("<summary>")


def test_a_marker_has_one_id_in_a_vocabulary():
    vocabularies = {"Qwen2.5": "qwen2", "Qwen3-": "qwen2", "Qwen3.": "qwen3.6", "gemma-3": "gemma", "gemma-4": "gemma"}
    ids: dict[tuple[str, str], set[int]] = {}
    for release in ALL:
        base, marker = str(release.facts.get("base_model")), release.facts.get("injection_char")
        vocabulary = next((name for part, name in vocabularies.items() if part in base), base)
        if marker and "injection_token_id" in release.facts:
            ids.setdefault((vocabulary, marker), set()).add(release.facts["injection_token_id"])
    assert all(len(found) == 1 for found in ids.values()), ids
    assert ids["qwen3.6", "㈜"] != ids["gemma", "㈜"]


def test_every_family_says_what_it_takes():
    assert {release.family for release in ALL} == set(families())
    assert all(about.endswith(".") for about in families().values())


# --- what is wrong with some, and how some differ -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("repo", "folder", "words"),
    [
        ("syvb/nla-qwen2.5-7b-L20-rltrunc-gradguard", "kl0/iter_100/ar", "exactly 1792 of 3584 rows are NaN or huge"),
        ("Kameshr/nla-qwen2.5-7b-L20-av", None, "two tokens in Qwen2.5"),
        ("asher577/nla-qwen-3-8b", None, "asher577/nla-warmstart-2x"),
        ("TuHan/tiny-nla", "nla/actor-rl", "injection_scale null"),
        ("ceselder/gemma4-26b-a4b-nla", "critic", "24 blocks for a vector of block 20"),
        ("Yooniel/gemma-3-12b-it-nla-L32-wildchat", "rl_vllm/iter_000400", "`norm: none`"),
    ],
)
def test_a_known_fault_is_told(repo, folder, words):
    assert any(words in fault for fault in known_faults(repo, folder))


def test_the_verbalizers_beside_a_corrupt_head_are_without_fault():
    assert known_faults("syvb/nla-qwen2.5-7b-L20-rltrunc-gradguard", "kl0/iter_100/av") == []


@pytest.mark.parametrize(
    ("repo", "folder", "weights"),
    [
        ("syvb/nanonla-qwen3-8b-L24-rl-lora", "p0.001", {"kind": "lora", "parent": "syvb/nanonla-qwen3-8b-L24-av"}),
        ("asher577/nla-qwen-3-8b", "av", {"kind": "lora", "parent": "asher577/nla-warmstart-2x/av"}),
        (
            "ceselder/qwen3.6-27b-nla-L42",
            "av_rl_lora_step400",
            {"kind": "lora", "adapters": ["av_sft_lora", "av_rl_lora_step400"]},
        ),
        ("ceselder/qwen3.6-27b-nla-L42", "av_sft_lora", {"kind": "lora"}),
        ("ceselder/nla-qwen36-27b-matryoshka", "rl", {"kind": "lora"}),
        ("ceselder/qwen3.6-27b-nla-rl", "av_rl_adapters/iter_000300", {"kind": "lora", "parent": "av_base"}),
        ("gereon/qwen3.8-27b-nla-L42", "av_rl_lora", {"kind": "lora", "adapters": ["av_sft_lora", "av_rl_lora"]}),
    ],
)
def test_an_adapter_stands_on_what_it_was_trained_on(repo, folder, weights):
    assert known_release(repo, folder)["weights"] == weights


@pytest.mark.parametrize(
    ("repo", "folder", "reading"),
    [
        ("kitft/nla-gemma3-12b-L32-ar", None, (33, True, "dropped", "raw", "last", "one")),
        ("achand45/gemma-3-12b-it-nla-L32", "rl_vllm/critic_latest", (33, False, "dropped", "sqrt_d", "last", "one")),
        ("Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1", None, (18, True, "dropped", "raw", "last", "one")),
        ("anicka/nla-qwen2.5-7b-L20-ar-v2", None, (21, False, "dropped", "raw", "marker", "none")),
        ("anicka/nla-phi4-universal-ar-v2", None, (39, False, "dropped", "raw", "last", "per_layer")),
    ],
)
def test_a_reconstructor_reads_as_its_family_does(repo, folder, reading):
    contract = Contract.from_dict({}, known=known_release(repo, folder))
    names = ("ar_num_blocks", "ar_bos", "ar_final_norm", "ar_state", "ar_position", "ar_heads")
    assert tuple(getattr(contract, name) for name in names) == reading


def test_the_oracles_read_at_a_quarter_half_and_three_quarters_of_their_base():
    blocks = {"Qwen3-8B": 36, "Qwen3-14B": 40, "gemma-2-9b-it": 42, "Llama-3.1-8B-Instruct": 32}
    blocks |= {"Llama-3.3-70B-Instruct": 80, "Qwen3.6-27B": 64, "gemma-4-E2B-it": 35}
    oracles = [release for release in RUNNABLE if release.kind == "oracle"]
    assert {release.facts["base_model"].split("/")[1] for release in oracles} == set(blocks)
    for release in oracles:
        n = blocks[release.facts["base_model"].split("/")[1]]
        assert release.facts["layers"] == [int(n * share) for share in (0.25, 0.5, 0.75)]
        assert release.facts["fields"]["layer"]["values"] == release.facts["layers"]


def test_a_subfolder_changes_single_facts_of_a_block():
    whole, own = find("anicka/nla-qwen3-4b-v2"), find("anicka/nla-qwen3-4b-v2", "ar")
    assert whole.kind == "?" and own.kind == "AR" and own.facts["weights"] == {"kind": "lora"}
