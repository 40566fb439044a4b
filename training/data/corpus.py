"""Reading corpora: JSONL, parquet, a folder of files, or a Hub dataset, one text at a time, always in the same order.

Each text comes with the id of its document, because everything later is split by document. A folder's `.txt` and `.md`
files are documents named by their path; rows of the other kinds carry an id in a field, or `doc_id: null` in the config
says that every text is a document of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nla_sdk.errors import InputError, RepositoryError, first_line
from nla_sdk.halves.hub.errors import hub_errors
from nla_sdk.io.files import sha256_of
from nla_sdk.io.parsing import parse_json
from nla_sdk.io.tables import batches_of, open_parquet
from nla_sdk.io.text import BOM, ENCODING, fault_of, not_utf8, refuse_pointer

from ..configs.data import CorpusSource
from .tables.splits import share_of

PLAIN = (".txt", ".md")
TABULAR = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Text:
    """One text of a corpus.

    Attributes:
        doc_id: the document it belongs to.
        text: as it stands in the corpus.
        family: what kind of text it is, if the corpus says.
        where: file and row, for messages.
    """

    doc_id: str
    text: str
    family: str | None = None
    where: str = ""

    @property
    def fault(self) -> str | None:
        """What of it is no text, as `nla_sdk.io.text.FAULTS` names it."""
        names = fault_of(self.doc_id + (self.family or ""))
        return "half_surrogate" if names == "half_surrogate" else fault_of(self.text)


class Corpus:
    """One source of a config, ready to be read any number of times.

    Args:
        source: what to read; see `CorpusSource`.
        seed: of the choice of documents when `source.share` is below 1.
    Raises:
        InputError: there is nothing there, or it is of no kind that can be read.
    """

    def __init__(self, source: CorpusSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed
        path = Path(source.corpus)
        self.folder = path if path.is_dir() else None
        if path.is_dir():
            self.files = sorted(file for file in path.rglob("*") if file.suffix in PLAIN + TABULAR and file.is_file())
            if not self.files:
                raise InputError(f"{path} holds no {', '.join(PLAIN + TABULAR)} file: nothing to read.")
        elif path.is_file():
            if path.suffix not in PLAIN + TABULAR:
                raise InputError(f"{path}: expected a {', '.join(PLAIN + TABULAR)} file, or a folder of them.")
            self.files = [path]
        elif _looks_like_a_hub_id(source.corpus):
            self.files = []
        else:
            raise InputError(
                f"The corpus {source.corpus} does not exist. Put text files into a folder of that name, or change "
                "extract.sources in the config: a .jsonl or .parquet file, a folder, or a Hub dataset id (OWNER/NAME)."
            )

    def fingerprint(self) -> dict:
        """What was read, for sidecars and for telling one corpus from another: SHA-256s, or the dataset's commit."""
        if not self.files:
            from huggingface_hub import HfApi

            name, revision = self.source.corpus, self.source.revision
            try:
                with hub_errors(f"datasets/{name}", revision):
                    commit = HfApi().dataset_info(name, revision=revision).sha
            except RepositoryError as error:
                raise _unreachable(name, error) from error
            return {"dataset": self.source.corpus, "commit": commit, "split": self.source.split}
        if self.folder is None:
            return {self.files[0].name: sha256_of(self.files[0])}
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.relative_to(self.folder).as_posix()}\0{sha256_of(file)}\n".encode())
        return {f"{self.folder.name}/ ({len(self.files)} files)": digest.hexdigest()}

    def length(self) -> int | None:
        """About how many texts there are, for progress bars; None if only reading would tell."""
        if not self.files:
            return self.source.limit
        count = 0
        for file in self.files:
            if file.suffix == ".parquet":
                count += open_parquet(file).metadata.num_rows
            elif file.suffix == ".jsonl":
                with file.open("rb") as lines:
                    count += sum(1 for line in lines if line.strip())
            else:
                count += 1
        return min(round(count * self.source.share), self.source.limit or count)

    def __iter__(self) -> Iterator[Text]:
        """The texts, in the order of the files and of their lines.

        Raises:
            InputError: a row without text or id; the message names file and row.
        """
        read = 0
        for text in self._all():
            if not text.text.strip():
                continue
            if self.source.share < 1 and share_of(text.doc_id, f"corpus|{self.seed}") >= self.source.share:
                continue
            yield text
            read += 1
            if read == self.source.limit:
                return

    def _all(self) -> Iterator[Text]:
        if not self.files:
            yield from self._hub()
        for file in self.files:
            if file.suffix in PLAIN:
                yield Text(self._name(file), _read_text(file), self._family(file), str(file))
            elif file.suffix == ".jsonl":
                yield from self._rows(_json_lines(file), file)
            else:
                yield from self._rows(_parquet_rows(file, self._fields()), file)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix() if self.folder else file.name

    def _family(self, file: Path) -> str | None:
        """A file's first folder is its family: corpus/fiction/book.txt is fiction."""
        parts = file.relative_to(self.folder).parts if self.folder else ()
        return parts[0] if len(parts) > 1 else None

    def _fields(self) -> list[str]:
        return [name for name in (self.source.text, self.source.doc_id, self.source.family) if name]

    def _rows(self, rows: Iterator[tuple[int, dict]], where: object) -> Iterator[Text]:
        source = self.source
        for number, row in rows:
            text = row.get(source.text) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise InputError(f"{where}, row {number}: {_instead_of_text(row, source.text)}.")
            if source.doc_id is None:
                doc_id = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
            elif (doc_id := row.get(source.doc_id)) in (None, ""):
                raise InputError(
                    f"{where}, row {number}: no {source.doc_id!r}, which says what document the text is from (found "
                    f"{', '.join(row)}). Name the field that does with doc_id: under extract.sources, or write "
                    "doc_id: null if every text is a document of its own."
                )
            family = row.get(source.family)
            yield Text(str(doc_id), text, None if family is None else str(family), f"{where}, row {number}")

    def _hub(self) -> Iterator[Text]:
        try:
            from datasets import load_dataset
        except ImportError:
            raise InputError(
                f"Reading the Hub dataset {self.source.corpus} needs datasets: pip install 'nla-sdk[train]'."
            ) from None
        source = self.source
        try:
            rows = load_dataset(
                source.corpus, source.config, split=source.split, revision=source.revision, streaming=True
            )
            yield from self._rows(enumerate(rows), source.corpus)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise _unreachable(source.corpus, error) from error


