"""The reference layout: two whole checkpoints that transformers loads, with the sidecar that its readers ask for.

The AV is a causal language model whose prompt is one user message of its chat template; the marker's input embedding
is overwritten with the vector at norm `extraction.injection_scale`. The AR is cut to the blocks that run, has no final
norm and no lm_head; the state of the prompt's last token goes through `value_head.safetensors`, a matrix without bias.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..assembly import Assembly
from ..contract import SIDECAR_NAME, Contract
from ..contract.file import write
from ..errors import ExportError
from ..halves.half import Half, present
from ..halves.saving import free_places
from ..io.files import atomic
from ..model.quiet import quiet
from ..model.reconstructor import Reconstructor
from ..model.statistics.states import STATISTICS_FILE
from ..model.verbalizer import DEFAULT_NEW_TOKENS, Verbalizer
from ..model.weights.quantized import holds_4bit
from .checkpoint import size, truncated, whole
from .constant import offset_of
from .prompts import with_template
from .reading import HEAD_FILE, ar_distance, av_shift
from .refusals import has_bias, refuse
from .sidecar import MEAN_FILE, sidecar
from .words import readme

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TERMS = re.compile(r"licen[cs]e|notice|terms|use_policy|copying", re.IGNORECASE)
_BESIDE = 100 << 20
"""What a half takes on the disk beside its weights, at most: tokenizer, head, texts."""


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        folder: holds `av` and `ar`, as far as the pair has them.
        layout, dtype: as asked for.
        av_shift: how far the log-probability of a likely token after the AV's prompt moved, at most, over a few
            vectors, when the AV was read back with transformers alone; None without an AV.
        ar_distance: how far the AR's directions moved, ‖â − b̂‖ at most, over a few texts; None without an AR.
        notes: what was folded into the weights, and what is left to whoever runs it.
    """

    folder: Path
    layout: str
    dtype: str
    av_shift: float | None
    ar_distance: float | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.layout} layout, {self.dtype}; read back with transformers alone:"]
        if self.av_shift is not None:
            lines.append(f"  av: the next token's log-probability moved by {self.av_shift:.2g} at most")
        if self.ar_distance is not None:
            lines.append(f"  ar: directions moved by {self.ar_distance:.2g} at most")
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


def export(
    pair: Assembly,
    folder: Path,
    *,
    dtype: str,
    overwrite: bool,
    caller_subtracts_mean: bool,
    pair_id: str | None,
) -> Exported:
    """Write a pair in the reference layout; arguments and errors are those of `NLAPair.export`.

    Args:
        pair_id: put on record in both halves.
    """
    refuse(pair.verbalizer, pair.reconstructor, caller_subtracts_mean=caller_subtracts_mean)
    halves = present(pair.av, pair.ar)
    places = free_places(halves, folder, overwrite=overwrite)
    _check_space(pair, folder, DTYPES[dtype])
    notes: list[str] = []
    moved: dict[str, float] = {}
    with ExitStack() as open_folders:
        for half, place in places:
            sibling = open_folders.enter_context(atomic(place))
            sibling.mkdir(parents=True)
            writing = _Writing(pair, half, sibling, dtype, pair_id)
            moved[half.role], said = writing.av() if half.role == "av" else writing.ar()
            notes += said
    return Exported(folder, "reference", dtype, moved.get("av"), moved.get("ar"), tuple(dict.fromkeys(notes)))


