"""Writes the tables of known releases into releases.md and README.md, from the data itself: `python docs/releases.py`.

The prose around the tables is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from nla_sdk.cli.releases import grouped
from nla_sdk.contract.releases.catalogue import Release, families, releases

PAGE = Path(__file__).with_suffix(".md")
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- releases: written by docs/releases.py -->\n", "<!-- end of releases -->\n"


def page(text: str) -> str:
    """releases.md with a section a family."""
    return _between(text, "\n".join(section(family, about) for family, about in families().items()))


def readme(text: str) -> str:
    """README with one line a family of which something loads."""
    lines = ["| family | base models | loads |", "|---|---|---|"]
    for family in families():
        of_it = _of(family)
        bases = dict.fromkeys(str(one.facts["base_model"]).rpartition("/")[2] for one in of_it if one.runnable)
        if bases:
            kinds = sorted({one.kind for one in of_it if one.runnable}, reverse=True)
            named = ", ".join([*bases][:4]) + (f" and {len(bases) - 4} more" if len(bases) > 4 else "")
            lines.append(f"| {family} | {named} | {sum(one.runnable for one in of_it)} {' and '.join(kinds)} |")
    return _between(text, "\n".join(lines) + "\n")


def section(family: str, about: str) -> str:
    """A family: what it takes, its releases, what is wrong with some, what of others is known."""
    lines = [
        f"## {family}",
        "",
        about,
        "",
        "| release | base | layer | how | loads | evidence |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(one) for one in _of(family)]
    notes: dict[str, list[str]] = {}
    for one in _of(family):
        for note in filter(None, (*one.faults, one.known)):
            notes.setdefault(note.rstrip("."), []).append(f"`{name(one)}`")
    lines += [""] if notes else []
    return "\n".join([*lines, *(f"- {', '.join(names)}: {note}." for note, names in notes.items())]) + "\n"


def name(release: Release) -> str:
    """Repository and the pattern of its subfolders."""
    return f"{release.repo}/{release.subfolder}" if release.subfolder not in (None, "*") else release.repo


def _of(family: str) -> list[Release]:
    return [release for release in releases() if release.family == family]


def _row(release: Release) -> str:
    facts = release.facts
    layer = facts.get("layers") or facts.get("layer", "?")
    layer = ", ".join(map(str, layer)) if isinstance(layer, list) else layer
    if release.unsupported:
        loads = "no"
    elif release.missing:
        loads = f"lacks {grouped(release.missing)}"
    else:
        loads = "yes"
    cells = (f"`{name(release)}`", facts.get("base_model", "?"), layer, how(release), loads, release.evidence)
    return f"| {' | '.join(map(str, cells))} |"


def how(release: Release) -> str:
    """Kind, weights, injection or reading, prompt and output, as far as they are known."""
    facts = release.facts
    weights, injection, ar = (facts.get(block) or {} for block in ("weights", "injection", "ar"))
    said = [f"{release.kind} {weights.get('kind', '')}".strip()]
    if weights.get("adapters"):
        said.append(f"active together: {' + '.join(weights['adapters'])}")
    if weights.get("parent"):
        said.append(f"on {weights['parent']}")
    if release.kind != "AR" and injection.get("site"):
        place = "embedding" if injection["site"] == "embedding" else f"block {injection.get('block', '?')}"
        size = f" {injection['scale']:g}" if "scale" in injection else ""
        several = ", several vectors" if injection.get("markers") == "any" else ""
        said.append(f"{injection.get('rule', '?')} at {place}, norm {injection.get('norm', '?')}{size}{several}")
    if ar:
        norm = f"final norm {ar['final_norm']}" if "final_norm" in ar else "final norm as ar_meta.json says"
        bos = "BOS" if ar.get("bos") else "no BOS"
        said.append(f"{facts.get('ar_num_blocks', '?')} blocks, {norm}, {bos}, state {ar.get('state', 'raw')}")
        said += [f"reads at the {ar['position']}"] if ar.get("position", "last") != "last" else []
        said += [{"per_layer": "a head per layer", "none": "no head"}[ar["heads"]]] if ar.get("heads") != "one" else []
        said += ["target centred"] if ar.get("target") == "centred" else []
    said += [f"{facts['prompt_style']} prompt"] if "prompt_style" in facts else []
    said += [f"output {facts['output']['form']}"] if "form" in (facts.get("output") or {}) else []
    return "; ".join(said)


def _between(text: str, table: str) -> str:
    before, rest = text.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


if __name__ == "__main__":
    for file, written in ((PAGE, page), (README, readme)):
        file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
