"""What an evaluation was made from, as SHA-256s, held against the halves at hand."""

from __future__ import annotations

from pathlib import Path

from nla_sdk.contract import Contract, known_release
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.halves.beside.digests import half_digests

HEADS = ("linear_head.safetensors", "linear_head.pt")


def named(av: Contract, ar: Contract, evaluation: Evaluation) -> bool | None:
    """Whether the halves at hand name each other, as far as their contracts tell: None if they go by other names now.

    They do if they were made in one run, or if one's `pair` is the name under which the other was measured.
    """
    runs = [contract.provenance.get("pair_id") for contract in (av, ar)]
    if runs[0] is not None and runs[0] == runs[1]:
        return True
    links = [(av.pair, evaluation.subject.ar), (ar.pair, evaluation.subject.av)]
    if any(link is not None and link.lower() == name.lower() for link, name in links):
        return True
    # A release is named by the SDK, not by its contract; a link may have been added or changed in publishing.
    return None if av.pair or ar.pair or known_release(evaluation.subject.av) is not None else False


def differences(evaluation: Evaluation, role: str, folder: Path, contract: Contract) -> list[str]:
    """What of a half is not what the evaluation was made from; empty if all is."""
    measured = {name: digest for name, digest in evaluation.inputs.items() if name.startswith(f"{role}/")}
    here = half_digests(role, folder, contract)
    wrong = [
        f"{name} is not the one that was measured" for name in measured if name in here and measured[name] != here[name]
    ]
    wrong += [f"{name} is missing" for name in measured if name not in here]
    new = [name for name in here if name not in measured]
    converted, old = (f"{role}/{name}" for name in HEADS)
    if converted in new and old in measured and measured[old] == here.get(old) and heads_agree(folder):
        new.remove(converted)  # publishing puts it beside the .pt
    return wrong + [f"{name} was not there when it was measured" for name in new]


def heads_agree(folder: Path) -> bool:
    """Whether an AR's two heads, where there are two, hold the same tensors."""
    if not all((folder / name).is_file() for name in HEADS):
        return True
    from nla_sdk.model.weights.heads import same_head

    return same_head(*(folder / name for name in HEADS))
