"""Options that commands share: which pair, where results go, how explanations are written; and how groups are taken."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from typing_extensions import get_type_hints  # Python 3.10's own makes an option with default None lose what it says

from ..errors import InputError

if TYPE_CHECKING:
    from ..jobs.cluster.held import Held, Lies
    from ..jobs.cluster.pool import Pool
    from ..pair import NLAPair


Stated = Annotated[
    list[str] | None,
    typer.Option(
        "--contract", metavar="KEY=VALUE", help="What the contract lacks or says wrong: prompt_style=chat; repeatable."
    ),
]


def stated(words: Sequence[str] | None) -> dict[str, Any] | None:
    """`key=value` words as the mapping that `NLAPair.from_pretrained(contract=…)` takes; values are YAML.

    Raises:
        InputError: a word has no `=`, its value is no YAML, or a key comes twice with two values.
    """
    given: dict[str, Any] = {}
    for word in words or ():
        key, equals, text = word.partition("=")
        key = key.strip()
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise InputError(f"--contract {word}: {text!r} is no value as YAML writes them; quote it.") from None
        if not equals or not key:
            raise InputError(f"--contract {word}: expected KEY=VALUE, such as prompt_style=chat.")
        if key in given and given[key] != value:
            raise InputError(f"--contract gives `{key}` twice: {given[key]!r} and {value!r}.")
        given[key] = value
    return given or None


class Quantization(str, Enum):
    """What `--quantization` takes."""

    auto = "auto"
    nf4 = "nf4"
    none = "none"


class Format(str, Enum):
    """What `--format` takes."""

    table = "table"
    jsonl = "jsonl"
    json = "json"
    csv = "csv"
    parquet = "parquet"
    npy = "npy"


class Engine(str, Enum):
    """What `--engine` takes."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True)