def _instead_of_text(row: object, field: str) -> str:
    """What stands where a text is expected."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}; expected an object with {field!r}"
    if field not in row:
        return f"expected an object with {field!r} (found {', '.join(row)})"
    found = "null" if row[field] is None else f"a {type(row[field]).__name__}"
    return f"{field!r} is {found}; expected a text. Leave the row out, or name another field with text: in the config"


def _looks_like_a_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _unreachable(name: str, error: Exception) -> InputError:
    return InputError(
        f"The corpus {name} is neither a file or folder here nor a Hub dataset that can be read: {first_line(error)}"
    )


def _read_text(file: Path) -> str:
    try:
        text = file.read_text(encoding=ENCODING)
    except UnicodeDecodeError as error:
        raise InputError(f"{file} {not_utf8(file, error)}. Convert it or move it away.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}. Convert it or move it away.") from error
    refuse_pointer(text, str(file))
    return text


def _json_lines(file: Path) -> Iterator[tuple[int, dict]]:
    try:
        with file.open(encoding=ENCODING) as lines:
            for number, line in enumerate(lines, 1):
                line = line.removeprefix(BOM)  # of a file that was appended to this one
                if line.strip():
                    yield number, parse_json(line)
    except UnicodeDecodeError as error:
        raise InputError(f"The corpus {file} {not_utf8(file, error)}.") from error
    except OSError as error:
        raise InputError(f"Cannot read the corpus {file}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{file}, row {number}: not a line of JSON ({error}).") from error


def _parquet_rows(file: Path, fields: list[str]) -> Iterator[tuple[int, dict]]:
    names = open_parquet(file).schema_arrow.names
    number = 0
    present = [name for name in fields if name in names]
    for batch in batches_of(file, 1024, present):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:  # Arrow reads such files, and looks at no text
            raise InputError(
                f"{file}, rows {number} to {number + len(batch) - 1}: a text is not UTF-8: {error}."
            ) from None
        for row in rows:
            yield number, row
            number += 1
