"""The AR's head once more, in closed form. `python -m training.refit --config training/configs/demo.yaml`

Training by steps leaves the head short of what its own inputs would allow: it is a regression of width 640, and sees a
few thousand rows a few at a time. With the adapter done, the head that is best for it is a ridge regression from the
last token's states to directions, drawn towards the trained head and not towards zero. How strongly is chosen on a
fifth of the training documents, one choice being not at all; held-out documents decide nothing.

Starts from `<out>/av/final` and `<out>/ar/final`, reads the rows that `ar:` names, and leaves both halves in
`<out>/refit` (the AV as it was), for `python -m training.bundle --config … --pair <out>/refit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from nla_sdk import metrics
from nla_sdk.half import Half
from nla_sdk.reconstructor import last_token_states

from .adapters import load_base, processes, run_facts, save_half, with_parent
from .cli import ConfigOption, friendly
from .config import Config
from .files import atomic, hash64
from .sft_ar import ADAPTER, Trainer

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the mean variance of the states."""

ROWS_PER_BATCH = 32


def refit(states: torch.Tensor, directions: torch.Tensor, head: torch.Tensor, penalty: float) -> torch.Tensor:
    """The ridge regression from states to directions, drawn towards `head`.

    Args:
        states: float64 [n, k], with a column of ones where the head has a bias.
        directions: float64 [n, d], of length 1.
        head: float64 [d, k].
        penalty: as a share of the mean variance of the states.
    Returns:
        float64 [d, k].
    """
    outputs = states @ head.T
    length = outputs.norm(dim=1).mean()  # only directions count: ask for what is near in length, too
    gram = states.T @ states / len(states)
    gram += penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return head + torch.linalg.solve(gram, states.T @ (directions * length - outputs) / len(states)).T


def run(config: Config, *, rows: int = 1500) -> Path:
    """Refit; returns the folder of the pair.

    Args:
        rows: most of each table of true labels; rows of the AV's words are all read.
    """
    _, device = processes()
    halves = {role: Half.find(str(config.half(role)), role) for role in ("av", "ar")}
    settings = config.ar.model_copy(update={"continue_from": halves["ar"].folder, "max_rows": rows})
    config, parent = with_parent(config.model_copy(update={"ar": settings}), "ar")
    backbone = load_base(config, config.ar, device)
    trainer = Trainer(config, backbone)
    with backbone.using(ADAPTER):
        before = trainer.evaluate()
        states = _states(trainer)
        directions = torch.nn.functional.normalize(trainer.targets.double(), dim=1)
        layer = trainer.head
        head = torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1).cpu().double()
        asked = torch.tensor([hash64(f"refit|{row['doc_id']}") % 5 == 0 for row in trainer.rows])
        errors = {"not at all": _error(states[asked] @ head.T, trainer.targets[asked])}
        for penalty in PENALTIES:
            made = refit(states[~asked], directions[~asked], head, penalty)
            errors[str(penalty)] = _error(states[asked] @ made.T, trainer.targets[asked])
        best = min(errors, key=errors.__getitem__)
        if best != "not at all":
            head = refit(states, directions, head, float(best))
            with torch.no_grad():
                layer.weight.copy_(head[:, :-1])
                layer.bias.copy_(head[:, -1])
        after = trainer.evaluate()
        facts = run_facts(config.ar, backbone, parent, trainer.tables, len(trainer.rows))
        facts |= {"method": "head refitted", "penalty": best, "validation_mse": errors, **after}
        facts |= {f"{key}_before": value for key, value in before.items()}
        target = config.out / "refit"
        with atomic(target) as sibling:
            (sibling / "ar").mkdir(parents=True)
            save_half(
                sibling / "ar",
                backbone,
                ADAPTER,
                trainer.contract,
                trainer.statistics,
                facts,
                dtype=config.ar.save_dtype,
                head=layer,
            )
            halves["av"].copy_to(sibling / "av")
    figures = f"{before['heldout_fve_true']:.4f} → {after['heldout_fve_true']:.4f}"
    print(f"penalty {best}; held-out FVE with true labels {figures}")
    return target


def _states(trainer: Trainer) -> torch.Tensor:
    """float64 [n, d + 1]: what the head reads, and a one for its bias."""
    order = sorted(range(len(trainer.prompts)), key=lambda row: len(trainer.prompts[row]))
    found = torch.ones(len(order), trainer.backbone.d_model + 1, dtype=torch.float64)
    trainer.backbone.model.eval()
    with torch.no_grad():
        for start in tqdm(range(0, len(order), ROWS_PER_BATCH), unit="batch", desc="refit", mininterval=5):
            rows: Sequence[int] = order[start : start + ROWS_PER_BATCH]
            prompts = [trainer.prompts[row] for row in rows]
            made = last_token_states(trainer.backbone, prompts, trainer.contract.ar_num_blocks - 1)
            found[rows, :-1] = made.double().cpu()
    return found


def _error(predicted: torch.Tensor, targets: torch.Tensor) -> float:
    return float(metrics.direction_mse(predicted.float(), targets).mean())


def main(
    config: ConfigOption,
    rows: Annotated[int, typer.Option(help="Most rows of each table of true labels.", min=1)] = 1500,
) -> None:
    with friendly():
        print(run(Config.load(config), rows=rows))


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
