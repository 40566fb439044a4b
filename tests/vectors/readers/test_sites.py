"""Blocks by the names of sites, in transformer-lens and in transformers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import InputError
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import SiteError
from nla_sdk.vectors.readers.sites import layer_of
from tests.vectors.kept import FILES

BLOCKS = st.integers(0, 200)
PREFIXES = st.sampled_from(["", "model.", "transformer.", "gpt_neox.", "model.language_model.", "model.decoder."])
LISTS = st.sampled_from(["layers", "h", "blocks", "layer"])


@given(BLOCKS, st.sampled_from(["hook_resid_post", "hook_out", "HOOK_RESID_POST"]))
def test_the_stream_behind_a_block_is_that_blocks(block, hook):
    assert layer_of(f"blocks.{block}.{hook}", "sae") == block


@given(BLOCKS, st.sampled_from(["hook_resid_pre", "hook_in"]))
def test_the_stream_before_a_block_is_that_of_the_block_before(block, hook):
    assert layer_of(f"blocks.{block}.{hook}", "sae") == block - 1


@given(BLOCKS, PREFIXES, LISTS)
def test_a_modules_output_is_its_blocks_and_its_input_that_of_the_block_before(block, prefix, name):
    assert layer_of(f"{prefix}{name}.{block}", "sae") == layer_of(f"{prefix}{name}.{block}.output", "sae") == block
    assert layer_of(f"{prefix}{name}.{block}.input", "sae") == block - 1


@given(BLOCKS, PREFIXES, LISTS, st.text("abcdefghij_.", min_size=1, max_size=20).filter(lambda rest: rest.strip(".")))
def test_whatever_is_inside_a_block_is_refused(block, prefix, name, rest):
    with pytest.raises(SiteError, match="^sae is of "):
        layer_of(f"{prefix}{name}.{block}.{rest}", "sae")


@pytest.mark.parametrize("site", ["hook_embed", "embed_tokens", "model.embed_tokens", "wte", "gpt_neox.embed_in"])
def test_embeddings_are_before_all_blocks(site):
    assert layer_of(site, "sae") == -1


@pytest.mark.parametrize("site", ["mine", "vision_tower.layers.3", "sae_layers.3", "layers.3x", "3", "h.99999", ""])
def test_of_other_names_nothing_is_known(site):
    assert layer_of(site, "sae") is None


def test_layers_are_given_one_for_each_row_or_not_at_all():
    rows = list(range(12))
    assert load(FILES / "sae_lens_6" / "topk", layer=rows).layer == tuple(rows)
    assert load(f"{FILES / 'sae_lens_6' / 'topk'}#4", layer=rows).layer == 4
    with pytest.raises(InputError, match="has 12 vectors, and 3 layers were given"):
        load(FILES / "sae_lens_6" / "topk", layer=[1, 2, 3])
    assert load(FILES / "sae_lens_6" / "topk", layer=np.arange(12).tolist()).layers == tuple(rows)
