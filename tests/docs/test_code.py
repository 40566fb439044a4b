"""Code on the site's pages: Python runs on the demo pair, or says in its first line what it needs; commands parse."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CLI = runpy.run_path(str(DOCS / "cli.py"))
PAGES = [file for file in sorted(DOCS.rglob("*.md")) if "demo-cards" not in file.parts]
TEXTS = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
PROSE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)  # what is taken out, so that prose is left
NEEDS = re.compile(r"# needs: \w.{5,}")
WRITTEN = (DOCS / "reference" / "nla.md", DOCS / "reference" / "training.md")  # by docs/cli.py


@dataclass(frozen=True)
class Block:
    """A block of Python, and the line of its page that it stands below."""

    page: str
    line: int
    source: str

    @property
    def runs(self) -> bool:
        """Whether it needs nothing but the demo pair."""
        return not NEEDS.match(self.source)

    @property
    def code(self) -> CodeType:
        """Compiled, so that a traceback names the page and its line."""
        return compile("\n" * self.line + self.source, str(DOCS / self.page), "exec")


def blocks_of(page: str) -> list[Block]:
    found = re.finditer(r"^```python\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)
    return [Block(page, TEXTS[page].count("\n", 0, block.start(1)), block[1]) for block in found]


PYTHON = {page: blocks for page in TEXTS if (blocks := blocks_of(page))}


@pytest.fixture(scope="module")
def demo():
    """What loads pairs, and gives the same demo pair whenever that is asked for. It writes a quarter of what it would:
    a page's code is run, what it shows is looked at elsewhere."""
    from nla_sdk import NLAPair

    load = NLAPair.from_pretrained

    @functools.cache
    def pair() -> NLAPair:
        made = load("demo")
        made.verbalizer.contract = made.verbalizer.contract.replace(max_new_tokens=12)
        return made

    return lambda av, *rest, **how: pair() if av == "demo" and not rest and not how else load(av, *rest, **how)


@pytest.mark.parametrize("page", [page for page, blocks in PYTHON.items() if any(block.runs for block in blocks)])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, demo, monkeypatch, tmp_path):
    from nla_sdk import NLAPair

    monkeypatch.setattr(NLAPair, "from_pretrained", demo)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in PYTHON[page]:
        if block.runs:
            exec(block.code, names)


@pytest.mark.parametrize("page", PYTHON)
def test_python_that_needs_more_than_the_demo_pair_says_so_in_its_first_line(page):
    for block in PYTHON[page]:
        assert block.code
        assert max(map(len, block.source.splitlines())) <= 120
        assert "# needs:" not in block.source.partition("\n")[2]


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a block of bash; a loop's for each of its values."""
    if loop := re.search(r"for (\w+) in ([^;]+);", block):
        for value in loop[2].split():
            yield from commands(block.replace(loop[0], "").replace(f"${loop[1]}", value))
        return
    lines = re.sub(r"\\\n", " ", block)
    lines = re.sub(r"(^|\s)#.*", r"\1", lines)  # shlex takes REF#12 for a comment
    for line in lines.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "||", "|", "do", "done"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def is_ours(words: list[str]) -> bool:
    return words[0] == "nla" or (words[:2] == ["python", "-m"] and " ".join(words[2:3]).startswith("training."))


def command_of(words: list[str]) -> tuple[object, list[str]]:
    """A command of ours and its arguments."""
    if words[0] == "nla":
        return CLI["nla"](), words[1:]
    return CLI["module"](words[2].removeprefix("training.")), words[3:]


def parse(command, name: str, arguments: list[str]) -> None:
    """Read arguments as the command line does, without running anything."""
    with command.make_context(name, list(arguments)) as context:
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if rest and hasattr(command, "commands"):
            sub, below, rest = command.resolve_command(context, rest)
            below.make_context(sub, rest, parent=context).close()
        else:
            assert not rest


BLOCKS = {
    page: [
        words
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for words in commands(block)
        if is_ours(words)
    ]
    for page, text in TEXTS.items()
}
SENTENCES = {
    page: [
        words
        for span in re.findall(r"`((?:nla |python -m training\.\w)[^`]*)`", PROSE.sub("", text))
        if is_ours(words := span.replace("…", "").split())
    ]
    for page, text in TEXTS.items()
    if DOCS / page not in WRITTEN
}


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if found])
def test_the_commands_of_a_pages_blocks_are_ones_that_there_are(page):
    for words in BLOCKS[page]:
        command, arguments = command_of(words)
        parse(command, words[0], arguments)


@pytest.mark.parametrize("page", [page for page, found in SENTENCES.items() if found])
def test_commands_in_sentences_have_the_options_that_stand_there(page):
    """They may lack others, such as INPUT."""
    for words in SENTENCES[page]:
        command, arguments = command_of(words)
        while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known, words


def test_commands_are_found_in_a_block_as_a_shell_finds_them():
    assert list(commands("pip install x && nla explain f#12 --sign ± \\\n -o 'a b' | head # x")) == [
        ["pip", "install", "x"],
        ["nla", "explain", "f#12", "--sign", "±", "-o", "a b"],
        ["head"],
    ]
    assert list(commands("for s in x y; do nla $s; done")) == [["nla", "x"], ["nla", "y"]]


def test_there_is_much_to_check():
    assert sum(map(len, BLOCKS.values())) > 50 and sum(map(len, SENTENCES.values())) > 30
    assert sum(block.runs for blocks in PYTHON.values() for block in blocks) >= 10


@pytest.mark.parametrize(
    "line", ["nla explain x --no-such", "nla explian x", "nla explain", "nla explain x --layer one"]
)
def test_a_command_that_does_not_exist_is_found(line):
    words = line.split()
    with pytest.raises(Exception, match="(?i)no such|missing|valid"):
        parse(command_of(words)[0], "nla", words[1:])