@dataclass
class _Writing:
    """One half on its way to the disk."""

    pair: Assembly
    half: Half
    folder: Path
    dtype: str
    pair_id: str | None

    def av(self) -> tuple[float, list[str]]:
        verbalizer = self.pair.verbalizer
        assert verbalizer is not None, "there is an AV"
        contract, backbone = verbalizer.contract, verbalizer.backbone
        scale = _scale(verbalizer)
        prompt = contract.av_prompt()
        tokenizer = with_template(backbone.tokenizer, contract, prompt, verbalizer.prompt_ids)
        notes = _precision(verbalizer, "AV")
        if contract.prompt_style == "raw":
            notes.append("The AV's prompt is raw text: its chat template renders one user message byte for byte.")
        if contract.prefill is not None:
            notes.append("The beginning of the AV's answer is part of its chat template's generation prompt.")
        if contract.output_form == "opened" or prompt.rstrip().endswith("<explanation>") or contract.prefill:
            notes.append("The AV's explanation is opened in the prompt: what it writes ends at </explanation>.")
        if contract.output_no_repeats:
            notes.append(
                "The AV says no item of a list twice (`output.no_repeats`), which is a rule of nla-sdk's decoding: a "
                "server forbids nothing, so where the AV would repeat itself its texts repeat, and differ from there."
            )
        if contract.activation_mean is not None:
            notes.append(f"The AV reads v − μ: whoever runs it subtracts {MEAN_FILE} from the activation first.")
        model = whole(backbone, verbalizer.adapter, DTYPES[self.dtype])
        self._save(model, generation(verbalizer))
        del model
        tokenizer.save_pretrained(self.folder)
        self._beside(contract, scale, None, notes)
        return av_shift(self.folder, verbalizer, scale, DTYPES[self.dtype]), notes

    def ar(self) -> tuple[float, list[str]]:
        from safetensors.torch import save_file

        reconstructor = self.pair.reconstructor
        assert reconstructor is not None, "there is an AR"
        contract, backbone = reconstructor.contract, reconstructor.backbone
        blocks, dtype = int(contract.ar_num_blocks or 0), DTYPES[self.dtype]
        notes, offset = _precision(reconstructor, "AR"), None
        if contract.ar_heads == "none":
            weight = torch.eye(backbone.d_model)
            notes.append(f"The AR has no head: {HEAD_FILE} holds the identity.")
        else:
            weight = reconstructor.head.weight.detach().float().cpu()
        if has_bias(reconstructor):
            offset = offset_of(weight, reconstructor.head.bias.detach().cpu())
            notes.append(
                f"The bias of the AR's head is folded in: block {blocks} adds to every state the constant that the "
                "head's matrix maps to it, and does nothing else."
            )
        if contract.ar_target == "centred":
            notes.append("The AR gives the direction of v − μ: whoever runs it compares with that.")
        model = truncated(backbone, reconstructor.adapter, dtype, blocks, offset)
        blocks = model.config.num_hidden_layers
        self._save(model, None)
        del model
        save_file({"weight": weight.to(dtype).contiguous()}, self.folder / HEAD_FILE, metadata={"format": "pt"})
        backbone.tokenizer.save_pretrained(self.folder)
        scale = _scale(self.pair.verbalizer) if self.pair.verbalizer else None
        self._beside(contract, scale, blocks, notes)
        return ar_distance(self.folder, reconstructor, contract, dtype), notes

    def _save(self, model: PreTrainedModel, writes: GenerationConfig | None) -> None:
        # The base's own settings for writing (sampling, a penalty on repetition) are none of the pair's.
        if writes is not None:
            model.generation_config = writes
        with quiet():
            model.save_pretrained(self.folder, max_shard_size="5GB")
        if writes is None:  # what it has no head for
            (self.folder / "generation_config.json").unlink(missing_ok=True)

    def _beside(self, contract: Contract, scale: float | None, blocks: int | None, notes: list[str]) -> None:
        """Sidecar, mean, the base's terms, and a page that says what is what."""
        said = {"layout": "reference", "dtype": self.dtype, "nla_sdk": __version__, "notes": notes}
        provenance: dict[Any, Any] = {**contract.provenance, "export": said}
        if self.pair_id is not None:
            provenance["pair_id"] = self.pair_id
        bos = getattr(self._tokenizer, "bos_token_id", None) is not None
        values = sidecar(
            contract,
            self.pair.av_contract,
            self.pair.ar_contract,
            scale=scale,
            blocks=blocks,
            bos=bos,
            provenance=provenance,
        )
        if self.pair.read_from is not None:
            values["source_model"] = self.pair.read_from.ref
        write(self.folder / SIDECAR_NAME, values)
        for name, source in (
            (MEAN_FILE, contract.activation_mean),
            (STATISTICS_FILE, contract.activation_statistics),
        ):
            if source is not None:
                shutil.copyfile(self.half.folder / source, self.folder / name)
        for place in {self.half.folder, self.pair.base.path or self.half.folder}:
            for file in place.iterdir():
                if file.is_file() and _TERMS.search(file.name) and file.suffix in ("", ".md", ".txt", ".html"):
                    shutil.copyfile(file, self.folder / file.name)
        names = [file.name for file in self.folder.iterdir()]
        page = readme(values, notes, self.half.repo_id, names)
        (self.folder / "README.md").write_text(page, encoding="utf-8")
        for file in self.folder.iterdir():  # safetensors makes files that only their owner can read
            shutil.copymode(self.folder / "README.md", file)

    @property
    def _tokenizer(self) -> Any:
        half = self.pair.verbalizer if self.half.role == "av" else self.pair.reconstructor
        assert half is not None
        return half.backbone.tokenizer


def generation(verbalizer: Verbalizer) -> GenerationConfig:
    """How the AV writes, as `generate` reads it: what ends an output, its budget, its author's sampling if any."""
    from transformers import GenerationConfig

    contract, tokenizer = verbalizer.contract, verbalizer.backbone.tokenizer
    ends = verbalizer.end_ids
    settings: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": sorted(ends) or None,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=None),
        "max_new_tokens": contract.max_new_tokens or DEFAULT_NEW_TOKENS,
        "do_sample": bool(contract.output_temperature),
    }
    if contract.output_temperature:
        names = ("temperature", "top_p", "top_k")
        settings |= {name: value for name in names if (value := getattr(contract, f"output_{name}")) is not None}
        settings.setdefault("top_k", 0)  # absent, generate takes 50
    return GenerationConfig(**settings)


def _scale(verbalizer: Verbalizer) -> float:
    """The norm that the marker's embedding is given."""
    injection, contract = verbalizer.contract.injection, verbalizer.contract
    assert injection is not None and injection.site == "embedding"
    if injection.norm == "match":  # to the marker's own embedding, which is always the same
        backbone = verbalizer.backbone
        with torch.no_grad(), backbone.using(verbalizer.adapter):
            own = backbone.embedding(torch.tensor([[contract.injection_token_id]], device=backbone.device))
        return injection.coefficient * float(own.float().norm())
    assert injection.scale is not None
    return injection.coefficient * injection.scale


def _precision(half: Verbalizer | Reconstructor, name: str) -> list[str]:
    backbone = half.backbone
    if holds_4bit(backbone.model):
        return [f"The {name}'s 4-bit weights ({backbone.precision}) were unpacked before its adapter was merged."]
    if backbone.dtype != torch.float32:
        return [f"The {name} was in memory in {backbone.precision}, so no weight of its base is more exact than that."]
    return []


def _check_space(pair: Assembly, folder: Path, dtype: torch.dtype) -> None:
    needed = 0
    if pair.verbalizer is not None:
        needed += size(pair.verbalizer.backbone, dtype) + _BESIDE
    if pair.reconstructor is not None:
        reconstructor = pair.reconstructor
        needed += size(reconstructor.backbone, dtype, reconstructor.contract.ar_num_blocks) + _BESIDE
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        raise ExportError(
            f"The export takes {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free. Make room, choose "
            "another disk, or dtype='bfloat16' (--dtype bfloat16). Nothing has been written."
        )
