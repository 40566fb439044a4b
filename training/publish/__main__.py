"""Publish a pair, a half, tables or a trajectory, with cards that claim what was measured.

    python -m training.publish --repo ada/cat --checkpoint my-pair --evaluation results/mine/evaluation.json
    python -m training.publish --repo ada/cat --checkpoint my-pair --dry-run        what would be published; offline
    python -m training.publish --space ada/look --pair ada/cat-av       a Space with the page of `nla serve`

Checks contracts, weights, evaluation and tables, searches for secrets, shows the plan and asks; then one commit a
repository, read back file by file. Run again it completes what a fault left undone. docs/publishing.md has the rules.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nla_sdk.errors import InputError

from ..configs.command import run_command

if TYPE_CHECKING:
    from .remote import Change, Remote
    from .stage import Publication


def _refuse_token(token: str | None) -> None:
    """No option takes a token; this one is there to say so, instead of guesses at what else may have been meant."""
    if token is not None:
        raise InputError(
            "Publishing takes no --token, which shells would keep. The token is taken from HF_TOKEN or the one of "
            "`hf auth login`."
        )


def main(
    repo: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Of a pair its stem: -av, -ar and -data are added.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="A Space that serves --pair, in place of --repo.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A half, or a folder with av and ar in it.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(metavar="FILE", help="evaluation.json of these weights.")] = None,
    dataset: Annotated[list[Path] | None, typer.Option(metavar="PARQUET", help="A table; repeat for more.")] = None,
    pair: Annotated[
        str | None,
        typer.Option(metavar="OWNER/OTHER", help="The other half, of a single one; of a --space the AV, or demo."),
    ] = None,
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
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Dataset on the Hub with the table that --evaluation is of."),
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
    token: Annotated[str | None, typer.Option(hidden=True, is_eager=True, callback=_refuse_token)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, stage and show; send nothing, ask nobody.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    from .push import connect, look, publish
    from .request import PublishRequest
    from .space import SpaceRequest, prepared_space
    from .stage import prepared

    if (repo is None) == (space is None):
        raise InputError("Pass --repo for a pair, a half or tables, or --space for a Space that serves a pair.")
    beside = checkpoint / "card_notes.md" if checkpoint else None
    request = PublishRequest(
        repo=repo or space or "",
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
        benchmark=benchmark,
    )
    if space is not None:
        given = [
            name for name, value in (("--checkpoint", checkpoint), ("--dataset", dataset), ("--notes", notes)) if value
        ]
        given += [name for name, value in (("--evaluation", evaluation), ("--trajectory", trajectory)) if value]
        given += ["--benchmark"] if benchmark else []
        if given or pair is None:
            raise InputError(f"A --space takes a --pair and no {given[0] if given else '--checkpoint'}.")
        made = prepared_space(SpaceRequest(space, pair, request))
    else:
        made = prepared(request)
    with made as publication:
        for warning in publication.warnings:
            print(f"warning: {warning}")
        if dry_run:
            _show_offline(publication)
            return
        if not yes and not sys.stdin.isatty():
            raise InputError("Nobody can be asked here: pass --yes to publish, or --dry-run to see what would be.")
        api = connect()
        _show(publication, look(api, publication, request))
        if not yes and not typer.confirm("Publish?"):
            print("Nothing was published.")
            return
        for outcome in publish(api, publication, request):
            print(outcome.loads)


def _show_offline(publication: Publication) -> None:
    """What is staged, without asking the Hub; the cards stay in a folder, to be read."""
    cards = Path(tempfile.mkdtemp(prefix="nla-cards-"))
    for staged in (repository.staged for repository in publication.repositories):
        print(f"{staged.kind} {staged.repo_id}")
        for name, file in staged.files().items():
            print(f"  {name}  {file.stat().st_size:,} bytes")
        place = cards / staged.repo_id.rpartition("/")[2]
        place.mkdir()
        shutil.copyfile(staged.folder / "README.md", place / "README.md")
        if (figures := staged.folder / "figures").is_dir():
            shutil.copytree(figures, place / "figures")
        print(f"  its card, to read: {place / 'README.md'}")
    print("Checked and staged; nothing was sent (--dry-run).")


LINES_SHOWN = 60  # of a card's changes


def _show(publication: Publication, compared: Sequence[tuple[Remote, Change, str]]) -> None:
    from .remote import lines_of

    for repository, (remote, change, difference) in zip(publication.repositories, compared, strict=True):
        print(f"{remote.url}, branch {remote.revision}:")
        lines = lines_of(change, remote.staged.files()) or ["  nothing to change"]
        print("\n".join(lines))
        if difference:
            changed = difference.splitlines()
            print("  the card changes:")
            print("\n".join(f"    {line}" for line in changed[:LINES_SHOWN]))
            if (left := len(changed) - LINES_SHOWN) > 0:
                print(f"    … and {left} lines more; the whole card is {repository.staged.folder / 'README.md'}")


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main, stopped="stopped; nothing was published")
