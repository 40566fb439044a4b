"""Finished tables are kept: a copy in `results/`, listed in `results/MANIFEST.json` with its hash.

`results/<run>/<table>` is never overwritten: a table of the same name with other bytes gets its hash in its name. So
what a pair was trained on is there after `out:` has been cleaned up. `--push-dataset OWNER/NAME` sends a finished table
and its sidecar to the Hub in one commit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from filelock import FileLock

from nla_sdk.errors import NLAError, first_line
from nla_sdk.halves.hub.naming import ask_present_name
from nla_sdk.io.files import atomic, sha256_of, write_json
from nla_sdk.io.sidecars import read_sidecar, sidecar_of

from ..configs.config import Config
from .scan import Scanner


class ResultsError(NLAError):
    """The list of results is damaged, or a table could not be published."""

    remedy = "Move a damaged MANIFEST.json away; for publishing log in, and run the same command again."


def keep(config: Config, table: Path, push_dataset: str | None = None) -> Path:
    """Copy the finished `table` and its sidecar to `results/`, list it, and publish it if asked.

    Args:
        table: a finished parquet file inside `config.out`.
        push_dataset: the Hub dataset to publish to.
    Returns:
        The copy.
    """
    digest = sha256_of(table)
    name = table.relative_to(config.out)
    results = config.results
    copy = results / config.out.name / name
    if copy.is_file() and sha256_of(copy) != digest:
        copy = copy.with_name(f"{copy.stem}-{digest[:12]}{copy.suffix}")
    for source, target in ((sidecar_of(table), sidecar_of(copy)), (table, copy)):
        if not target.is_file() or sha256_of(target) != sha256_of(source):
            with atomic(target) as sibling:
                shutil.copyfile(source, sibling)
    manifest = results / "MANIFEST.json"
    with FileLock(results / ".MANIFEST.lock"):
        listed = _read(manifest)
        about = read_sidecar(table)
        listed[copy.relative_to(results).as_posix()] = {
            "sha256": digest,
            "rows": about.get("rows"),
            "stage": about.get("stage"),
            "code_version": about.get("code_version"),
        }
        write_json(manifest, dict(sorted(listed.items())))
    if push_dataset:
        push(push_dataset, table, name)
    return copy


def _read(manifest: Path) -> dict:
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, json.JSONDecodeError) as error:
        raise ResultsError(f"{manifest} cannot be read ({error}). Repair it or move it away.") from error
    if not isinstance(found, dict):
        raise ResultsError(f"{manifest} holds a {type(found).__name__}, expected an object of tables. Move it away.")
    return found


def push(repo: str, table: Path, name: Path) -> None:
    """Send a table and its sidecar to the Hub dataset `repo` in one commit; the repository is made if it isn't there.

    Raises:
        ResultsError: it holds something private, the Hub refused, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    scanner = Scanner([repo])
    found = [one for file in (table, sidecar_of(table)) for one in scanner.file(file, file.name)]
    if found:
        raise ResultsError(
            f"{name.as_posix()} was not published: {'; '.join(map(str, found[:6]))}. It is safe in {table}; take that "
            "out of what it is made from, and run the same command again."
        )
    api = HfApi()
    repo = ask_present_name(repo, "dataset")  # made again under an old name, it would part from what is there
    there = Path("data") / name
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        api.create_commit(
            repo,
            [
                CommitOperationAdd(there.as_posix(), table),
                CommitOperationAdd(sidecar_of(there).as_posix(), sidecar_of(table)),
            ],
            repo_type="dataset",
            commit_message=f"{name.as_posix()}: {sha256_of(table)[:12]}",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise ResultsError(
            f"Could not publish {name.as_posix()} to the dataset {repo}: {first_line(error)}. It is safe in {table}; "
            "log in with `hf auth login` and run the same command again."
        ) from error
