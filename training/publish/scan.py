"""Nothing private leaves this machine: what is staged is searched for names, paths, tokens and addresses.

Refused anywhere: access tokens (Hugging Face, OpenAI, Anthropic, Google, AWS) and this machine's host name, user name
and home folder. Refused outside text that is published as text (a corpus, explanations): anybody's home folder, and
e-mail addresses, which only author notes, the citation and licence files may hold. Tokenizer and vocabulary files are
not searched: every short string is in one.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOKENS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b|\bapi_org_[A-Za-z0-9]{30,}\b",
    "an Anthropic key": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "an OpenAI key": r"\bsk-(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:aws.{0,20}secret.{0,20}['\"=: ][A-Za-z0-9/+]{40}\b)",
}
HOMES = {
    "a home folder": r"(?<![\w.])/(?:home|Users)/[A-Za-z0-9._-]+|(?<![\w./])/root/[\w.-]+"
    r"|\b[A-Za-z]:\\{1,4}Users\\{1,4}[^\\/:*?\"<>|\s]+",
}
EMAIL = {"an e-mail address": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"}
# Names so common that finding one says nothing of this machine.
COMMON = {
    "root",
    "user",
    "users",
    "home",
    "admin",
    "ubuntu",
    "debian",
    "runner",
    "nobody",
    "localhost",
    "local",
    "test",
}

EXEMPT = re.compile(r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|spiece|sentencepiece).*", re.IGNORECASE)
LICENCES = re.compile(r"(licen[cs]e|notice|citation|.*_terms).*", re.IGNORECASE)
# Columns whose strings are published as text.
TEXTS = {
    "detokenized_text_truncated",
    "text_without_end",
    "api_explanation",
    "explanation",
    "explanation_raw",
    "label",
    "prompt",
    "response",
    "text",
}
# Where a card may show an address: its author's notes and its citation.
ADDRESSES_ALLOWED = re.compile(
    r"<!-- notes -->.*?<!-- /notes -->|<!-- keep -->.*?<!-- /?keep -->|```bibtex.*?```", re.DOTALL
)
_RUN = re.compile(rb"[\x20-\x7e\t\n]{6,}")  # readable runs of a binary file


@dataclass(frozen=True)
class Finding:
    """Something that must not be published: what, and where. The secret itself is not repeated."""

    file: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}{f', {self.place}' if self.place else ''}: {self.what}"


def this_machine() -> dict[str, str]:
    """Patterns of this machine's own names; common ones (root, localhost) are left out."""
    names: dict[str, set[str]] = {"this machine's host name": set(), "this machine's user name": set()}
    host = socket.gethostname()
    names["this machine's host name"] |= {host, host.split(".")[0]}
    try:
        names["this machine's user name"].add(getpass.getuser())
    except (KeyError, OSError):  # a container's user without an entry
        names["this machine's user name"] |= {os.environ.get("USER", ""), os.environ.get("USERNAME", "")}
    found = {}
    for what, values in names.items():
        kept = sorted(value for value in values if len(value) > 2 and value.lower() not in COMMON)
        if kept:
            found[what] = r"(?<![\w-])(?:" + "|".join(map(re.escape, kept)) + r")(?![\w-])"
    home = str(Path.home())
    if len(home) > 1 and Path.home().name.lower() not in COMMON:  # /root says nothing of this machine
        forms = {re.escape(home), re.escape(home.replace("\\", "\\\\"))}
        found["this machine's home folder"] = rf"(?:{'|'.join(sorted(forms))})(?![\w-])"
    return found


class Scanner:
    """Searches staged files.

    Example:
        >>> [str(one) for one in Scanner().text("card.md", "mail me: ada@example.org")]
        ['card.md, line 1: an e-mail address']
    """

    def __init__(self) -> None:
        own = this_machine()
        self._always = {what: re.compile(pattern) for what, pattern in (TOKENS | own).items()}
        self._outside_texts = {what: re.compile(pattern) for what, pattern in (HOMES | EMAIL).items()}

    def folder(self, folder: Path) -> list[Finding]:
        """Everything found in a staged folder."""
        found: list[Finding] = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            found += self.text(name, name)  # a file's own name
            found += self.file(file, name)
        return found

    def file(self, file: Path, name: str) -> list[Finding]:
        if EXEMPT.fullmatch(file.name):
            return []
        if file.suffix == ".parquet":
            return list(self._parquet(file, name))
        if file.suffix == ".safetensors":
            return self.text(name, _safetensors_strings(file), place="header")
        data = file.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = "\n".join(run.decode("ascii") for run in _RUN.findall(data))
            return self.text(name, text, place="strings")
        return self.text(name, text, licence=bool(LICENCES.fullmatch(file.name)))

    def text(
        self, name: str, text: str, *, place: str = "", licence: bool = False, published: bool = False
    ) -> list[Finding]:
        """What a text holds that must stay here.

        Args:
            place: where in the file, if lines say nothing.
            licence: a licence or notice, which may name addresses.
            published: text that is published as text: only tokens and this machine's names are looked for.
        """
        patterns = dict(self._always)
        if not published:
            patterns |= self._outside_texts
        found = []
        for what, pattern in patterns.items():
            if what in EMAIL:
                if licence:
                    continue
                searched = ADDRESSES_ALLOWED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
            else:
                searched = text
            if match := pattern.search(searched):
                where = place or (
                    f"line {searched.count(chr(10), 0, match.start()) + 1}" if text != name else "its name"
                )
                found.append(Finding(name, where, what))
        return found

    def _parquet(self, file: Path, name: str) -> Iterator[Finding]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file)
        metadata = {**(table.schema_arrow.metadata or {}), **(table.metadata.metadata or {})}
        for key, value in metadata.items():
            if key != b"ARROW:schema":
                yield from self.text(name, (key + b" " + value).decode("utf-8", "replace"), place="metadata")
        strings = [
            field.name
            for field in table.schema_arrow
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        done: set[tuple[str, str]] = set()
        for batch in table.iter_batches(columns=strings, batch_size=4096):
            for column in strings:
                values = "\n".join(value for value in batch[column].to_pylist() if value)
                for one in self.text(name, values, place=f"column {column}", published=column in TEXTS):
                    if (one.place, one.what) not in done:
                        done.add((one.place, one.what))
                        yield one


def _safetensors_strings(file: Path) -> str:
    """The header's JSON: tensor names and metadata."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            return json.dumps(json.loads(stream.read(min(length, 100_000_000))))
        except ValueError:
            return ""
