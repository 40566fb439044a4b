"""What the labels of finished tables are like. `python -m training.data.label_report runs/demo/av_sft.parquet …`

Label content decides what a pair can say, so the tables come with figures on it: how many labels there are and of which
status, how many are unique, how they open, how long they are, and how much of them is copied from the source. `build`
writes `<out>/label_report.json` and, where matplotlib is installed, `<out>/label_report.png`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.errors import InputError
from nla_sdk.io.tables import read_table

from ..configs.command import UNCHANGED, run_command
from .tables.report import FILE, write


def main(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for the JSON and the picture.")] = Path("."),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
) -> None:
    if (out / FILE).exists() and not overwrite:
        raise InputError(f"{out / FILE} is there already; pass --overwrite or another --out.")
    labels = [read_table(table, ["api_explanation"])["api_explanation"] for table in tables]
    if all(column.null_count == len(column) for column in labels):
        raise InputError(f"{', '.join(map(str, tables))}: no row has a label, so there is nothing to report.")
    print(write(tables, out))


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main, stopped=UNCHANGED)
