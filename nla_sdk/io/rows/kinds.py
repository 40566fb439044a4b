"""What a command was given: a file, by its suffix; a text; or something that only looks like one of the two, refused.

A name promises something: what looks like a path and is none was a text once, and a mistyped file got an explanation.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ...errors import InputError
from ..parsing import parse_json
from ..sidecars import SIDECAR

VECTOR_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".pkl", ".pickle")
"""Files of other tools' vectors: `nla_sdk.vectors.load` reads them, or says how they are exported."""
READ_SUFFIXES = (".npy", ".parquet", ".jsonl", ".ndjson", ".txt")
AS_TEXT = "With --text it is a text, whatever it looks like."
_SAVE = "np.save('{stem}.npy', {array})"
_CSV = "pandas.read_csv('{name}'{how}).to_parquet('{stem}.parquet'), or of numbers alone " + _SAVE.replace(
    "{array}", "pandas.read_csv('{name}'{how}).to_numpy('float32')"
)
CONVERSIONS = {
    ".csv": _CSV.replace("{how}", ""),
    ".tsv": _CSV.replace("{how}", ", sep='\\t'"),
    **dict.fromkeys((".h5", ".hdf5"), _SAVE.replace("{array}", "h5py.File('{name}')['DATASET'][:]")),
    ".json": "pandas.read_json('{name}').to_json('{stem}.jsonl', orient='records', lines=True)",
    **dict.fromkeys((".feather", ".arrow"), "pandas.read_feather('{name}').to_parquet('{stem}.parquet')"),
}
"""How files of other kinds become such as are read here: one line of Python each."""
_DATA = (
    *("npy", "npz", "pt", "pth", "ckpt", "bin", "safetensors", "gguf", "ggml", "onnx", "h5", "hdf5", "pkl", "pickle"),
    *("joblib", "mat", "parquet", "pq", "arrow", "feather", "csv", "tsv", "jsonl", "ndjson", "zarr", "tfrecord"),
)
_OTHER = (
    *("json", "yaml", "yml", "toml", "txt", "md", "rst", "log", "html", "xml", "pdf", "doc", "docx", "xls", "xlsx"),
    *("ods", "sqlite", "db", "zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "dat", "ipynb", "py"),
)
_NAMES_DATA = re.compile(rf"\.({'|'.join(_DATA)})(?!\w)", re.IGNORECASE)
_NAMES_A_FILE = re.compile(rf"\.({'|'.join(_DATA + _OTHER)})(?!\w)", re.IGNORECASE)
_ENDS_LIKE_DATA = re.compile(rf"[^\s.]\.({'|'.join(_DATA)})$", re.IGNORECASE)
_ENDS_LIKE_A_FILE = re.compile(rf"[^\s.]\.({'|'.join(_DATA + _OTHER)})$", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_STORE = re.compile(r"(file|s3|gs|gcs|az|abfss?|hf|hdfs|dbfs)://", re.IGNORECASE)
STORES = "s3://, gs:// and hf://"
_ROOTED = re.compile(r"(\.{1,2}|~)[/\\]|[A-Za-z]:[/\\]|\\\\\w")
_PATTERN = re.compile(r"\*|\[[^\]]*\w-\w[^\]]*\]")
_STARRED = re.compile(r"(\*+)[^*]+\1[.,;:!?]*$")  # *sigh*: a word, not a pattern


def file_of(given: str) -> Path | None:
    """The file that INPUT names, of a kind that is read here; None: it is a text.

    Raises:
        InputError: it looks like a file, folder, pattern or JSON and cannot be read as one; what to do.
    """
    name = given.strip().strip("'\"“”‘’`").strip()
    path = Path(given)
    if _exists(path):
        return _readable(given, path)
    if name != given and name and _exists(Path(name)):
        raise InputError(f"{given!r} is a file's name and more; pass {name!r}. {AS_TEXT}")
    if is_json(name):
        raise InputError(
            f"{_shown(given)} is JSON; expected a text or a file. Rows go into a .jsonl file or, one object a line, to "
            f"stdin (-), vectors into .npy. {AS_TEXT}"
        )
    for mark in "#@":
        before, _, behind = name.rpartition(mark)
        if before and behind and not any(map(str.isspace, behind)) and _exists(Path(before)):
            raise InputError(
                f"{given} names vectors in {before}; texts and files of them are read here. nla explain, round-trip, "
                f"ask, compare and vectors read such names. {AS_TEXT}"
            )
    if not looks_like_a_path(name):
        return None
    if _STORE.match(name) or _ADDRESS.match(name):
        raise InputError(
            f"{given} is on another machine; files are read here and from {STORES}: download it first. {AS_TEXT}"
        )
    if _is_pattern(name):
        raise InputError(f"{given} is a pattern that matches no file here. {AS_TEXT}")
    raise InputError(f"{given} does not exist; expected a file ({', '.join(READ_SUFFIXES)}) or a text. {AS_TEXT}")


def files_of(given: str) -> list[Path]:
    """The files here that a pattern (`acts/*.parquet`) matches, in the order of their names; none of what is none.

    Raises:
        InputError: one of them is of a kind that is not read here.
    """
    if not _is_pattern(given) or _exists(Path(given)) or not looks_like_a_path(given):
        return []
    try:
        found = sorted(glob.glob(given, recursive=True))
    except (OSError, ValueError, re.error):
        return []
    return [_readable(one, Path(one)) for one in found if not one.endswith(SIDECAR) and not Path(one).is_dir()]


def _is_pattern(name: str) -> bool:
    return bool(_PATTERN.search(name)) and not _STARRED.match(name)


def looks_like_a_path(given: str) -> bool:
    """Whether what is there under no such name was meant as a file or folder all the same.

    Example:
        >>> [looks_like_a_path(one) for one in ("acts/layer12", "acts.pt", "~/acts", "1.5", "e.g.", "He reads/writes.")]
        [True, True, True, False, False, False]
    """
    if not given or "\n" in given or len(given) > 1024:
        return False
    if _ADDRESS.match(given) and not any(map(str.isspace, given)):
        return bool(_STORE.match(given) or _NAMES_DATA.search(given))
    if _ROOTED.match(given) or _ENDS_LIKE_DATA.search(given):
        return True
    if not any(map(str.isspace, given)):
        parted = _is_pattern(given) or "/" in given or "\\" in given or given[0] == "~"
        return parted or bool(_NAMES_A_FILE.search(given))
    if given[0] == "/" or _ENDS_LIKE_A_FILE.search(given):
        # With spaces it may be either; where its folder is there, or the root's folder that it begins with, it is a
        # path. "Please read notes.txt" is a text.
        parent = Path(given).parent
        top = Path(*Path(given).parts[:2]) if given[0] == "/" else parent
        return parent != Path() and (_exists(parent) or (top != Path("/") and _exists(top)))
    return False


def names_a_data_file(text: str) -> bool:
    """Whether a text is the name of a file of vectors or rows that is there: to be read, not to be taken for a text."""
    return "\n" not in text and bool(_ENDS_LIKE_DATA.search(text[-40:])) and _exists(Path(text))


def _readable(given: str, path: Path) -> Path:
    if path.is_dir():
        held = sorted(item.name for item in path.iterdir() if item.suffix.lower() in READ_SUFFIXES)
        inside = f"; it holds {', '.join(held[:3])}{', …' if len(held) > 3 else ''}" if held else ""
        raise InputError(f"{given} is a folder{inside}. Pass a file ({', '.join(READ_SUFFIXES)}). {AS_TEXT}")
    if not path.is_file():
        raise InputError(f"{given} is no regular file. To read what comes out of it, pass - and redirect: - < {given}")
    suffix = path.suffix.lower()
    if suffix in READ_SUFFIXES:
        return path
    wanted = f"{given} is a file of a kind that is not read here; expected {', '.join(READ_SUFFIXES)}."
    if suffix in VECTOR_SUFFIXES:
        raise InputError(
            f"{wanted} Vectors in it are read by nla explain, round-trip and nla_sdk.vectors.load; `nla vectors "
            f"{given}` says what it holds."
        )
    if suffix in CONVERSIONS:
        line = CONVERSIONS[suffix].replace("{name}", path.name).replace("{stem}", path.stem)
        raise InputError(f"{wanted} In Python: {line}")
    if _NAMES_DATA.search(path.name):
        raise InputError(f"{wanted} Write what it holds as one of these with the tool that made it.")
    raise InputError(f"{wanted} To take its content as text, pass - and redirect it: - < {given}")


def _shown(given: str) -> str:
    return given if len(given) <= 40 else f"{given[:40]}…"


def is_json(text: str) -> bool:
    """Whether a text is a list or an object of JSON that holds something."""
    if not (text.startswith(("[", "{")) and text.endswith(("]", "}"))):
        return False
    try:
        return isinstance(parse_json(text), (list, dict)) and text not in ("[]", "{}")
    except ValueError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text is seldom a valid file name
        return False
