"""What a checkpoint's other files say of it, read from their headers alone: for `Contract.load(…, found=…)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ContractError, first_line
from ..io.parsing import parse_json
from ..io.text import ENCODING
from ..model.weights.files import AR_ADAPTER, HEAD_FILES, LAYER_HEAD_FILES
from ..model.weights.leftovers import blocks_without_final_norm

AR_META = "ar_meta.json"


def files_say(folder: Path) -> dict[str, Any]:
    """Facts of a contract that files beside it state, in its canonical form; empty where they state none.

    Weights that end before a final norm are an AR's that dropped it, and runs all the blocks it has. `ar_meta.json` is
    EasyNLA's: how many blocks run, whether the final norm was stripped (absent or false: it stays), the LoRA's alpha;
    its reader makes every such LoRA rank-stabilised, and writes that nowhere. Heads for each layer go by a name of
    their own.

    Args:
        folder: of a half, on this disk. No weight is read.
    Raises:
        ContractError: `ar_meta.json` is no JSON mapping, or holds something else than numbers where they belong.
    Example:
        >>> files_say(Path("kitft-ar"))  # doctest: +SKIP
        {'ar_num_blocks': 21, 'ar': {'final_norm': 'dropped'}}
    """
    said: dict[str, Any] = {}
    ar: dict[str, Any] = {}
    if (folder / "config.json").is_file() and (blocks := blocks_without_final_norm(folder)) is not None:
        said["ar_num_blocks"], ar["final_norm"] = blocks, "dropped"
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names.intersection(LAYER_HEAD_FILES) and not names.intersection(HEAD_FILES):
        ar["heads"] = "per_layer"
    is_lora = AR_ADAPTER in names
    if is_lora:
        said |= {"role": "ar", "weights": {"kind": "lora", "rslora": True}}
    if AR_META in names:
        meta = _read(folder / AR_META)
        stripped = meta.get("final_norm_stripped")
        if is_lora or stripped is not None:
            ar["final_norm"] = "dropped" if stripped else "kept"
        if meta.get("ar_num_layers") is not None:
            said["ar_num_blocks"] = meta["ar_num_layers"]
        if is_lora and meta.get("lora_alpha") is not None:
            said["weights"]["alpha"] = meta["lora_alpha"]
    return {**said, **({"ar": ar} if ar else {})}


def _read(file: Path) -> dict[str, Any]:
    try:
        meta = parse_json(file.read_text(encoding=ENCODING))
    except (ValueError, OSError) as error:
        raise ContractError(f"{file} cannot be read: {first_line(error)}. Download it again.") from error
    if not isinstance(meta, dict):
        raise ContractError(f"{file} holds a {type(meta).__name__}; expected a mapping of keys to values.")
    stripped = meta.get("final_norm_stripped")
    if stripped is not None and not isinstance(stripped, bool):
        raise ContractError(f"{file}: `final_norm_stripped` is {stripped!r}; expected true or false.")
    return meta
