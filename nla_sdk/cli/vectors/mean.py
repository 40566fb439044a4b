"""`nla mean REF`: where a base's activations lie at a layer, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ContractError, InputError, MissingFileError
from ...io.progress import progress_bar, say

if TYPE_CHECKING:
    from ...model.extraction import Extractor


def write(
    ref: str, out: Path, layer: int | None, texts: str | None, column: str | None, *, overwrite: bool, **how: Any
) -> None:
    """Measure it and write it.

    Args:
        ref: a pair (a half, a folder, demo), whose source and layer are read, or a base model.
        texts: a file: .txt (a text a line), .parquet or .jsonl with a column of texts; None: the built-in ones.
        how: device, dtype, quantization, revision, local_files_only, as for `NLAPair.from_pretrained`.
    Raises:
        InputError: OUT is there, or of a base no layer is said. Others as of the pair, the base and the texts.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"{out}: expected a file name that ends with .safetensors.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already. Pass --overwrite to replace it, or another -o.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"The folder {out.parent} does not exist; make it first.")
    read_of = _texts(texts, column) if texts is not None else []

    from dataclasses import replace

    from ...io.files import atomic
    from ...model.statistics.measure import built_in_texts, measure_mean

    read, model, layer = _source(ref, layer, **how)
    with progress_bar(len(read_of) or len(built_in_texts()), "text", f"layer {layer}") as bar:
        mean = measure_mean(read, layer, read_of, bar.update)
    with atomic(out) as sibling:
        replace(mean, model=model).save(sibling)
    norms = f"‖mean‖ {mean.vector.norm():.4g}, centred norm {mean.spread:.4g}"
    say(f"wrote {out}: layer {layer} of {model}, {norms}, of {mean.rows:,} tokens")


def _source(ref: str, layer: int | None, **how: Any) -> tuple[Extractor, str, int]:
    """What is read, what the model is called, at which layer."""
    from ...model.extraction import Extractor
    from ...pair import NLAPair

    try:
        pair = NLAPair.from_pretrained(ref, **how)
    except (MissingFileError, ContractError) as error:
        read = _base(ref, error, **how)
        if layer is None:
            raise InputError(f"{ref} is a model, no pair: say the layer whose output is read (--layer).") from None
        return read, read.backbone.ref, layer
    return Extractor(pair.source, pair.source_adapter), str(pair.origin.model), pair.layer if layer is None else layer


def _base(ref: str, error: Exception, **how: Any) -> Extractor:
    """A base model that is no half of a pair; `error` says why not, and goes on where it is no model either."""
    from ...errors import NLAError
    from ...halves.memory.bases import Base
    from ...model.extraction import Extractor

    where = {"local_files_only": how.pop("local_files_only"), "cache_dir": None, "token": None}
    options = {**how, "compute_dtype": None, "trust_remote_code": False}
    try:
        return Extractor(Base(ref, revision=options.pop("revision"), where=where, options=options).load())
    except NLAError:
        raise error from None


def _texts(given: str, column: str | None) -> Sequence[str]:
    from ...io.rows import sources

    source = sources.open_source(given, ("text",), column=column, holds=(sources.TEXTS,), lines=True)
    if source.path is None:
        raise InputError(f"--texts {given}: there is no such file; expected .txt (a text a line), .parquet or .jsonl.")
    source.check()
    return [text for table in source.read(0) for text in table[source.column].to_pylist()]
