"""Options and settings that cannot be: of every command, and of every type of setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grid.damage import set_key
from tests.grid.entries import ENTRIES
from tests.grid.outcome import refused, run

NLA = ("nla", "explain", "rows.parquet", "--av", "pair")
STEER = ("nla", "steer", "the cat", "--towards", "dogs", "--av", "pair")
OPTIONS = {
    "no such option": (*NLA, "--wings"),
    "no such command": ("nla", "fly"),
    "a question to a pair that takes none": ("nla", "ask", "What is it?", "rows.parquet", "--av", "pair"),
    "no question": ("nla", "ask", "", "rows.parquet", "--av", "pair"),
    "a slice that is none": ("nla", "ask", "What is it?", "the cat", "--av", "pair", "--positions", "a:b"),
    "a layer that was never trained": (*NLA, "--layer", "0"),
    "steering towards nothing": ("nla", "steer", "the cat", "--av", "pair"),
    "steering towards two things": (*STEER, "--vector", "rows.npy"),
    "steering along what is not there": ("nla", "steer", "the cat", "--av", "pair", "--vector", "./nowhere"),
    "a prompt of nothing": ("nla", "steer", "", "--av", "pair", "--towards", "dogs"),
    "a strength that is no number": (*STEER, "--strength", "nan"),
    "a strength that is a word": (*STEER, "--strength", "much"),
    "a layer to steer that is not there": (*STEER, "--layer", "99"),
    "no such column": (*NLA, "--column", "wings"),
    "a column of something else": (
        "nla",
        "reconstruct",
        "rows.parquet",
        "--av",
        "pair",
        "--column",
        "activation_vector",
    ),
    "a negative length": (*NLA, "--max-new-tokens", "-1"),
    "a length of 0": (*NLA, "--max-new-tokens", "0"),
    "a length that is no number": (*NLA, "--max-new-tokens", "many"),
    "a negative temperature": (*NLA, "--temperature", "-1"),
    "a temperature that is no number": (*NLA, "--temperature", "nan"),
    "an infinite temperature": (*NLA, "--temperature", "inf"),
    "the best of none": (*NLA, "--best-of", "0"),
    "a negative layer": ("nla", "extract", "the cat", "--av", "pair", "--layer", "-1"),
    "a layer outside": ("nla", "extract", "the cat", "--av", "pair", "--layer", "99"),
    "a huge layer": ("nla", "extract", "the cat", "--av", "pair", "--layer", "9" * 30),
    "a position outside": ("nla", "extract", "the cat", "--av", "pair", "--positions", "99"),
    "a position that is no number": ("nla", "extract", "the cat", "--av", "pair", "--positions", "last"),
    "a huge position": ("nla", "extract", "the cat", "--av", "pair", "--positions", "9" * 5000),
    "an unknown dtype": (*NLA, "--dtype", "float7"),
    "a dtype of whole numbers": (*NLA, "--dtype", "int8"),
    "an unknown quantization": (*NLA, "--quantization", "fp3"),
    "an unknown device": (*NLA, "--device", "abacus"),
    "a format that is none": (*NLA, "-o", "made.parquet", "--format", "docx"),
    "an output folder that is not there": (*NLA, "-o", "nowhere/made.parquet"),
    "an output that is a folder": (*NLA, "-o", "corpus"),
    "an output inside a file": (*NLA, "-o", "rows.jsonl/made.parquet"),
    "an output that is there": (*NLA, "-o", "rows.jsonl"),
    "vectors only for texts": (*NLA, "-o", "made.npy"),
    "an output with a NUL": (*NLA, "-o", "ma\x00de.parquet"),
    "an output with a long name": (*NLA, "-o", "a" * 300 + ".parquet"),
    "an empty text": ("nla", "explain", "", "--av", "pair"),
    "a half in the other's place": ("nla", "explain", "rows.parquet", "--av", "pair/ar"),
    "halves exchanged": ("nla", "explain", "rows.parquet", "--av", "pair/ar", "--ar", "pair/av"),
    "a pair that is not there": ("nla", "explain", "rows.parquet", "--av", "./nowhere"),
    "a pair that is a file": ("nla", "explain", "rows.parquet", "--av", "rows.jsonl"),
    "a base that is not there": (*NLA, "--base", "./nowhere"),
    "a base without a model": (*NLA, "--base", "corpus"),
    "a subfolder that is not there": (*NLA, "--subfolder", "nowhere"),
    "info of nothing": ("nla", "info", "./nowhere"),
    "info of a folder without a half": ("nla", "info", "corpus"),
    "a config that is not there": ("pipeline", "--config", "nowhere.yaml"),
    "no config": ("pipeline",),
    "layers that are none": ("data.extract", "--config", "config.yaml", "--layers", "one,two"),
    "a layer that the base lacks": ("data.extract", "--config", "config.yaml", "--layers", "99", "--overwrite"),
    "a huge layer in training": ("data.extract", "--config", "config.yaml", "--layers", "9" * 5000),
    "a shard that is none": ("data.extract", "--config", "config.yaml", "--shard", "3/2"),
    "a huge shard": ("data.extract", "--config", "config.yaml", "--shard", "1/" + "9" * 5000),
    "shards that are not there": ("data.extract", "--config", "config.yaml", "--merge"),
    "a corpus that is not there": ("pipeline", "--config", "config.yaml", "--corpus", "./nowhere.jsonl"),
    "a label set that is not there": ("label", "--config", "config.yaml", "--only", "wings"),
    "less than no money": ("label", "--config", "config.yaml", "--max-usd", "-1"),
    "money that is no number": ("label", "--config", "config.yaml", "--max-usd", "nan"),
    "a parent that is not there": ("fit.av", "--config", "config.yaml", "--continue-from", "./nowhere"),
    "a parent of the other role": ("fit.av", "--config", "config.yaml", "--continue-from", "pair/ar", "--name", "b"),
    "no learning": ("fit.av", "--config", "config.yaml", "--lr", "0"),
    "a learning rate that is no number": ("fit.ar", "--config", "config.yaml", "--lr", "nan"),
    "an infinite learning rate": ("fit.ar", "--config", "config.yaml", "--lr", "inf", "--name", "b"),
    "a plan for nobody": ("fit.plan", "--config", "config.yaml", "--role", "both of them"),
    "a plan without memory": ("fit.plan", "--config", "config.yaml", "--gpu-gib", "nan"),
    "a plan for no rows": ("fit.plan", "--config", "config.yaml", "--batch", "0"),
    "a plan for a device that is none": ("fit.plan", "--config", "config.yaml", "--device", "abacus"),
    "a window of nothing": ("runs.trend", "long.jsonl", "--window", "0"),
    "a figure nowhere": ("runs.figure", "out/av/log.jsonl", "--out", "rows.jsonl/drawn.png"),
    "a floor that is no cosine": ("evaluate", "--av", "pair", "--data", "out/eval.parquet", "--floor", "nan"),
    "a floor above 1": ("evaluate", "--av", "pair", "--data", "out/eval.parquet", "--floor", "2"),
    "an evaluation of no data": ("evaluate", "--av", "pair"),
    "an evaluation of one half": ("evaluate", "--av", "pair/av", "--data", "out/eval.parquet", "--out", "measured"),
    "a seed below 0": ("evaluate", "--av", "pair", "--data", "out/eval.parquet", "--seed", "-1"),
    "an embedder that is not there": (
        *("evaluate", "--av", "pair", "--data", "out/eval.parquet", "--embedder", "./nowhere"),
    ),
    "verifying for the wrong data": (
        *("evaluate", "verify", "evaluation/evaluation.json", "--data", "out/av_sft.parquet"),
    ),
    "verifying for data that is not there": (
        *("evaluate", "verify", "evaluation/evaluation.json", "--data", "nowhere.parquet"),
    ),
    "verifying for the wrong half": ("evaluate", "verify", "evaluation/evaluation.json", "--av", "pair/ar"),
    "publishing nothing": ("publish", "--repo", "ada/cat", "--dry-run"),
    "publishing nowhere": ("publish", "--repo", "no such name", "--dataset", "out/eval.parquet", "--dry-run"),
    "publishing what is not there": ("publish", "--repo", "ada/cat", "--checkpoint", "nowhere", "--dry-run"),
    "publishing a folder as a table": ("publish", "--repo", "ada/cat", "--dataset", "corpus", "--dry-run"),
    "shipping nothing": ("publish.bundle",),
    "shipping an evaluation that is not there": ("publish.bundle", "--evaluation", "nowhere"),
    "shipping a run that is not there": ("publish.bundle", "--config", "nowhere.yaml"),
    "a report of nothing": ("data.label_report", "nowhere.parquet"),
}
BOMB = ", ".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(9))
SETTINGS = {
    "no such setting": "av.wings=2",
    "no setting": "av",
    "no key": "=3",
    "no YAML": "av.lr=[",
    "an impossible date": "av.lr=2026-13-45",
    "nested deeply": "av.lr=" + "[" * 100_000,
    "a bomb": f"av.lr={{{BOMB}}}",
    "a number that is a word": "av.lr=fast",
    "a number that is a list": "av.lr=[1]",
    "a number that is none": "av.lr=.nan",
    "an infinite number": "av.lr=.inf",
    "an infinite epoch": "av.epochs=.inf",
    "a negative number": "av.lr=-1",
    "a whole number that is none": "av.batch_size=1.5",
    "a huge number": "av.batch_size=" + "9" * 5000,
    "less than one": "av.batch_size=0",
    "a choice that is none": "av.decay=slowly",
    "a quantization that is none": "av.quantization=fp3",
    "a dtype that is none": "av.dtype=float7",
    "a truth that is none": "centred=perhaps",
    "a section that is a number": "av=3",
    "a list that is a number": "extract.sources=3",
    "an entry that is not there": "extract.sources.7.limit=3",
    "an entry that is a word": "extract.sources.first.limit=3",
    "no source": "extract.sources=[]",
    "shares above 1": "split.eval=0.9",
    "a share that is no number": "split.eval=.nan",
    "a negative layer": "layer=-1",
    "a null": "av.template=null",
    "a template without a marker": "av.template=say it",
    "a template without an explanation": "ar.template=say it",
    "a marker of several tokens": "marker=abc",
    "an empty marker": "marker=''",
    "a seed that is no number": "seed=.nan",
    "no adapter": "av.lora.r=0",
    "targets that are none": "av.lora.targets=[wings]",
    "a provider that is none": "label.sets.0.providers.0.kind=parrot",
    "a base that is not there": "base=./nowhere",
}
"""Each given to the first stage that reads it."""
STAGE = {"marker": "data.build", "av": "fit.av", "ar": "fit.ar", "label": "label"}


def named(cases):
    return [pytest.param(case, id=name) for name, case in cases.items()]


@pytest.mark.parametrize("arguments", named(OPTIONS))
def test_an_impossible_option_is_refused(arguments, here):
    refused(run(*arguments))


@pytest.mark.parametrize("setting", named(SETTINGS))
def test_an_impossible_setting_is_refused_and_named(setting, here):
    key = setting.partition("=")[0]
    command = STAGE.get(key.partition(".")[0], "pipeline")
    ENTRIES.get(command.removeprefix("data."), ENTRIES["pipeline"]).prepare()
    refused(
        run(command, "--config", "config.yaml", "--set", setting),
        [key, key.rpartition(".")[2], "--set", setting.partition("=")[2]],
    )


@pytest.mark.parametrize("command", [name for name, entry in ENTRIES.items() if "--config" in entry.arguments])
def test_a_key_that_no_config_has_is_named_by_every_stage(command, here):
    set_key(Path("config.yaml"), "wings", 2)
    refused(run(*ENTRIES[command].arguments), ["wings"])
