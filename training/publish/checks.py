"""What must hold before anything is sent: contracts, weights, heads, the evaluation, the tables.

Every check collects what is wrong and where, so that one run tells all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, NLAError, first_line
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.halves.half import ADAPTER_FILES, Half
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar

from ..evaluate.inputs import HEADS, heads_agree

MOST_BYTES = 50 * 10**9  # of one file: the Hub's limit
LARGE_BYTES = 5 * 10**9
# What the Hub takes as `license`: https://huggingface.co/docs/hub/repositories-licenses
LICENCES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
"""


@dataclass
class Findings:
    """What is wrong (nothing is published), and what the author should know."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_licence(licence: str | None) -> None:
    """`--license` is an id of the Hub's list; without one the base model's is looked up.

    Raises:
        InputError: it is not.
    """
    if licence == "other":
        raise InputError(
            "--license other says nothing without a name. Pass an id of the Hub's list; without --license the base "
            "model's is named where it is known."
        )
    if licence is not None and licence not in LICENCES.split():
        raise InputError(
            f"--license {licence!r} is not of the Hub's list, as apache-2.0, mit or cc-by-4.0 are: "
            "https://huggingface.co/docs/hub/repositories-licenses."
        )


def check_half(half: Half, findings: Findings) -> None:
    """Its contract is whole, its files are readable, its adapter fits the base.

    The base's config is enough (and its tokenizer, for the marker): no weights are fetched. A base that cannot be
    reached is a warning.
    """
    from safetensors import SafetensorError, safe_open

    name = half.folder.name
    for file in sorted(half.folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                if not list(tensors.keys()):
                    findings.problems.append(f"{name}/{file.name} holds no tensors")
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
    findings.problems += [f"{name}: {one}" for one in _head_and_mean(half)]
    if not is_public(half.contract.base_model):
        findings.problems.append(
            f"{name}/nla_meta.yaml names the base {half.contract.base_model!r}, which is not a repository on the Hub: "
            "nobody else could load it. Put its owner/name there"
        )
        return
    reachable = _base(half, findings)
    if half.is_adapter:
        _adapter(half, findings, reachable)
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


def _head_and_mean(half: Half) -> Iterator[str]:
    """The AR's head and a centred pair's mean are there and of the right shape."""
    from nla_sdk.model.heads import load_head, load_mean

    contract = half.contract
    try:
        if contract.role == "ar":
            load_head(half.folder, contract.d_model, bias=contract.head_bias)
            if not heads_agree(half.folder):
                yield f"{HEADS[0]} and {HEADS[1]} hold different tensors; remove the one that was not trained"
        load_mean(half.folder, contract)
    except NLAError as error:
        yield str(error).replace(f"{half.folder}/", "")


def _adapter(half: Half, findings: Findings, reachable: bool) -> None:
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
    found = account(half)
    if "unchecked" in found:
        findings.warnings.append(f"{name}: adapter tensors not checked against the base ({found['unchecked']})")
    elif found["misfits"]:
        first, why = next(iter(found["misfits"].items()))
        findings.problems.append(
            f"{name}/{ADAPTER_FILES[1]}: {len(found['misfits'])} of {found['total']} tensors do not fit "
            f"{found['base']}, the first is {first}: {why}"
        )
    elif not found["loaded"]:
        findings.problems.append(f"{name}/{ADAPTER_FILES[1]}: none of its {found['total']} tensors would be loaded")


def _config_against_tensors(folder: Path) -> str | None:
    """What is wrong with the adapter's config: peft builds the adapter from it, so its rank is that of the tensors."""
    from safetensors import safe_open

    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is not a readable adapter config ({type(error).__name__}: {first_line(error)})"
    with safe_open(folder / ADAPTER_FILES[1], framework="numpy") as tensors:
        names = [name for name in tensors.keys() if ".lora_A." in name]  # noqa: SIM118
        found = {tensors.get_slice(name).get_shape()[0] for name in names}
    if found - ranks:
        stated, there = (", ".join(map(str, sorted(one))) for one in (ranks, found))
        return f"says rank {stated}, the tensors of {ADAPTER_FILES[1]} have rank {there}"
    return None


