"""What the author asks for, and whether it makes sense before any file is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nla_sdk.errors import InputError, first_line
from nla_sdk.halves.half import OTHER, Half
from nla_sdk.halves.hub.references import refuse_ref_name
from nla_sdk.io.text import ENCODING, check_text

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


@dataclass(frozen=True)
class PublishRequest:
    """What the author asked for; the command's options.

    Attributes:
        repo: owner/name; of a pair its stem: owner/name-av and owner/name-ar are made, and owner/name-data.
        checkpoint: a half's folder, or one with `av` and `ar` in it.
        evaluation: evaluation.json of these weights.
        tables: parquet files to publish as a dataset.
        pair: the other half's repository, when one half is published.
        trajectory: checkpoints' folders, each becomes a subfolder of one repository.
        notes: the author's card_notes.md.
        benchmark: a dataset on the Hub that holds the table the evaluation was measured on; of `tables` it is found.
        part: patterns of paths: of the repositories these alone are published, and what else is there stays.
        message: the commit's title begins with it.
        token: that may write; None: this machine's. No option of the command: shells would keep it.
    """

    repo: str
    checkpoint: Path | None = None
    evaluation: Path | None = None
    tables: Sequence[Path] = ()
    pair: str | None = None
    trajectory: Sequence[Path] = ()
    notes: Path | None = None
    licence: str | None = None
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    tag: str | None = None
    collection: str | None = None
    benchmark: str | None = None
    part: Sequence[str] = ()
    message: str | None = None
    token: str | None = field(default=None, repr=False)

    def check(self) -> None:
        """Whether it makes sense, as far as its own words and the files it names can tell.

        Raises:
            InputError: it does not.
        """
        if not (self.checkpoint or self.tables or self.trajectory):
            raise InputError("Nothing to publish: pass --checkpoint, --dataset or --trajectory.")
        if self.checkpoint and self.trajectory:
            raise InputError("A checkpoint and a trajectory are two repositories: publish them one after the other.")
        if self.evaluation and not self.checkpoint:
            raise InputError(
                "--evaluation is of a --checkpoint. Each checkpoint of a --trajectory has its evaluation in its own "
                "folder."
            )
        if self.benchmark and not self.evaluation:
            raise InputError("A benchmark is the dataset that an evaluation was measured on: pass the evaluation too.")
        if self.message is not None and (not self.message.strip() or len(self.message.splitlines()) > 1):
            raise InputError(f"The commit message {self.message!r} is not one line of text, as a title is.")
        if self.create_pr and self.tag:
            raise InputError("A pull request is not tagged: leave --tag out, and tag what becomes of it.")
        if self.create_pr and self.revision not in (None, "main"):
            raise InputError("The Hub opens pull requests on main: leave --revision out, or --create-pr.")
        for name, option in ((self.tag, "--tag"), (self.revision, "--revision")):
            if name is not None:
                refuse_ref_name(name, option)
        if self.repo.count("/") != 1 or not all(self.repo.split("/")):
            raise InputError(f"--repo {self.repo!r} is not OWNER/NAME.")
        _check_licence(self.licence)
        for path in (self.checkpoint, *self.trajectory):
            if path is not None and not path.is_dir():
                found = "is not a folder but a file" if path.exists() else "is not a folder that exists"
                raise InputError(f"{path} {found}; expected a checkpoint (adapter, contract and, of an AR, head).")
        for path in (self.evaluation, self.notes, *self.tables):
            if path is not None and not path.is_file():
                raise InputError(f"{path} {'is a folder; expected a file' if path.is_dir() else 'does not exist'}.")
        for option, paths in (("--dataset", self.tables), ("--trajectory", self.trajectory)):
            counts = Counter(absolute(path).name for path in paths)
            if twice := [name for name, count in counts.items() if count > 1]:
                raise InputError(
                    f"{option}: two are called {twice[0]}, which can be in the repository once. Rename one."
                )

    def repositories(self, halves: Sequence[Half]) -> dict[str, str]:
        """Repository by role: of a pair the stem with -av and -ar, of a single half the name as given.

        Args:
            halves: what the checkpoint holds.
        Raises:
            InputError: the Hub takes no such names.
        """
        names = self._names(halves)
        used = [names[half.contract.role] for half in halves]
        used += [names["data"]] if self.tables else []
        used += [self.repo] if self.trajectory else []
        used += ["/".join(self.pair.split("/")[:2])] if self.pair else []
        used += [self.benchmark] if self.benchmark else []
        _check_names(used)
        return names

    def _names(self, halves: Sequence[Half]) -> dict[str, str]:
        if len(halves) == 2:
            if self.pair:
                raise InputError("--pair names the other half of a single one; this checkpoint holds both.")
            stem = self.repo.removesuffix("-av")
            return {"av": f"{stem}-av", "ar": f"{stem}-ar", "data": f"{stem}-data"}
        names = {"data": f"{self.repo}-data" if halves else self.repo}
        for half in halves:
            role = half.contract.role
            names[role] = self.repo
            if other := self.pair or half.contract.pair:
                names[OTHER[role]] = other
        return names

    def read_notes(self) -> str | None:
        """The author's free text.

        Raises:
            InputError: it is no text. TextError: it holds a NUL, or a second byte order mark.
        """
        try:
            text = self.notes.read_text(encoding=ENCODING) if self.notes else None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.notes} cannot be read as UTF-8 text: {first_line(error)}.") from None
        check_text(text or "", str(self.notes))
        return text


def absolute(path: Path) -> Path:
    """With a name, whatever it was called by (`.`, `..`), and never taken for a repository."""
    return Path(os.path.abspath(path))


def _check_licence(licence: str | None) -> None:
    """`--license` is an id of the Hub's list; without one the base model's is looked up."""
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


def _check_names(names: Iterable[str]) -> None:
    """The Hub takes names like these."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise InputError(f"The Hub takes no repository named {name!r}: {first_line(error)}") from None
        if name.count("/") != 1:
            raise InputError(f"{name!r} is not OWNER/NAME.")
