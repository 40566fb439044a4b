"""The families of RELEASES.md that have full facts, each with a builder: folder, bases → Family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import at_home, easy, lenses, oracles, reference_like, templates
from .bases import Bases
from .family import Family

FAMILIES: dict[str, Callable[[Path, Bases], Family]] = {
    "kitft on Qwen": reference_like.kitft,
    "kitft on Gemma 3": partial(reference_like.kitft, kind="gemma3", scale=80000.0, marker="㈜"),
    "kitft on Llama": partial(reference_like.kitft, kind="llama", scale=30.0, marker="㎡"),
    "Solshine": reference_like.solshine,
    "syvb bullets": reference_like.matryoshka,
    "syvb list by the tagged prompt": partial(reference_like.matryoshka, template=templates.KITFT),
    "tiny-nla code-decoder": reference_like.code_decoder,
    "nla-at-home single layer": at_home.single_layer,
    "nla-at-home with the depth in both prompts": partial(at_home.single_layer, reading=templates.AR_DEPTH + "㈎"),
    "nla-at-home universal": at_home.universal,
    "nla-at-home universal at another layer": partial(at_home.universal, layer=1, percent=25),
    "nanoNLA merged": easy.merged,
    "nanoNLA merged with the norm kept": partial(easy.merged, norm="kept"),
    "EasyNLA with the norm kept": easy.easynla,
    "EasyNLA with the norm stripped": partial(easy.easynla, stripped=True),
    "EasyNLA without BOS": partial(easy.easynla, kind="qwen3", stripped=False),
    "achand45 whole AR": easy.stripped_full,
    "two LoRAs at once": easy.two_loras,
    "LoRA on a merged parent": easy.on_a_parent,
    "LoRA on the SFT adapter": easy.on_the_sft,
    "several layers in one prompt": easy.several_layers,
    "oracle": oracles.oracle,
    "oracle with one vector": partial(oracles.oracle, count=1, layer=3, question="Who speaks?"),
    "oracle that replaces": oracles.replacing,
    "olens": lenses.bullets,
    "olens at another layer": partial(lenses.bullets, layer=3),
    "frozen multiplier": lenses.multiplied,
    "linear maps": lenses.mapped,
    "linear maps of another model": partial(lenses.mapped, tag=lenses.TAGS[1]),
}
