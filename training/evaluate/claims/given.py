"""What `--texts` and `--published` name: the rows' source texts, and figures that others published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from nla_sdk.claims.words import token_class
from nla_sdk.errors import InputError
from nla_sdk.evaluation.claims import PublishedFigure, TokenClassName
from nla_sdk.io.files import sha256_of
from nla_sdk.io.parsing import parse_yaml
from nla_sdk.io.tables import read_table, texts_of
from nla_sdk.io.text import check_text

from ..heldout import TEXT, Heldout

INPUT = "texts"  # their name among an evaluation's inputs


@dataclass(frozen=True)
class Texts:
    """The source text of every row, up to the position that its activation was read at.

    Attributes:
        of_rows: in the rows' order.
        digest: SHA-256 of the file that they are from; None: the data's own.
    """

    of_rows: Sequence[str]
    digest: str | None = None

    def classes(self, tokenizer) -> list[TokenClassName]:
        """The class of the last token of each text (`nla_sdk.claims.words.token_class`)."""
        ids = tokenizer(list(self.of_rows), add_special_tokens=False)["input_ids"]
        last = [tokenizer.decode(one[-1:], skip_special_tokens=True) for one in ids]
        return [token_class(token, len(one) - 1) for token, one in zip(last, ids, strict=True)]


def texts_for(heldout: Heldout, file: Path | None) -> Texts | None:
    """The texts of the data, or of a file beside them; None where neither has any.

    Args:
        file: parquet with row_id, doc_id and detokenized_text_truncated; nothing of it is kept but its SHA-256.
    Raises:
        InputError: the data have texts themselves; columns are missing; a row has two texts, or none, or the text of
            another position (n_raw_tokens, where both say): names the first.
        TextError: a text holds what is no text.
    """
    if file is None:
        return None if heldout.texts is None else Texts(heldout.texts)
    if heldout.texts is not None:
        raise InputError(
            f"{heldout.path} has the texts of its rows; leave --texts out, or evaluate data without texts."
        )
    if not file.is_file():
        raise InputError(f"{file} does not exist; expected a parquet table with row_id, doc_id and {TEXT}.")
    table = read_table(file)
    if missing := [name for name in ("row_id", "doc_id", TEXT) if name not in table.column_names]:
        raise InputError(f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    tokens = table["n_raw_tokens"].to_pylist() if "n_raw_tokens" in table.column_names else [None] * len(table)
    names = [table[name].to_pylist() for name in ("doc_id", "row_id")]
    found: dict[tuple[str, str], tuple[str, int | None]] = {}
    for at, text in enumerate(texts_of(table, TEXT, name=str(file))):
        key, said = (str(names[0][at]), str(names[1][at])), (text or "", tokens[at])
        check_text(said[0], f"{file}, row {at}: {TEXT}")
        if found.setdefault(key, said) != said:
            raise InputError(f"{file} has two texts for row_id {key[1]!r} of document {key[0]!r}; expected one.")
    texts = []
    for at, (document, name) in enumerate(zip(heldout.documents, heldout.row_ids, strict=True)):
        # Where two documents have the same row_ids, `Heldout` has put the document's before them.
        text, count = found.get((document, name)) or found.get(
            (document, name.removeprefix(f"{document}:")), ("", None)
        )
        if not text:
            raise InputError(
                f"{file} has no text for row_id {name!r} of document {document!r} of {heldout.path.name}; expected one "
                "of every row. Pass the table that these rows were taken from."
            )
        if heldout.tokens is not None and count not in (None, heldout.tokens[at]):
            raise InputError(
                f"{file} has {count} tokens of row_id {name!r}, {heldout.path.name} {heldout.tokens[at]} "
                "(n_raw_tokens): the text is not up to the position that the activation was read at."
            )
        texts.append(text)
    return Texts(texts, sha256_of(file))


def published(file: Path) -> list[PublishedFigure]:
    """Figures that others published, from a YAML list (`what`, `value`, `n`, `of`, `source` of each).

    Raises:
        InputError: no such file, no such list, or an entry without its source; names the entry.
    """
    try:
        entries = parse_yaml(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}; expected a YAML list of published figures."
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file} holds no list; expected figures with what, value, n, of and source.")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(PublishedFigure.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the entry"
            raise InputError(f"{file}, entry {number}: {where}: {first['msg']}.") from None
    return found
