"""What labels are like: how they open, how long they are, how much they copy; as JSON and as a picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nla_sdk.io.files import atomic, hash64, write_json
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.tables import open_parquet, require_texts

from .labelled import in_steps

FILE = "label_report.json"
FIGURE = "label_report.png"
STEM_WORDS = 3
STEMS_SHOWN = 10
COLUMNS = ("api_explanation", "detokenized_text_truncated", "labeler_model", "label_status")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_QUOTE = re.compile(r'"([^"]+)"|“([^”]+)”')


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared: case and punctuation don't count."""
    return _WORD.findall(text.casefold())


def longest_copy(text: str, explanation: str) -> int:
    """Words of the longest run that stands in both, word for word.

    Example:
        >>> longest_copy("The cat sat on the mat.", 'A pet; "sat on the" comes last.')
        3
    """
    return _longest_run(words_of(text), [words_of(explanation)])


def longest_copy_outside_ending(text: str, explanation: str) -> int:
    """The same, but quotations of the words the text ends in don't count: a label is to say where the model is.

    Example:
        >>> longest_copy_outside_ending("The cat sat on the mat.", 'The cat; it has just said "on the mat."')
        2
    """
    ending = " ".join(text.casefold().split()).rstrip(" .,;:!?…")
    kept, at = [], 0
    for match in _QUOTE.finditer(explanation):
        quoted = " ".join((match[1] or match[2]).casefold().split()).rstrip(" .,;:!?…")
        if quoted and ending.endswith(quoted):
            kept.append(explanation[at : match.start()])
            at = match.end()
    kept.append(explanation[at:])
    return _longest_run(words_of(text), [words_of(part) for part in kept])


def _longest_run(source: list[str], parts: list[list[str]]) -> int:
    """Length of the longest run of words in any of `parts` that is in `source` too."""

    def shared(length: int) -> bool:
        runs = {tuple(source[at : at + length]) for at in range(len(source) - length + 1)}
        return any(tuple(part[at : at + length]) in runs for part in parts for at in range(len(part) - length + 1))

    # A run of n words holds runs of all smaller lengths, so the longest one can be found by halving.
    found, too_long = 0, min(len(source), max(map(len, parts), default=0)) + 1
    while too_long - found > 1:
        middle = (found + too_long) // 2
        found, too_long = (middle, too_long) if shared(middle) else (found, middle)
    return found


class _Tally:
    """Running figures of some labels; memory grows with what is distinct, not with the vectors or texts."""

    def __init__(self) -> None:
        self.count = 0
        self.statuses: Counter[str] = Counter()
        self.unique: set[int] = set()
        self.stems: Counter[str] = Counter()
        self.words: Counter[int] = Counter()
        self.copied: Counter[int] = Counter()
        self.copied_outside: Counter[int] = Counter()
        self.tokens = 0
        self.cost = 0.0

    def add(self, row: Mapping[str, Any], copied: int | None, outside: int | None) -> None:
        explanation = row["api_explanation"]
        words = explanation.split()
        self.count += 1
        self.statuses[row["label_status"] or "unknown"] += 1
        self.unique.add(hash64(explanation))
        self.stems[" ".join(words[:STEM_WORDS])] += 1
        self.words[len(words)] += 1
        if copied is not None:
            self.copied[copied] += 1
            self.copied_outside[outside] += 1
        self.tokens += row.get("tokens") or 0
        self.cost += row.get("cost_usd") or 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "labels": self.count,
            "statuses": dict(sorted(self.statuses.items())),
            "unique_share": len(self.unique) / self.count if self.count else None,
            "opening_stems": {
                "distinct": len(self.stems),
                "top": [
                    {"stem": stem, "share": count / self.count}
                    for stem, count in sorted(self.stems.items(), key=lambda item: (-item[1], item[0]))[:STEMS_SHOWN]
                ],
            },
            "words": _spread_of(self.words),
            "longest_copy_words": _spread_of(self.copied),
            "longest_copy_words_outside_quoted_ending": _spread_of(self.copied_outside),
            "tokens": self.tokens,
            "cost_usd": round(self.cost, 6),
        }


def _spread_of(counts: Counter[int]) -> dict[str, Any]:
    """Of whole numbers, counted: min, median, p95 and max (each a number that occurs), and the histogram."""
    if not counts:
        return {"min": None, "median": None, "p95": None, "max": None, "histogram": {}}
    total = sum(counts.values())

    def at(share: float) -> int:
        passed = 0
        for value in sorted(counts):
            passed += counts[value]
            if passed >= share * total:
                return value
        return max(counts)

    histogram = {str(value): counts[value] for value in sorted(counts)}
    return {"min": min(counts), "median": at(0.5), "p95": at(0.95), "max": max(counts), "histogram": histogram}


