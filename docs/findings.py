"""Writes findings.md from the heads of findings/*.sh and the lines of findings/README.md: `python docs/findings.py`.

The prose around them is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
SCRIPTS = Path(__file__).parent.parent / "findings"
BEGIN, END = "<!-- findings: written by docs/findings.py -->\n", "<!-- end of findings -->\n"
PARTS = ("Expected", "Happens", "Matters", "Seen")


def page(text: str) -> str:
    """The page's text with the findings as the scripts' heads have them now."""
    before, rest = text.split(BEGIN)
    lines = ["| tool and version | what it does | |", "|---|---|---|"]
    lines += [f"| {tool} | {behaviour} | [{name}](#{name}) |" for name, tool, behaviour in listed()]
    body = "\n".join(lines) + "\n\n" + "\n".join(section(name) for name, _, _ in listed())
    return before + BEGIN + body + END + rest.split(END)[1]


def listed() -> list[tuple[str, str, str]]:
    """Script, tools and behaviour of each line of the README's table."""
    text = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| \[[\w-]+\]\(([\w-]+)\.sh\) \| (.*?) \| (.*) \|$", text, flags=re.MULTILINE)


def section(name: str) -> str:
    """A script's head: what it is of, what one expects, what happens, why it matters, what was seen."""
    head = read(SCRIPTS / f"{name}.sh")
    lines = [f"## {name}", "", f"{literal(head['of'])}. Script: `findings/{name}.sh`.", ""]
    lines += [f"- **{part}**: {literal(' '.join(head[part].split()))}" for part in PARTS[:-1]]
    return "\n".join([*lines, "", "```text", head["Seen"], "```", ""])


def read(script: Path) -> dict[str, str]:
    """The parts of a script's head, by PARTS, and `of`: the tools and versions of its first line."""
    _, first, *lines = script.read_text(encoding="utf-8").splitlines()
    found = {"of": first.removeprefix("# ")}
    part = ""
    for line in lines:
        if not line.startswith("#"):
            break
        if began := re.match(rf"# ({'|'.join(PARTS)}): *(.*)", line):
            part = began[1]
            found[part] = began[2]
        elif part:
            found[part] += "\n" + line.removeprefix("#").removeprefix(" ")
    return {name: text.strip("\n") for name, text in found.items()}


def literal(text: str) -> str:
    """Text of a head as Markdown takes it literally; addresses become links."""
    text = re.sub(r"([\\*_<\[\]])", r"\\\1", text)
    return re.sub(r"https?://[^\s)]+[^\s).,;]", lambda link: f"<{link[0]}>".replace("\\", ""), text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
