"""A prompt's embeddings as they enter the first block, of a model that is described here and runs elsewhere.

Of such a model its config, its tokenizer and those rows of its embedding table that prompts have are read; no block is.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import LoadError, MissingFileError, first_line
from ..halves.demo_base import DEMO_BASE_ID
from ..halves.fetch import TOKENIZER_FILES, fetch_base
from ..halves.hub.download import download_folder
from ..halves.hub.references import local_folder, split_repo
from ..halves.memory.bases import holds_tokenizer
from ..io.parsing import parse_json
from ..model.quiet import quiet
from ..model.weights.files import read_header
from ..model.weights.finite import refuse_non_finite
from ..model.weights.loading import NO_MODEL, text_config
from ..model.weights.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from ..halves.half import Half
    from ..halves.memory.bases import Base

TABLE = "embed_tokens.weight"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SCALED = frozenset({"gemma3_text"})
"""Model types whose embedding module multiplies by √d, in the model's dtype; both servers take what comes out of it."""


class Described:
    """A model by its files: what a `Backbone` says of itself, without weights.

    Args:
        folder: holds config, tokenizer and the file with the embedding table.
        ref: what messages call it.
        reads, probes: which tokenizer, see `load_tokenizer`.
        tokenizer: a folder whose tokenizer is read if this one holds none.
    Raises:
        LoadError, MissingFileError, DamagedFileError: it is none.
    """

    quantization = None
    precision = None  # what the server runs at is not known
    device = torch.device("cpu")

    def __init__(
        self,
        folder: Path,
        ref: str,
        *,
        reads: str | None = None,
        probes: Sequence[str] = (),
        tokenizer: Path | None = None,
    ) -> None:
        from safetensors import safe_open
        from transformers import AutoConfig, GenerationConfig

        self.folder, self.ref = folder, ref
        try:
            with quiet():
                config = AutoConfig.from_pretrained(folder)
                writes = (
                    GenerationConfig.from_pretrained(folder)
                    if (folder / "generation_config.json").is_file()
                    else GenerationConfig.from_model_config(config)
                )
        except NO_MODEL as error:
            raise LoadError(f"{ref} has no config that can be read: {first_line(error)}") from error
        self.model = SimpleNamespace(config=config, generation_config=writes)
        self.tokenizer_folder = tokenizer or folder
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.tokenizer_folder, choice=reads, probes=probes)
        self.d_model: int = self.text.hidden_size
        self.num_blocks: int = self.text.num_hidden_layers
        self.file, self.name = table_of(folder)
        self._rows: dict[int, torch.Tensor] = {}
        with safe_open(self.file, framework="pt") as file:
            table = file.get_slice(self.name)
            shape, self.dtype = table.get_shape(), table[:1].dtype
        self.vocabulary = self.vocabulary_size = shape[0]
        if len(shape) != 2 or shape[1] != self.d_model or not self.dtype.is_floating_point:
            raise LoadError(
                f"{self.file} holds {self.name} of shape {tuple(shape)} in {self.dtype}; expected rows of "
                f"{self.d_model} floating-point numbers. A quantised table cannot be read here: pass the exported AV."
            )

    @property
    def text(self) -> PretrainedConfig:
        """The config of the language model."""
        return text_config(self.model.config)

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """float32 [n, d_model], what the model's input embedding gives for these tokens.

        Raises:
            NonFiniteWeightsError: NaN or infinity in a row.
        """
        from safetensors import safe_open

        if missing := sorted({*ids} - {*self._rows}):
            with safe_open(self.file, framework="pt") as file:
                table = file.get_slice(self.name)
                rows = torch.cat([table[one : one + 1] for one in missing])
            refuse_non_finite([(self.name, rows)], self.file)
            self._rows.update(zip(missing, self._scaled(rows), strict=True))
        return torch.stack([self._rows[one] for one in ids]).float()

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        if self.text.model_type not in SCALED:
            return rows
        return rows * torch.tensor(self.d_model**0.5).to(rows.dtype)  # rounded first, as transformers does


def table_of(folder: Path) -> tuple[Path, str]:
    """The file with a model's embedding table, and what the table is called in it.

    Raises:
        MissingFileError: there are no weights. LoadError: none or several of that name.
    """
    names = _names(folder)
    found = [name for name in names if name == TABLE or name.endswith(f".{TABLE}")]
    if len(found) != 1:
        raise LoadError(
            f"{folder} holds {len(found)} tensors that end in {TABLE}; expected the embedding table, once. Pass the "
            "folder of the exported AV."
        )
    return folder / names[found[0]], found[0]


def _names(folder: Path) -> Mapping[str, str]:
    """Names of tensors and the file that each is in."""
    if (index := folder / INDEX).is_file():
        weights = parse_json(index.read_bytes())
        weights = weights.get("weight_map") if isinstance(weights, dict) else None
        if not isinstance(weights, dict) or not all(Path(str(name)).name == name for name in weights.values()):
            raise LoadError(f"{index} names no files of this folder. Download it again.")
        return weights
    if not (folder / WHOLE).is_file():
        raise MissingFileError(f"{folder} holds neither {WHOLE} nor {INDEX}; expected the weights of a model.")
    return dict.fromkeys((name for name in read_header(folder / WHOLE) if name != "__metadata__"), WHOLE)


def described(half: Half, base: Base, where: Mapping[str, Any]) -> Described:
    """The model that an AV runs on, with the embeddings that it has there.

    Args:
        where: cache_dir, token, local_files_only; of a base on the Hub only the file with the table is downloaded.
    """
    said = {"reads": half.contract.tokenizer, "probes": half.contract.prompt_texts()}
    spare = next((one for one in (half.folder, *half.adapters) if holds_tokenizer(one)), None)
    if not half.is_adapter:
        return Described(half.folder, half.ref, **said)
    if half.parent is not None:
        folder, ref = half.parent.path, half.parent.ref
    else:
        folder, ref = _base_folder(base, where), base.ref
    return Described(folder, ref, tokenizer=None if holds_tokenizer(folder) else spare, **said)


def _base_folder(base: Base, where: Mapping[str, Any]) -> Path:
    if base.ref in ("demo", DEMO_BASE_ID) or local_folder(base.ref):
        return fetch_base(base.ref, **where).path
    repo, subfolder = split_repo(base.ref, None)
    place = (base.revision, subfolder, where.get("cache_dir"), where.get("token"), where.get("local_files_only", False))
    about = ["config.json", "generation_config.json", "*.safetensors.index.json", *TOKENIZER_FILES]
    folder = download_folder(repo, about, *place) / (subfolder or "")
    if (folder / INDEX).is_file():
        wanted = {file for name, file in _names(folder).items() if name == TABLE or name.endswith(f".{TABLE}")}
    else:
        wanted = {WHOLE}
    return download_folder(repo, [glob.escape(name) for name in wanted], *place) / (subfolder or "")
