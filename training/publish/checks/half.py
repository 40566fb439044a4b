"""A half is whole: its contract, its files, its adapter against the base, its head and mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from nla_sdk.contract import Contract
from nla_sdk.errors import NLAError, first_line
from nla_sdk.halves.half import ADAPTER_FILES, Half
from nla_sdk.halves.parts import BASE
from nla_sdk.io.parsing import parse_json

from ..errors import Findings

MOST_BYTES = 50 * 10**9  # of one file: the Hub's limit
LARGE_BYTES = 5 * 10**9


def check_half(half: Half, findings: Findings, token: str | None = None) -> None:
    """Its contract is whole, its files are readable and hold numbers, its adapter fits the base.

    The base's config is enough (and its tokenizer, for the marker): no weights are fetched. A base that cannot be
    reached is a warning.

    Args:
        token: that may read the base; None: this machine's.
    """
    from safetensors import SafetensorError, safe_open

    from nla_sdk.model.weights.finite import describe, non_finite

    name = half.folder.name
    for file in sorted(half.folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:  # NumPy has no bfloat16
                keys = list(tensors.keys())
                lost = list(non_finite((key, tensors.get_tensor(key)) for key in keys))
            if not keys:
                findings.problems.append(f"{name}/{file.name} holds no tensors")
            elif lost:
                more = f", and {len(lost) - 1} more tensors some" if len(lost) > 1 else ""
                findings.problems.append(f"{name}/{file.name}: {lost[0][0]} holds {describe(lost[0][1])}{more}")
        except (SafetensorError, OSError) as error:
            findings.problems.append(f"{name}/{file.name} is not a readable safetensors file ({first_line(error)})")
    for file in (file for file in half.folder.iterdir() if file.is_file()):
        size = file.stat().st_size
        if size > MOST_BYTES:
            findings.problems.append(f"{name}/{file.name} has {size:,} bytes, the Hub takes {MOST_BYTES:,}")
        elif size > LARGE_BYTES:
            findings.warnings.append(f"{name}/{file.name} has {size / 1e9:.1f} GB")
    if findings.problems:
        return
    findings.problems += [f"{name}: {problem}" for problem in head_and_mean(half)]
    if not is_public(half.contract.base_model):
        findings.problems.append(
            f"{name}/nla_meta.yaml names the base {half.contract.base_model!r}, which is not a repository on the Hub: "
            "nobody else could load it. Put its owner/name there"
        )
        return
    findings.problems += [f"{name}/nla_meta.yaml {problem}" for problem in elsewhere(half.contract)]
    reachable = _base(half, findings, token)
    alone = half.contract.weights_adapters is None
    if half.is_adapter and (alone or all((half.folder / file).is_file() for file in ADAPTER_FILES)):
        _adapter(half, findings, reachable, token)
    for needed in ("layer", "base_model", "d_model"):
        if getattr(half.contract, needed) is None:
            findings.problems.append(f"{name}/nla_meta.yaml has no {needed}")
    if half.contract.provenance == {}:
        findings.warnings.append(f"{name}/nla_meta.yaml has no provenance: the card cannot say what it was made from")


def is_public(base_model: str | None) -> bool:
    """Whether a base model is named by its Hub id, as opposed to a folder of this machine."""
    parts = (base_model or "").split("/")
    return len(parts) == 2 and all(parts) and not named_by_folder(base_model) and not Path(base_model).is_dir()


def named_by_folder(base: object) -> bool:
    """Whether a base model is named by a path."""
    return isinstance(base, str) and (base.startswith(("/", ".", "~")) or PureWindowsPath(base).is_absolute())


def elsewhere(contract: Contract) -> Iterator[str]:
    """What a contract names by a folder and others could not have: a half is published as the files of one folder."""
    named = {"weights.parent": [contract.weights_parent], "weights.adapters": contract.weights_adapters or []}
    named["source_model"] = [contract.source_model]
    for key, places in named.items():
        for place in places:
            if place not in (None, BASE) and not is_public("/".join(str(place).split("/")[:2])):
                yield (
                    f"names {place!r} as {key}, which is no repository on the Hub, and folders beside a half are not "
                    "published with it: put its owner/name there"
                )


def head_and_mean(half: Half) -> Iterator[str]:
    """What is wrong with the AR's head and what is done to vectors (mean, whitening, maps): not there, of no shape."""
    from nla_sdk.model.statistics.states import ActivationStatistics
    from nla_sdk.model.weights.heads import read_heads
    from nla_sdk.model.weights.transforms import Transform

    contract = half.contract
    try:
        if contract.role == "ar":
            read_heads(half.folder, contract)
        Transform.load(half.folder, contract)
        if contract.activation_statistics is not None:
            file = half.folder / contract.activation_statistics
            found = ActivationStatistics.load(file)
            found.belongs(contract.base_model, contract.layer, contract.d_model, str(file))
    except NLAError as error:
        yield str(error).replace(f"{half.folder}/", "")


