"""Entry points of the grid: commands with good arguments, and the files that each of them reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.grid.damage import GONE, remove, set_key

Names = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A command that works in the world as it is.

    Attributes:
        arguments: of `outcome.run`.
        reads: files that it cannot do without.
        makes: what is removed before, so that there is work to do.
        sets: keys of files that are set before.
        harmless: kinds of damage that make another good input of what it reads, or that it is made to bear.
    """

    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...] = ()
    sets: tuple[tuple[str, str, object], ...] = ()
    harmless: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Have it to do."""
        remove(*self.makes)
        for file, key, value in self.sets:
            set_key(Path(file), key, value)


def _nla(command: str, given: str, *more: str) -> Entry:
    return Entry(("nla", command, given, "--av", "pair", "-o", f"made.{more[0] if more else 'parquet'}"), (given,))


def _stage(
    command: str, *reads: str, makes: tuple[str, ...], more: tuple[str, ...] = (), harmless: tuple[str, ...] = ()
) -> Entry:
    return Entry((command, "--config", "config.yaml", *more), reads, makes, harmless=harmless)


HALVES = tuple(
    f"pair/{file}"
    for file in (
        "av/nla_meta.yaml",
        "av/adapter_config.json",
        "av/adapter_model.safetensors",
        "av/activation_mean.safetensors",
        "ar/nla_meta.yaml",
        "ar/adapter_config.json",
        "ar/adapter_model.safetensors",
        "ar/linear_head.safetensors",
    )
)
BASE = ("base/config.json", "base/model.safetensors", "base/tokenizer.json")
TABLES = ("out/av_sft.parquet", "out/eval.parquet", "out/statistics.json", "out/activation_mean.safetensors")
ENTRIES = {
    "nla explain": _nla("explain", "rows.parquet"),
    "nla round-trip": _nla("round-trip", "vectors.npy"),
    "nla explain, JSON lines": _nla("explain", "rows.jsonl", "jsonl"),
    "nla ask": Entry(
        ("nla", "ask", "What is it?", "rows.parquet", "--av", "oracle", "-o", "made.jsonl"),
        ("rows.parquet", "oracle/nla_meta.yaml"),
    ),
    "nla reconstruct": _nla("reconstruct", "rows.parquet", "npy"),
    "nla reconstruct, text": Entry(
        ("nla", "reconstruct", "text.txt", "--av", "pair", "-o", "made.npy"),
        ("text.txt",),
        harmless=("an HTML page", "cut in half", "its second half"),
    ),
    "nla extract": _nla("extract", "rows.jsonl"),
    "nla, its pair": Entry(("nla", "round-trip", "rows.parquet", "--av", "pair"), HALVES),
    "nla, its base": Entry(("nla", "extract", "the cat sat", "--av", "pair"), BASE),
    "nla, its tokenizer's config": Entry(
        ("nla", "extract", "the cat sat", "--av", "pair"), ("base/tokenizer_config.json",), harmless=GONE
    ),
    "nla info": Entry(("nla", "info", "pair"), HALVES[:3]),
    "extract": _stage(
        "data.extract", "config.yaml", "corpus/passages.jsonl", "base/model.safetensors", makes=("out", "results")
    ),
    "extract, parquet": _stage(
        "data.extract",
        "corpus/passages.parquet",
        makes=("out", "results"),
        more=("--set", "extract.sources.0.corpus=corpus/passages.parquet"),
    ),
    "pipeline": Entry(
        ("pipeline", "--config", "config.yaml", "--corpus", "texts"),
        ("texts/7.txt",),
        ("out", "results"),
        harmless=("missing", "a folder", "empty", "an HTML page", "cut in half", "its second half", "a symlink loop"),
    ),
    "split": _stage("data.split", "out/activations_L1.parquet", makes=("out/split", "results")),
    "readout": _stage(
        "label.readout",
        "out/split/av_sft.parquet",
        "out/split/eval.parquet",
        makes=("out/readout.jsonl",),
        more=("--set", "readout.min_documents=1"),
        harmless=("no rows",),
    ),
    "label": _stage(
        "label",
        "out/split/av_sft.parquet",
        "labels.jsonl",
        "prices.yaml",
        "labels.sqlite",
        makes=("out/labels", "results"),
        harmless=("no rows", "missing", "empty"),
    ),
    "build": _stage(
        "data.build",
        "out/split/av_sft.parquet",
        "out/labels/written/av_sft.parquet",
        makes=("out/av_sft.parquet", "out/ar_sft.parquet", "out/rl.parquet", "out/eval.parquet", "results"),
    ),
    "fit.av": _stage("fit.av", *TABLES, "base/config.json", makes=("out/av",)),
    "fit.ar": _stage("fit.ar", "out/ar_sft.parquet", *TABLES[1:3], makes=("out/ar",)),
    "fit.on_policy": _stage("fit.on_policy", "out/ar_sft.parquet", "out/av/final/nla_meta.yaml", makes=()),
    "fit.expert": _stage("fit.expert", "out/rl.parquet", "out/ar/final/linear_head.safetensors", makes=()),
    "fit.grpo": _stage("fit.grpo", "out/rl.parquet", "out/av/final/adapter_model.safetensors", makes=("out/grpo",)),
    "fit.plan": _stage("fit.plan", "base/config.json", makes=(), more=("--gpu-gib", "64")),
    "runs.trend": Entry(("runs.trend", "long.jsonl"), ("long.jsonl",), harmless=("cut in half",)),
    "runs.figure": Entry(
        ("runs.figure", "out/av/log.jsonl", "--out", "drawn.png"), ("out/av/log.jsonl",), harmless=("cut in half",)
    ),
    "label_report": Entry(("data.label_report", "out/av_sft.parquet", "--out", "report"), ("out/av_sft.parquet",)),
    "evaluate": Entry(
        (
            "evaluate",
            "--av",
            "pair",
            "--data",
            "out/eval.parquet",
            "--out",
            "measured",
            "--limit",
            "4",
            "--paraphraser",
            "paraphraser.yaml",
        ),
        ("out/eval.parquet", "paraphraser.yaml"),
    ),
    "verify": Entry(
        (
            "evaluate",
            "verify",
            "evaluation/evaluation.json",
            "--av",
            "pair/av",
            "--ar",
            "pair/ar",
            "--data",
            "out/eval.parquet",
        ),
        (
            "evaluation/evaluation.json",
            "evaluation/rows.parquet",
            "evaluation/variants.parquet",
            "out/eval.parquet",
            "pair/av/nla_meta.yaml",
            "pair/ar/linear_head.safetensors",
        ),
    ),
    "compare": Entry(
        ("evaluate", "compare", "evaluation/evaluation.json", "other/evaluation.json"),
        ("other/evaluation.json", "other/rows.parquet"),
    ),
    "publish": Entry(
        ("publish", "--repo", "ada/cat", "--dataset", "out/eval.parquet", "--dry-run", "--license", "mit"),
        ("out/eval.parquet",),
        sets=(("out/eval.parquet.nla_meta.yaml", "base_model", "lab/tiny-base"),),
    ),
    "publish, its pair": Entry(
        (
            "publish",
            "--repo",
            "ada/cat",
            "--checkpoint",
            "pair",
            "--evaluation",
            "evaluation/evaluation.json",
            "--dry-run",
            "--license",
            "mit",
        ),
        HALVES,
        sets=tuple((f"pair/{role}/nla_meta.yaml", "base_model", "lab/tiny-base") for role in ("av", "ar")),
    ),
}