class PairOptions:
    """Which pair, and how it is run."""

    av: Annotated[str | None, typer.Option(help="AV: Hub id, folder or demo. [default: demo]")] = None
    ar: Annotated[str | None, typer.Option(help="AR. [default: the AV's partner]")] = None
    base: Annotated[str | None, typer.Option(help="Base model, if not the contract's: Hub id or folder.")] = None
    source: Annotated[
        str | None, typer.Option(help="Read activations from this fine-tune of the base: Hub id or folder.")
    ] = None
    quantization: Annotated[Quantization, typer.Option(help="auto: what the contract says.")] = Quantization.auto
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto"
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the first half given.")] = None
    subfolder: Annotated[str | None, typer.Option(help="Its subfolder, where a repository holds several.")] = None
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Ask no network.")] = False
    contract: Stated = None
    check_weights: Annotated[
        bool, typer.Option("--check-weights", help="Look for NaN in every weight of the base too.")
    ] = False
    fast: Annotated[
        bool | None,
        typer.Option("--fast/--no-fast", help="Make an 8-bit lm_head in memory; or compute all as transformers does."),
    ] = None

    def with_av(self, ref: str | None) -> PairOptions:
        """The same of another AV; None: of the same."""
        return self if ref is None else replace(self, av=ref)

    def load(self) -> NLAPair:
        """The pair; the demo pair if none was named."""
        from ..pair import NLAPair

        return NLAPair.from_pretrained(**self.told())

    def told(self) -> dict[str, Any]:
        """What `NLAPair.from_pretrained` is told."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.av is None and self.ar is None:
            chosen["av"] = "demo"
        chosen["contract"] = stated(self.contract)
        chosen["quantization"] = None if self.quantization is Quantization.none else self.quantization.value
        return chosen


@dataclass(frozen=True)
class WrittenByOptions(PairOptions):
    """The same where explanations are written: here, or by a server that holds the exported AV."""

    av_engine: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Have a vLLM or SGLang server that holds the exported AV write (docs/howto/engines.md); the AR is"
            " loaded only if --ar names it. A key is taken from NLA_ENGINE_API_KEY.",
        ),
    ] = None


@dataclass(frozen=True)
class OutputOptions:
    """Where results go, and in what form."""

    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="PATH",
            help="A .parquet, .jsonl, .json, .csv or .npy file, here or at s3://, gs://, hf://; else stdout.",
        ),
    ] = None
    format: Annotated[Format | None, typer.Option(help="Instead of what the suffix of -o says.")] = None
    json: Annotated[bool, typer.Option("--json", help="JSON lines: the same as --format jsonl.")] = False
    column: Annotated[str | None, typer.Option(help="Column or key of INPUT that holds what is read.")] = None
    as_text: Annotated[bool, typer.Option("--text", help="INPUT is a text, whatever it looks like.")] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, and unfinished work on another input.")
    ] = False


@dataclass(frozen=True)
class EngineOptions:
    """Where the rows are worked on (docs/howto/cluster.md)."""

    engine: Annotated[
        Engine, typer.Option(help="local: this process; ray: the actors of a cluster, with the same results.")
    ] = Engine.local
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, HOST:6379 or auto. [default: RAY_ADDRESS, or this machine alone]")
    ] = None
    actors: Annotated[int | None, typer.Option(min=1, help="How many. [default: as many as fit]")] = None
    cpus_per_actor: Annotated[float | None, typer.Option(min=0.1, help="[default: 1]")] = None
    gpus_per_actor: Annotated[
        float | None, typer.Option(min=0.0, help="Below 1 several share a GPU. [default: 1 where there are GPUs]")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many actors of which size fit; work on nothing.")
    ] = False

    def refuse_early(self, out: str | None) -> bool:
        """Whether a cluster is asked for; what makes no sense is said.

        Raises:
            InputError: options of a cluster without one, or a cluster and no file to write.
        """
        if self.engine is Engine.ray:
            if out is None and not self.dry_run:
                raise InputError("--engine ray writes a file; say which with -o.")
            return True
        said = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if said:
            raise InputError(f"--{said[0].replace('_', '-')} is of a cluster; add --engine ray, or leave it out.")
        return False

    def opened(self, unit: Held, lying: Lies) -> AbstractContextManager[Pool]:
        """The actors of the cluster, each with what the unit holds; a dry run ends here.

        Args:
            lying: that as it lies here.
        Raises:
            ClusterError: there is no such cluster, or no room in it.
        """
        from ..jobs.cluster import connection

        size = {"cpus": self.cpus_per_actor, "gpus": self.gpus_per_actor}
        if self.dry_run:
            print(connection.fitting(unit, lying, self.address, **size))
            raise typer.Exit
        return connection.opened(unit, lying, self.address, actors=self.actors, **size)


@dataclass(frozen=True)
class AnsweringOptions:
    """How answers are written."""

    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="[default: the contract's]")] = None
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0
    force: Annotated[
        bool, typer.Option("--force", help="Take another layer's or model's activations; say nothing of suspect ones.")
    ] = False


@dataclass(frozen=True)
class WritingOptions(AnsweringOptions):
    """How explanations are written."""

    best_of: Annotated[
        int, typer.Option(min=1, help="Write so many, keep the one that scores best; its score is of the best.")
    ] = 1


@dataclass(frozen=True)
class FileOptions:
    """What vectors are, where their file does not say it (docs/vectors.md)."""

    kind: Annotated[
        str | None, typer.Option(help="activation, direction or difference. [default: the file's, or activation]")
    ] = None
    model: Annotated[str | None, typer.Option(help="That the vectors are of: Hub id or folder.")] = None
    maker: Annotated[str | None, typer.Option(help="Of a control-vector GGUF: repeng or llama.cpp.")] = None
    sign: Annotated[str | None, typer.Option(help="+, - (turned round) or ± (both).")] = None
    centred: Annotated[
        bool | None, typer.Option("--centred/--not-centred", help="Whether a LayerNorm model's stream was centred.")
    ] = None
    site: Annotated[str | None, typer.Option(help="residual, where a tool's free text means it.")] = None
    vectors_dtype: Annotated[str | None, typer.Option(help="Of a .npy file of |V2: bfloat16 or float16.")] = None

    def stated(self) -> dict[str, Any]:
        """What `nla_sdk.vectors.load` is told.

        Raises:
            InputError: there is no such kind or sign.
        """
        from ..vectors.kinds import as_kind, as_sign

        said = {field.name: getattr(self, field.name) for field in fields(FileOptions)}
        said["dtype"], said["sign"] = said.pop("vectors_dtype"), as_sign(self.sign)
        return said | {"kind": None if self.kind is None else as_kind(self.kind)}


@dataclass(frozen=True)
class VectorOptions(FileOptions):
    """The same of INPUT, and how directions are shown."""

    vectors: Annotated[
        bool, typer.Option("--vectors", help="INPUT is a file, folder or Hub id of another tool's vectors.")
    ] = False
    direction: Annotated[
        str | None,
        typer.Option(help="How directions are shown: raw, or mean+. [default: raw if the AV is centred, else mean+]"),
    ] = None
    mean: Annotated[
        Path | None, typer.Option(help="Mean activation that `nla mean` wrote. [default: the pair's, if known]")
    ] = None
    vectors_revision: Annotated[str | None, typer.Option(help="Of INPUT on the Hub: branch, tag or commit.")] = None

    def needed_for(self, given: str) -> bool:
        """Whether INPUT must be read as another tool's: --vectors, or a file of which more is said than its kind."""
        said = (self.model, self.maker, self.sign, self.centred, self.site, self.vectors_dtype, self.vectors_revision)
        return self.vectors or (any(one is not None for one in said) and Path(given).exists())

    def shown(self) -> dict[str, Any]:
        """What `explain` and the others are told of directions; nothing where nothing is said.

        Raises:
            InputError: there is no such file of a mean.
        """
        if self.mean is not None and not self.mean.is_file():
            raise InputError(
                f"--mean {self.mean} does not exist; expected what nla mean REF -o mean.safetensors writes."
            )
        said = {"kind": self.kind, "direction": self.direction, "mean": self.mean and str(self.mean)}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class ServeOptions:
    """How a pair is served."""

    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 5009
    host: Annotated[str, typer.Option(help="Address to listen at; another than this machine's needs a secret.")] = (
        "127.0.0.1"
    )
    secret_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Variable with the secret that X-SECRET-KEY must hold.")
    ] = None
    no_secret: Annotated[
        bool, typer.Option("--no-secret", help="Let everybody who reaches the host ask: for a public demonstration.")
    ] = False
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="No uploads of vectors, no steering and no completion: explanations only."),
    ] = False
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests at work at a time.")] = 64
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that wait; more get 429.")] = 128
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds of a request, waiting included.")] = 600.0
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds to finish in, when told to stop.")] = 30.0
    max_body: Annotated[
        int | None, typer.Option(min=1, help="Bytes of a request. [default: 8 MiB, or what 512 vectors take]")
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a text that is read. [default: the base's context]")
    ] = None
    per_hour: Annotated[
        int | None, typer.Option(min=1, help="Requests under /api/nla of an address in an hour. [default: any]")
    ] = None
    frame: Annotated[
        str, typer.Option(help="Who may show the page in a frame: frame-ancestors, as https://huggingface.co.")
    ] = "'self'"

    def settings(self, secret: str | None) -> dict[str, Any]:
        """What `nla_sdk.serve.settings.Settings` takes."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said["concurrent"], said["queue"] = said.pop("max_concurrent"), said.pop("max_queue")
        return {name: value for name, value in said.items() if name not in ("port", "secret_env")} | {"secret": secret}


def at_layer(writing: WritingOptions, layer: int | None) -> dict[str, Any]:
    """What a job is told of the writing, and of the layer if one was named."""
    return vars(writing) | ({} if layer is None else {"layer": layer})


def expand(command: Callable[..., object]) -> Callable[..., object]:
    """Let a typer command take dataclasses of options: each of their fields becomes an option of its own."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(command)
    def expanded(**given: object) -> object:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        inner = inspect.signature(group).parameters.values() if group else [parameter]
        types = get_type_hints(group, include_extras=True) if group else hints
        for option in inner:
            annotation = types[option.name]
            parameters.append(option.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    expanded.__signature__ = inspect.Signature(parameters)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


Input = Annotated[str, typer.Argument(metavar="INPUT", help="A text, a file (by its suffix), or - for stdin.")]
Positions = Annotated[
    str, typer.Option(help="Tokens of a text to read at: -1 is the last; all; a list such as 3,7,-1.")
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Say of each claim how probable it is, judged without the text, and what speaks for it; in files columns"
        " support (a mean) and claims (JSON: text, kind, start, end, support, reason, receipts with their values by"
        " chance).",
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(min=0, help="Block the activations are of, or a text is read at. [default: INPUT's, or the pair's]"),
]