def _adapter(half: Half, findings: Findings, reachable: bool, token: str | None) -> None:
    """The adapter's files belong together; every tensor has its place in the base, built on the meta device."""
    from nla_sdk.halves.tensors import account

    name = half.folder.name
    missing = [file for file in ADAPTER_FILES if not (half.folder / file).is_file()]
    if missing:
        findings.problems.append(f"{name} lacks {', '.join(missing)}")
        return
    if wrong := _config_against_tensors(half.folder):
        findings.problems.append(f"{name}/{ADAPTER_FILES[0]} {wrong}")
        return
    if not reachable:
        return
    tensors = account(half, token=token)
    if "unchecked" in tensors:
        findings.warnings.append(f"{name}: adapter tensors not checked against the base ({tensors['unchecked']})")
    elif tensors["misfits"]:
        first, why = next(iter(tensors["misfits"].items()))
        findings.problems.append(
            f"{name}/{ADAPTER_FILES[1]}: {len(tensors['misfits'])} of {tensors['total']} tensors do not fit "
            f"{tensors['base']}, the first is {first}: {why}"
        )
    elif not tensors["loaded"]:
        findings.problems.append(f"{name}/{ADAPTER_FILES[1]}: none of its {tensors['total']} tensors would be loaded")


def _config_against_tensors(folder: Path) -> str | None:
    """What is wrong with the adapter's config: peft builds the adapter from it, so its rank is that of the tensors."""
    from safetensors import safe_open

    try:
        config = parse_json((folder / ADAPTER_FILES[0]).read_bytes())
        ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is not a readable adapter config ({type(error).__name__}: {first_line(error)})"
    with safe_open(folder / ADAPTER_FILES[1], framework="numpy") as tensors:
        names = [name for name in tensors.keys() if ".lora_A." in name]  # noqa: SIM118
        held = {tensors.get_slice(name).get_shape()[0] for name in names}
    if held - ranks:
        stated, there = (", ".join(map(str, sorted(values))) for values in (ranks, held))
        return f"says rank {stated}, the tensors of {ADAPTER_FILES[1]} have rank {there}"
    return None


def _base(half: Half, findings: Findings, token: str | None) -> bool:
    """The contract against the base: its config's width and depth, the prompts as its tokenizer reads them.

    Returns:
        Whether the base could be had.
    """
    from transformers import AutoConfig

    from nla_sdk.model.quiet import quiet
    from nla_sdk.model.weights.tokenizers import load_tokenizer

    contract, name = half.contract, half.folder.name
    try:
        folder = _base_folder(contract, token)
        with quiet():
            config = AutoConfig.from_pretrained(folder).get_text_config()
        tokenizer = load_tokenizer(folder, choice=contract.tokenizer, probes=contract.prompt_texts())
    except (NLAError, OSError, ValueError, KeyError) as error:
        warning = (
            f"adapter tensors, depth and prompts were not held against the base: {first_line(error).partition('. ')[0]}"
        )
        if warning not in findings.warnings:  # both halves have one base
            findings.warnings.append(warning)
        return False
    base, blocks = contract.base_model, config.num_hidden_layers
    if contract.layer is not None and contract.layer >= blocks:
        findings.problems.append(
            f"{name}/nla_meta.yaml: layer is {contract.layer}, {base} has {blocks} blocks (from 0)"
        )
    if (contract.ar_num_blocks or 0) > blocks:
        findings.problems.append(
            f"{name}/nla_meta.yaml: ar_num_blocks is {contract.ar_num_blocks}, {base} has {blocks} blocks"
        )
    if contract.d_model != config.hidden_size:
        findings.problems.append(
            f"{name}/nla_meta.yaml: d_model is {contract.d_model}, {base} is {config.hidden_size} wide"
        )
    try:
        contract.verify(tokenizer, config.vocab_size)
    except NLAError as error:
        findings.problems.append(str(error).replace(str(half.folder), name))
    return True


def _base_folder(contract: Contract, token: str | None) -> Path:
    """Where the base's config and tokenizer are; its weights are not fetched."""
    from nla_sdk.halves.demo_base import DEMO_BASE_ID
    from nla_sdk.halves.fetch import TOKENIZER_FILES
    from nla_sdk.halves.hub.download import download_folder
    from nla_sdk.halves.tensors import base_config

    if contract.base_model == DEMO_BASE_ID:
        return base_config(contract.base_model).parent
    patterns = ["config.json", *TOKENIZER_FILES]
    return download_folder(contract.base_model, patterns, revision=contract.base_revision, token=token)