def report(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of labels: `overall` and by `labelers`.

    Args:
        rows: each with `api_explanation`, `detokenized_text_truncated` (None: nothing is said of copies),
            `labeler_model`, `label_status` and perhaps `tokens` and `cost_usd`; streamed.
    """
    overall, labelers = _Tally(), {}
    for row in rows:
        text, explanation = row["detokenized_text_truncated"], row["api_explanation"]
        copied = outside = None
        if text is not None:
            copied, outside = longest_copy(text, explanation), longest_copy_outside_ending(text, explanation)
        for tally in (overall, labelers.setdefault(row["labeler_model"] or "unknown", _Tally())):
            tally.add(row, copied, outside)
    return {
        "overall": overall.figures(),
        "labelers": {name: labelers[name].figures() for name in sorted(labelers)},
    }


def write(tables: list[Path], folder: Path, identity: str | None = None) -> Path:
    """Report on finished tables into `folder`; returns the JSON's path.

    Raises:
        InputError: a table lacks a column.
    """
    found = {
        "identity": identity,
        "tables": {path.name: {key: read_sidecar(path).get(key) for key in ("sha256", "rows")} for path in tables},
        "dropped": {path.name: read_sidecar(path).get("drops") or {} for path in tables},
        **report(row for path in tables for row in _rows(path)),
    }
    draw(found, folder / FIGURE)  # first: the JSON says that the report is finished
    write_json(folder / FILE, found)
    return folder / FILE


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    there = open_parquet(path).schema_arrow.names
    for table in in_steps(path, [*COLUMNS, *(name for name in ("tokens", "cost_usd") if name in there)]):
        require_texts(table, COLUMNS, str(path), missing=True)
        yield from (row for row in table.to_pylist() if row["api_explanation"])


def draw(found: Mapping[str, Any], path: Path) -> Path | None:
    """The report as a picture; None, and a line that says so, where matplotlib isn't installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f'{path.name} not drawn: matplotlib is not installed (pip install "nla-sdk[eval]").')
        return None
    labelers = dict(sorted(found["labelers"].items(), key=lambda item: -item[1]["labels"])[:6])
    colours = dict(zip(labelers, ("#3b6fb6", "#d9822b", "#4a9d6f", "#b04a5a", "#7a5ea8", "#7f7f7f"), strict=False))
    figure = Figure(figsize=(12, 8), layout="constrained")
    lengths, copies, stems, table = figure.subplots(2, 2).flat
    overall = found["overall"]
    for name, figures in labelers.items():
        _steps(lengths, figures["words"], figures["labels"], colours[name], _short(name))
    lengths.set(title="Length", xlabel="words", ylabel="share of the labeler's labels")
    for name, figures in labelers.items():
        _steps(copies, figures["longest_copy_words"], figures["labels"], colours[name], _short(name))
        outside = figures["longest_copy_words_outside_quoted_ending"]
        _steps(copies, outside, figures["labels"], colours[name], None, dashed=True)
    copies.plot([], [], color="#444444", linestyle="--", label="without the quoted ending")
    copies.set(title="Longest span copied from the source", xlabel="words", ylabel="share of the labeler's labels")
    for axes in (lengths, copies):
        axes.legend(frameon=False, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    top = overall["opening_stems"]["top"][::-1]
    bars = stems.barh([_plain(_short(one["stem"], 34)) for one in top], [one["share"] for one in top], color="#8fa9c9")
    stems.bar_label(bars, [f"{one['share']:.1%}" for one in top], padding=3, fontsize=9)
    stems.set(title=f"Opening words: {overall['opening_stems']['distinct']:,} different ones in {overall['labels']:,}")
    stems.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    stems.margins(x=0.15)
    _figures_table(table, {"all": overall, **labelers}, found.get("dropped", {}))
    for axes in (lengths, copies, stems):
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (lengths, copies, stems, table):
        axes.title.set_fontweight("bold")
    with atomic(path) as sibling:
        figure.savefig(sibling, format="png", dpi=130)
    return path


def _steps(axes, spread: Mapping[str, Any], total: int, colour: str, label: str | None, dashed: bool = False) -> None:
    """One histogram as an outline: shares over whole numbers, wide ranges in bins."""
    counts = {int(value): count for value, count in spread["histogram"].items()}
    if not counts:
        return
    width = max(1, (max(counts) - min(counts)) // 40)
    first = min(counts) // width * width
    bins = range(first, max(counts) + width, width)
    shares = [sum(counts.get(value, 0) for value in range(start, start + width)) / total for start in bins]
    edges = [*(start - 0.5 for start in bins), bins[-1] + width - 0.5]
    style = {"linestyle": "--", "linewidth": 1.2} if dashed else {"linewidth": 1.8}
    axes.stairs(shares, edges, color=colour, label=_plain(label) if label else None, **style)
    if not dashed:
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)


def _figures_table(axes, groups: Mapping[str, Mapping[str, Any]], dropped: Mapping[str, Mapping[str, int]]) -> None:
    reasons: Counter[str] = Counter()
    for counts in dropped.values():
        reasons.update(counts)
    said = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common() if count) or "nothing"
    axes.set_title("Labels by labeler")
    axes.axis("off")
    axes.text(0.5, 0.12, _plain(f"dropped: {said}"), ha="center", va="bottom", fontsize=9, wrap=True)
    rows = [
        [
            _plain(_short(name, 22)),
            f"{one['labels']:,}",
            f"{one['statuses'].get('repaired', 0):,}",
            f"{one['unique_share']:.1%}" if one["labels"] else "–",
            f"{one['words']['median']} / {one['words']['p95']}",
            f"{one['longest_copy_words']['median']} / {one['longest_copy_words']['p95']}",
            f"${one['cost_usd']:,.2f}",
        ]
        for name, one in groups.items()
    ]
    heads = ["", "labels", "repaired", "unique", "words\nmed. / p95", "copied\nmed. / p95", "cost"]
    drawn = axes.table(rows, colLabels=heads, loc="upper center", cellLoc="right", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.auto_set_column_width(list(range(len(heads))))
    drawn.scale(1, 1.6)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0:
            cell.set_height(cell.get_height() * 1.4)
            cell.get_text().set_fontweight("bold")
        if column == 0:
            cell.get_text().set_horizontalalignment("left")


def _short(text: str, limit: int = 30) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")
