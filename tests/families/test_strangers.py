"""Two halves of different families never make a pair in silence; what was stated of a family is saved with it."""

from __future__ import annotations

import warnings

import pytest

from nla_sdk import NLAPair
from nla_sdk.errors import MismatchedHalvesError, NLAError, UnmatchedPairWarning

from . import plain, templates
from .family import without

pytestmark = pytest.mark.filterwarnings("ignore::nla_sdk.errors.UnmatchedPairWarning")  # unless a test looks for it
# Families on one base and at one layer differ in nothing that a base's name or a shape could tell.
AVS = {
    "kitft on Qwen": "qwen2.5",
    "nanoNLA merged": "qwen3",
    "EasyNLA without BOS": "qwen3",
    "tiny-nla code-decoder": "qwen3",
    "linear maps": "qwen3",
    "EasyNLA with the norm kept": "gemma3",
    "kitft on Gemma 3": "gemma3",
    "nla-at-home single layer": "llama",
    "nla-at-home universal": "phi4",
    "Solshine": "gemma4",
    "LoRA on the SFT adapter": "qwen3.6",
    "frozen multiplier": "qwen3.6",
}
ARS = {
    "kitft on Qwen": "qwen2.5",
    "nanoNLA merged": "qwen3",
    "EasyNLA without BOS": "qwen3",
    "linear maps": "qwen3",
    "EasyNLA with the norm stripped": "gemma3",
    "achand45 whole AR": "gemma3",
    "kitft on Gemma 3": "gemma3",
    "nla-at-home single layer": "llama",
    "kitft on Llama": "llama",
    "two LoRAs at once": "qwen3.6",
}
ON_ONE_BASE = [(av, ar) for av in AVS for ar in ARS if AVS[av] == ARS[ar] and av != ar]
ON_TWO_BASES = [
    ("kitft on Qwen", "nanoNLA merged"),
    ("Solshine", "kitft on Gemma 3"),
    ("nla-at-home universal", "kitft on Llama"),
]


@pytest.fixture(scope="session")
def saved(tmp_path_factory, loaded):
    """name → the family's pair as `save_pretrained` wrote it: what was stated is in its contracts."""
    folders = {}

    def save(name: str):
        if name not in folders:
            folders[name] = loaded(name).save_pretrained(tmp_path_factory.mktemp("saved") / "pair")
        return folders[name]

    return save


@pytest.mark.parametrize(("av", "ar"), ON_ONE_BASE)
def test_halves_of_two_families_on_one_base_pair_with_a_warning_or_not_at_all(av, ar, saved):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pair = NLAPair.from_pretrained(saved(av) / "av", saved(ar) / "ar")
        except MismatchedHalvesError as refused:
            assert str(saved(av)) in str(refused) and str(saved(ar)) in str(refused)
            return
    assert [one for one in caught if issubclass(one.category, UnmatchedPairWarning)]
    assert not pair.matched


@pytest.mark.parametrize(("av", "ar"), ON_TWO_BASES)
def test_halves_on_two_bases_are_refused(av, ar, saved):
    with pytest.raises(MismatchedHalvesError):
        NLAPair.from_pretrained(saved(av) / "av", saved(ar) / "ar")


def test_halves_of_two_layers_are_refused(saved, family, loaded):
    other = loaded("nanoNLA merged").reconstructor.contract.replace(layer=1, ar_num_blocks=2)
    folder = saved("nanoNLA merged").parent / "other"
    loaded("nanoNLA merged").save_pretrained(folder)
    other.save(folder / "ar")
    with pytest.raises(MismatchedHalvesError, match="layer"):
        NLAPair.from_pretrained(saved("nanoNLA merged") / "av", folder / "ar")


SAVED = [
    "kitft on Gemma 3",
    "Solshine",
    "nla-at-home universal",
    "EasyNLA with the norm kept",
    "two LoRAs at once",
    "linear maps",
    "oracle with one vector",
    "tiny-nla code-decoder",
]


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_family_loads_without_another_word_and_gives_the_same(name, family, loaded, saved):
    known = family(name)
    vectors, expected = known.clear_rows()
    matched = loaded(name).matched
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not matched:  # their own sidecars do not name each other
            warnings.simplefilter("ignore", UnmatchedPairWarning)
        again = NLAPair.from_pretrained(saved(name))
    assert list(known.explain(again, vectors[:4])) == expected[:4]
    if known.ar is not None:
        texts = templates.TEXTS[:4]
        assert plain.distance(known.reconstruct(again, texts), known.ar(texts)) < 1e-4


TRIED = [
    "kitft on Llama",
    "Solshine",
    "nla-at-home single layer",
    "nanoNLA merged",
    "EasyNLA with the norm kept",
    "LoRA on the SFT adapter",
    "olens at another layer",
]
# Of these docs/contract.md says what their absence means; all others are refused, or follow from the rest.
MEANT_WHEN_ABSENT = ("output", "enable_thinking", "prefill", "max_new_tokens")


@pytest.mark.parametrize("name", TRIED)
def test_a_fact_that_is_left_out_is_refused_by_name_or_makes_no_difference(name, family):
    known = family(name)
    vectors, expected = known.clear_rows()
    texts, rows = templates.TEXTS[:3], vectors[:3]
    for fact in without(known.stated, *MEANT_WHEN_ABSENT):
        try:
            pair = NLAPair.from_pretrained(
                **({"av": None} | dict(known.halves)), contract=without(known.contract, fact)
            )
            written = list(known.explain(pair, rows))
            read = None if known.ar is None else known.reconstruct(pair, texts)
        except NLAError:
            continue
        assert written == expected[:3], f"without {fact} other words are written, and nothing is said"
        if known.ar is not None:
            assert plain.distance(read, known.ar(texts)) < 1e-4, f"without {fact} another vector comes back"
