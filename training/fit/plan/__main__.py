"""What a training run will need of memory, before it starts. `python -m training.fit.plan --config X.yaml --role both`

Reads the config and the base's `config.json` only: the model is built on the meta device, its parameters are counted
by walking its modules, and one training step is gone through without memory (`dry_run`), so KV sharing, double-wide
MLPs and per-layer inputs count as they are. Exit code 0: fits; 1: does not fit, and the table says which knob helps;
2: bad input.

    python -m training.fit.plan --config training/configs/gemma4_e2b.yaml --base-config config.json --gpu-gib 4
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.cli.options import expand
from nla_sdk.errors import InputError

from ...configs.command import UNCHANGED, ConfigOptions, run_command
from .estimate import plan, read_base_config, settings_of


@expand
def command(
    config: ConfigOptions,
    role: Annotated[str, typer.Option(help="av, ar or both.")] = "both",
    base_config: Annotated[
        Path | None, typer.Option(help="The base's config.json; by default that of `base`, fetched without weights.")
    ] = None,
    gpu_gib: Annotated[float, typer.Option(help="GPU memory in GiB (with --device cpu: RAM).")] = 4.0,
    batch: Annotated[
        int | None, typer.Option(help="Rows of one forward (micro-batch); by default the config's.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of the longest row; by default the config's.")] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
) -> None:
    if role not in ("av", "ar", "both"):
        raise InputError(f"--role is {role!r}; expected 'av', 'ar' or 'both'.")
    if not 0 < gpu_gib < float("inf"):  # NaN too
        raise InputError(f"--gpu-gib is {gpu_gib}; expected GiB above 0.")
    read = config.load()
    base = read_base_config(read.base, base_config)
    plans = []
    for half in ("av", "ar") if role == "both" else (role,):
        given = {name: value for name, value in (("batch", batch), ("length", length)) if value is not None}
        options = settings_of(read, half) | given
        plans.append(plan(read, half, base_config=base, gpu_gib=gpu_gib, device=device, **options))
        print(plans[-1].table(), end="\n\n")
    raise typer.Exit(0 if all(each.fits for each in plans) else 1)


command.__doc__ = __doc__

if __name__ == "__main__":
    run_command(command, stopped=UNCHANGED)
