"""Caches of transformer-lens: of a batch, of one text, of a LayerNorm model as it is and in compatibility mode.

pip install torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0
python tests/vectors/make/transformer_lens_files.py
"""

import tempfile
from pathlib import Path

import torch
from rows import expect, folder
from safetensors.torch import save_file
from small import POSITIVE, gpt2, llama, save, tokenizer
from transformer_lens.model_bridge import TransformerBridge

POST = "blocks.1.hook_resid_post"
here, root = folder("transformer_lens"), Path(tempfile.mkdtemp())
ids = tokenizer()(
    [text.replace("old ", "").replace("big ", "") for text in POSITIVE[:2]], return_tensors="pt"
).input_ids
expected = {}


def states(model: torch.nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The output of each block, by plain hooks on transformers' model."""
    found: list[torch.Tensor] = []
    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h

    def keep(_, __, out) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)

    held = [block.register_forward_hook(keep) for block in blocks]
    with torch.no_grad():
        model(tokens)
    for one in held:
        one.remove()
    return found


def kept(name: str, cache: dict, wanted: list[str], write, hook: str = "", plain=None, layer: int = 0) -> None:
    """Write hooks; `hook` is expected of them, after it was held against the output of block `layer`."""
    part = {key: cache[key].detach().contiguous() for key in wanted}
    write(part, here / name)
    if hook:
        assert torch.allclose(part[hook], plain, rtol=1e-5, atol=1e-5), name
        expected[name] = {"rows": part[hook].reshape(-1, plain.shape[-1]).numpy(), "layer": layer}


def bridge(model: torch.nn.Module, name: str) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(save(model, root / name)), device="cpu", dtype=torch.float32)


plain = states(llama(), ids)
_, cache = bridge(llama(), "llama").run_with_cache(ids)
held = cache.cache_dict
ends = ("hook_resid_pre", "hook_resid_post", "attn.hook_out", "mlp.hook_out", "hook_embed")
names = [key for key in held if key.endswith(ends)]
kept("batch.pt", held, names, torch.save, POST, plain[1], 1)
outs = [f"blocks.{block}.hook_out" for block in range(3)]
kept("outs.safetensors", held, outs, save_file, outs[2], plain[2], 2)
kept("inputs.safetensors", held, ["blocks.1.hook_resid_pre"], save_file, "blocks.1.hook_resid_pre", plain[0], 0)
_, cache = bridge(llama(), "llama").run_with_cache(ids[:1], remove_batch_dim=True)
kept("one.safetensors", cache.cache_dict, [POST], save_file, POST, plain[1][0], 1)
kept("elsewhere.pt", held, ["blocks.1.attn.hook_out", "blocks.1.mlp.hook_out"], torch.save)

plain = states(gpt2(), ids)
_, cache = bridge(gpt2(), "gpt2").run_with_cache(ids)
kept("layernorm.safetensors", cache.cache_dict, [POST], save_file, POST, plain[1], 1)
model = bridge(gpt2(), "gpt2")
model.enable_compatibility_mode()
_, cache = model.run_with_cache(ids)
centred = plain[1] - plain[1].mean(-1, keepdim=True)
kept("centred.safetensors", cache.cache_dict, [POST], save_file, POST, centred, 1)
expect("transformer_lens", expected)
