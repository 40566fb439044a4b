"""Nothing private leaves this machine: what is staged is searched for names, paths, tokens and addresses.

Refused anywhere: access tokens (Hugging Face, OpenAI, Anthropic, Google, AWS), private keys, and this machine's host
name and home folder. Refused outside text that is published as text (a corpus, explanations): this machine's user name,
anybody's home folder, and e-mail addresses, which only author notes, the citation and licence files may hold.
Vocabulary files are not searched: every short string is in one. What escapes hide (`\\n`, `\\/`, `\\u0434`) is found.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# What a token or a name begins after: no letter or digit, or one that belongs to a percent escape (%3D).
START = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))"
TOKENS = {
    "a Hugging Face token": r"hf_[A-Za-z0-9]{30,}|hf_(?:oauth|jwt)_[A-Za-z0-9._-]{20,}|api_org_[A-Za-z0-9]{30,}",
    "an Anthropic key": START + r"sk-ant-[A-Za-z0-9_-]{20,}",
    "an OpenAI key": START + r"sk-(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}",
    "a Google key": START + r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})",
    "an AWS key": START + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|(?i:(?:aws.{0,20}secret|secret_?access_?key).{0,20}['\"=: ][A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
}
HOMES = {
    # At a path's beginning or below mounts (/nfs/home/…, /mnt/c/Users/…); not inside an address (site.org/home/…).
    "a home folder": r"(?:(?<![\w.])|(?<=-[IL]))/(?:home|Users)/[\w.-]+"
    r"|(?<![\w./-])/(?:[\w.-]+/){1,3}(?:home|Users)/[\w.-]+"
    r"|(?<![\w./])/root/[\w.-]+"
    r"|(?i:\b[A-Z]:(?:\\{1,4}|/)Users(?:\\{1,4}|/)[^\\/:*?\"<>|\s]+)",
}
EMAIL = {"an e-mail address": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"}
HOST, USER, HOME = "this machine's host name", "this machine's user name", "this machine's home folder"
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

SHORT = 5  # letters of a user name below which it is searched inside paths only: "max" and "will" are words

# Not tokenizer_config.json: it holds no vocabulary, and often the folder the tokenizer was loaded from.
EXEMPT = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|spiece|sentencepiece(\.bpe)?"
    r"|chat_template)\.(json|txt|model|jinja)"
)
# Pages of others that must go along word for word: Google's terms of Gemma, as saved, hold that page's own web key.
KNOWN_PAGES = frozenset({"152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"})
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
# What JSON and YAML write for a line break, a tab, a slash and other letters.
ESCAPED = re.compile(r"\\+(?:([nrt])|(/)|u([0-9a-fA-F]{4}))")
_RUN = re.compile(rb"[\x20-\x7e\t\n]{6,}")  # readable runs of a binary file


@dataclass(frozen=True)
class Finding:
    """Something that must not be published: what, and where. The secret itself is not repeated."""

    file: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}{f', {self.place}' if self.place else ''}: {self.what}"


def this_machine(public: Iterable[str] = ()) -> dict[str, str]:
    """Patterns of this machine's own names.

    Args:
        public: repository ids; a name that is part of one is public already. Common names (root, localhost) are left
            out too.
    """
    published = "\n".join(public).lower()
    host = socket.gethostname()
    users = set()
    try:
        users.add(getpass.getuser())
    except (KeyError, OSError):  # a container's user without an entry
        users |= {os.environ.get("USER", ""), os.environ.get("USERNAME", "")}

    def kept(names: set[str]) -> list[str]:
        return sorted(
            name for name in names if len(name) > 2 and name.lower() not in COMMON and name.lower() not in published
        )

    patterns = {}
    if hosts := kept({host, host.split(".")[0]}):
        patterns[HOST] = rf"(?i:(?<![\w-])(?:{'|'.join(map(re.escape, hosts))})(?![\w-]))"
    if users := kept(users):
        inside = r"(?<=[/\\@])|(?=\w+@)"
        patterns[USER] = "|".join(
            rf"(?i:{f'(?:{inside})' if len(name) < SHORT else ''}(?<![\w-]){re.escape(name)}(?![\w-]))"
            for name in users
        )
    home = str(Path.home())
    if len(home) > 1 and Path.home().name.lower() not in COMMON:  # /root says nothing of this machine
        forms = {re.escape(home), re.escape(home.replace("\\", "\\\\"))}
        patterns[HOME] = rf"(?:{'|'.join(sorted(forms))})(?![\w-])"
    return patterns


class Scanner:
    """Searches staged files.

    Args:
        public: the repositories that are published to.
    Example:
        >>> [str(finding) for finding in Scanner().text("card.md", "mail me: ada@example.org")]
        ['card.md, line 1: an e-mail address']
    """

    def __init__(self, public: Iterable[str] = ()) -> None:
        own = this_machine(public)
        outside_texts = {USER: own.pop(USER)} if USER in own else {}
        self._always = {what: re.compile(pattern) for what, pattern in (TOKENS | own).items()}
        self._outside_texts = {what: re.compile(pattern) for what, pattern in (outside_texts | HOMES | EMAIL).items()}
        self._in_texts: Counter[tuple[str, str]] = Counter()

    def folder(self, folder: Path) -> list[Finding]:
        """Everything found in a staged folder."""
        findings: list[Finding] = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            findings += self.text(name, name)  # a file's own name
            findings += self.file(file, name)
        return findings

    def file(self, file: Path, name: str) -> list[Finding]:
        """Everything found in one file.

        Args:
            name: its path in the repository.
        """
        if EXEMPT.fullmatch(file.name):
            return []
        if file.suffix == ".parquet":
            return list(self._parquet(file, name))
        if file.suffix == ".safetensors":
            return self.text(name, _safetensors_strings(file), place="header")
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() in KNOWN_PAGES:
            return []
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
        findings = []
        for what, pattern in patterns.items():
            searched = text
            if what in EMAIL:
                if licence:
                    continue
                if PurePosixPath(name).name == "README.md":
                    searched = ADDRESSES_ALLOWED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
            for form in (searched, unescaped(searched)):
                if match := pattern.search(form):
                    line = f"line {form.count(chr(10), 0, match.start()) + 1}"
                    findings.append(Finding(name, place or (line if text != name else "its name"), what))
                    break
        return findings

    def seen_in_texts(self) -> list[str]:
        """What the tables searched so far hold in text that is published as text, for the author to know."""
        return [
            f"{place}: {what} (found {count}×) in text that is published as it is"
            for (place, what), count in sorted(self._in_texts.items())
        ]

    def _parquet(self, file: Path, name: str) -> Iterator[Finding]:
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file)
        metadata = {**(table.schema_arrow.metadata or {}), **(table.metadata.metadata or {})}
        for key, value in metadata.items():
            if key != b"ARROW:schema":
                yield from self.text(name, (key + b" " + value).decode("utf-8", "replace"), place="metadata")
        columns = [table.schema.column(index).path for index in range(len(table.schema))]
        yield from self.text(name, "\n".join(columns), place="column names")
        wanted = [field.name for field in table.schema_arrow if _may_hold_text(field.type)]
        done: set[tuple[str, str]] = set()
        in_texts: Counter[tuple[str, str]] = Counter()
        for batch in table.iter_batches(columns=wanted, batch_size=4096):
            for column in wanted:
                values = "\n".join(_strings(batch[column]))
                published = column in TEXTS
                if published:
                    for what, pattern in self._outside_texts.items():
                        if what != USER and (count := len(pattern.findall(values))):
                            in_texts[f"{name}, column {column}", what] += count
                for finding in self.text(name, values, place=f"column {column}", published=published):
                    if (finding.place, finding.what) not in done:
                        done.add((finding.place, finding.what))
                        yield finding
        self._in_texts |= in_texts  # the larger count: both halves hold the same rows


def unescaped(text: str) -> str:
    """The text with its escapes read, in the same lines."""

    def read(match: re.Match) -> str:
        return "  " if match[1] else "/" if match[2] else chr(int(match[3], 16)).replace("\n", " ")

    return ESCAPED.sub(read, text)


def _may_hold_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings or bytes, however deep."""
    import pyarrow.types as of

    if of.is_dictionary(kind):
        return _may_hold_text(kind.value_type)
    if of.is_nested(kind):
        return any(_may_hold_text(kind.field(index).type) for index in range(kind.num_fields))
    return not (of.is_primitive(kind) or of.is_null(kind))


def _strings(array: pa.Array) -> Iterator[str]:
    """All strings of a column; bytes as far as they are text."""
    stack = array.to_pylist()
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, bytes):
            yield value.decode("utf-8", "replace")
        elif isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            stack += value


def _safetensors_strings(file: Path) -> str:
    """The header's JSON: tensor names and metadata."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            return json.dumps(json.loads(stream.read(min(length, 100_000_000))), ensure_ascii=False)
        except ValueError:
            return ""
