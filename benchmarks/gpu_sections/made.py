"""Bases and pairs of a given geometry with random weights, made on the spot: nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .run import GIB, Run


def e2b_config(small: bool) -> Any:
    """Gemma-4-E2B's text model as its public config.json has it (`tests.tiny.e2b_config` states the values)."""
    from tests import tiny

    return tiny.gemma_config() if small else tiny.e2b_config()


def demo_config() -> Any:
    """Gemma 3 270M, the demo pair's base, as its public config.json has it."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=262_144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
        layer_types=["full_attention" if (at + 1) % 6 == 0 else "sliding_attention" for at in range(18)],
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )


def random_base(run: Run, name: str, config: Any) -> tuple[Path, Any, dict[str, Any]]:
    """A base with random bfloat16 weights, made a tensor at a time, so that RAM holds the largest and a file's only.

    Returns:
        Its folder (the same for all sections that name it), its model on the meta device, and what it is.
    Raises:
        RuntimeError: the disk has no room for it.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from nla_sdk.io.files import write_json
    from tests import tiny

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    kept, buffers = model.state_dict(), dict(model.named_buffers())
    weights = dict(model.named_parameters()) | {name: kept[name] for name in kept if name in buffers}  # tied ones once
    total = sum(tensor.nbytes for tensor in weights.values())
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "bytes": total, "config": config.to_diff_dict()}
    folder = run.folder / name
    if (folder / "config.json").is_file():
        return folder, model, facts
    folder.mkdir(exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < total + GIB:
        raise RuntimeError(f"the base takes {total / GIB:.1f} GiB of disk, {free / GIB:.1f} are free: set TMPDIR")
    generator = torch.Generator(run.device).manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}

    def flush() -> None:
        file = f"model-{len(set(places.values())):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, file))
        shard.clear()

    for key, like in weights.items():
        shard[key] = made = torch.ones(like.shape, dtype=torch.bfloat16)
        if like.ndim > 1:  # as tests.tiny.randomize: activations keep their size from block to block
            scale = 0.12 if "embed" in key else 1.5 / like.shape[-1] ** 0.5
            for part in made.view(-1).split(2**26):
                part.copy_(torch.randn(len(part), generator=generator, device=run.device) * scale)
        if sum(tensor.nbytes for tensor in shard.values()) > GIB:
            flush()
    if shard:
        flush()
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    tiny.tokenizer().save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    config.architectures, config.dtype = [type(model).__name__], "bfloat16"
    config.save_pretrained(folder)  # last: a folder that has it is whole
    return folder, model, facts


def random_pair(run: Run, base: Path, model: Any, *, layer: int, blocks: int, rank: int, template: str) -> list[Path]:
    """The folders of an AV and an AR on it, LoRAs of random numbers."""
    from tests import tiny

    shape: dict[str, Any] = {"layer": layer, "rank": rank, "d_model": model.config.get_text_config().hidden_size}
    folder = run.folder / f"{base.name}-pair"
    if not folder.is_dir():
        tiny.lora_av(folder / "av", base, model, **shape, av_template=template)
        tiny.lora_ar(folder / "ar", base, model, blocks=blocks, **shape)
    return [folder / "av", folder / "ar"]
