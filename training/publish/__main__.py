"""Publish a pair, a half, tables or a trajectory, with cards that claim what was measured.

    python -m training.publish --repo ada/cat --checkpoint my-pair --evaluation results/mine/evaluation.json
    python -m training.publish --repo ada/cat --checkpoint my-pair --dry-run        what would be published; offline

Checks contracts, weights, evaluation and tables, searches for secrets, shows the plan and asks; then one commit a
repository, read back file by file. Run again it completes what a fault left undone. docs/publishing.md has the rules.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.errors import InputError

from ..runs.command import run_command


def main(
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Of a pair its stem: -av, -ar and -data are added.")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A half, or a folder with av and ar in it.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(metavar="FILE", help="evaluation.json of these weights.")] = None,
    dataset: Annotated[list[Path] | None, typer.Option(metavar="PARQUET", help="A table; repeat for more.")] = None,
    pair: Annotated[str | None, typer.Option(metavar="OWNER/OTHER", help="The other half, of a single one.")] = None,
    trajectory: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A checkpoint of one run; repeat for each.")
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Free text for the card; default: card_notes.md beside the checkpoint."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the Hub's list, where the base's is not known.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Commit to this branch; default: main.")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="v0.1.0", help="Tag the commits.")] = None,
    collection: Annotated[
        str | None, typer.Option(metavar="SLUG", help="Put the repositories into a collection.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Default: HF_TOKEN, or the one of `hf auth login`.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, stage and show; send nothing, ask nobody.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    from . import run

    beside = checkpoint / "card_notes.md" if checkpoint else None
    request = run.Request(
        repo=repo,
        checkpoint=checkpoint,
        evaluation=evaluation,
        tables=dataset or (),
        pair=pair,
        trajectory=trajectory or (),
        notes=notes or (beside if beside and beside.is_file() else None),
        licence=licence,
        private=private,
        create_pr=create_pr,
        revision=revision,
        tag=tag,
        collection=collection,
    )
    with run.prepared(request) as plan:
        for warning in plan.warnings:
            print(f"warning: {warning}")
        if dry_run:
            _show_offline(plan)
            return
        if not yes and not sys.stdin.isatty():
            raise InputError("Nobody can be asked here: pass --yes to publish, or --dry-run to see what would be.")
        api = run.connect(token)
        _show(plan, run.look(api, plan, request))
        if not yes and not typer.confirm("Publish?"):
            print("Nothing was published.")
            return
        for outcome in run.publish(api, plan, request):
            print(outcome.loads)


def _show_offline(plan) -> None:
    """What is staged, without asking the Hub; the cards stay in a folder, to be read."""
    cards = Path(tempfile.mkdtemp(prefix="nla-cards-"))
    for one in plan.repositories:
        print(f"{one.staged.kind} {one.staged.repo_id}")
        for name, file in one.staged.files().items():
            print(f"  {name}  {file.stat().st_size:,} bytes")
        place = cards / one.staged.repo_id.rpartition("/")[2]
        place.mkdir()
        shutil.copyfile(one.staged.folder / "README.md", place / "README.md")
        if (figures := one.staged.folder / "figures").is_dir():
            shutil.copytree(figures, place / "figures")
        print(f"  its card, to read: {place / 'README.md'}")
    print("Checked and staged; nothing was sent (--dry-run).")


LINES_SHOWN = 60  # of a card's changes


def _show(plan, found) -> None:
    from .remote import changes_said

    for one, (remote, change, difference) in zip(plan.repositories, found, strict=True):
        print(f"{remote.url}, branch {remote.revision}:")
        lines = changes_said(change, remote.staged.files()) or ["  nothing to change"]
        print("\n".join(lines))
        if difference:
            changed = difference.splitlines()
            print("  the card changes:")
            print("\n".join(f"    {line}" for line in changed[:LINES_SHOWN]))
            if (left := len(changed) - LINES_SHOWN) > 0:
                print(f"    … and {left} lines more; the whole card is {one.staged.folder / 'README.md'}")


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