def _base(half: Half, findings: Findings) -> bool:
    """The contract against the base: its config's width and depth, the prompts as its tokenizer reads them.

    Returns:
        Whether the base could be had.
    """
    from transformers import AutoConfig, AutoTokenizer

    from nla_sdk.io.quiet import quiet

    contract, name = half.contract, half.folder.name
    try:
        folder = _base_folder(contract)
        with quiet():
            config = AutoConfig.from_pretrained(folder).get_text_config()
            tokenizer = AutoTokenizer.from_pretrained(folder)
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
        contract.verify(tokenizer)
    except NLAError as error:
        findings.problems.append(str(error).replace(str(half.folder), name))
    return True


def _base_folder(contract: Contract) -> Path:
    """Where the base's config and tokenizer are; its weights are not fetched."""
    from nla_sdk.halves.demo_base import DEMO_BASE_ID
    from nla_sdk.halves.download import download_folder
    from nla_sdk.halves.fetch import TOKENIZER_FILES
    from nla_sdk.halves.tensors import base_config

    if contract.base_model == DEMO_BASE_ID:
        return base_config(contract.base_model).parent
    patterns = ["config.json", *TOKENIZER_FILES]
    return download_folder(contract.base_model, patterns, revision=contract.base_revision)


def check_evaluation(
    file: Path, halves: Sequence[Half], tables: Sequence[Path], findings: Findings
) -> Evaluation | None:
    """It verifies, was measured, and is of these weights and these tables. Returns it, or None with a problem."""
    from ..evaluate.verify import verify

    folders = {half.contract.role: half.folder for half in halves}
    data = _measured_on(file, tables)
    try:
        checked = verify(file, av=folders.get("av"), ar=folders.get("ar"), data=data)
    except NLAError as error:
        findings.problems.append(str(error))
        return None
    found = checked.evaluation
    if found.origin != "measured":
        findings.problems.append(f"{file.name} holds published figures; only a measured evaluation can be published")
        return None
    stated = found.subject
    for half in halves:
        if named_by_folder(_base_of_adapter(half.folder)):
            findings.problems.append(
                f"{half.folder.name}/{ADAPTER_FILES[0]} names the base by a folder of this machine, and {file.name} "
                f"holds its SHA-256: put {half.contract.base_model} there and evaluate again"
            )
        for name in ("layer", "d_model"):
            if getattr(stated, name) != getattr(half.contract, name):
                findings.problems.append(
                    f"{file.name} was measured at {name} {getattr(stated, name)}, {half.folder.name} has "
                    f"{getattr(half.contract, name)}"
                )
    if not is_public(stated.base_model):
        findings.warnings.append(
            f"{file.name} was measured on a base in a folder: that it is {halves[0].contract.base_model} is your word"
        )
    if tables and data is None:
        findings.warnings.append(f"none of the tables is the one that {file.name} was measured on")
    for role in sorted({"av", "ar"} - set(folders)):
        findings.warnings.append(f"the {role.upper()} that {file.name} was measured with is not at hand: not checked")
    if found.subject.matched is False:
        findings.warnings.append("the two halves do not name each other; the card says so")
    return found


def _base_of_adapter(folder: Path) -> str | None:
    file = folder / ADAPTER_FILES[0]
    return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") if file.is_file() else None


def _measured_on(evaluation: Path, tables: Sequence[Path]) -> Path | None:
    """Of tables to publish the one an evaluation was measured on: by SHA-256, else by its name, to be refused."""
    try:
        data = json.loads(evaluation.read_text(encoding="utf-8"))["data"]
        name, digest = data["name"], data["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # which `verify` says better
    same = (table for table in tables if sha256_of(table) == digest)
    return next(same, None) or next((table for table in tables if table.name == name), None)


def check_table(table: Path, findings: Findings) -> None:
    """A parquet file with its sidecar, of which the SHA-256 and the row count hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(table).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        findings.problems.append(f"{table.name} is not readable parquet ({first_line(error)})")
        return
    try:
        Contract.load(table)
    except NLAError as error:
        findings.problems.append(str(error).replace(f"{table.parent}/", ""))
        return
    about = read_sidecar(table)
    if about.get("sha256") != sha256_of(table):
        findings.problems.append(f"{table.name} is not the table its sidecar describes: its SHA-256 differs")
    if about.get("rows") not in (None, rows):
        findings.problems.append(f"{table.name} has {rows} rows, its sidecar says {about['rows']}")
