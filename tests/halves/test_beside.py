"""The calibration of claims is found beside the AV, or one folder above, and is of these halves or none."""

from __future__ import annotations

import shutil

import pytest

from nla_sdk.claims.calibration import CLAIMS, Calibration, Weight, Weights
from nla_sdk.errors import MismatchedHalvesError
from nla_sdk.halves.beside.claims import calibration_of
from nla_sdk.halves.beside.digests import half_digests
from nla_sdk.halves.half import Half


def halves(folder):
    return Half.find(str(folder / "av"), "av"), Half.find(str(folder / "ar"), "ar")


def fitted(*of: Half, data: str = "rows.parquet") -> Calibration:
    made_from = {
        name: value for half in of for name, value in half_digests(half.role, half.folder, half.contract).items()
    }
    weights = Weights(n=9, supported=4, intercept=0.5, receipts={"repeats": Weight(weight=1.0, mean=0.0, std=2.0)})
    return Calibration(made_from={**made_from, data: "0" * 64}, data=data, unit="gain", kinds={"word": weights})


@pytest.mark.parametrize("place", ["av", "."])
def test_it_lies_beside_the_av_or_one_folder_above(copied, place):
    folder = copied()
    av, ar = halves(folder)
    wanted = fitted(av, ar)
    wanted.save(folder / place / CLAIMS)
    assert calibration_of(av, ar) == (wanted, "")
    assert calibration_of(av, None) == (wanted, "")


def test_where_there_is_none_it_is_said_why(copied):
    av, ar = halves(copied())
    assert calibration_of(av, ar) == (
        None,
        f"no claims.json lies beside {av.ref}: nobody has measured how often its claims hold",
    )
    assert calibration_of(None, ar) == (None, "the pair was loaded without its AV, beside which claims.json lies")


def test_one_of_other_halves_is_refused_by_the_names_of_their_files(copied):
    folder = copied()
    av, ar = halves(folder)
    fitted(av, ar).save(folder / "av" / CLAIMS)
    with (folder / "ar" / "linear_head.pt").open("ab") as file:
        file.write(b"more")
    shutil.copy(folder / "av" / "adapter_model.safetensors", folder / "av" / "further.safetensors")
    with pytest.raises(MismatchedHalvesError, match=r"av/further.safetensors is new; ar/linear_head.pt differs"):
        calibration_of(av, ar)
    (folder / "av" / "further.safetensors").unlink()
    assert calibration_of(av, None)[0] is not None  # of an AR that is not loaded nothing is asked


def test_one_that_names_no_half_is_refused(copied):
    folder = copied()
    av, ar = halves(folder)
    fitted(av).save(folder / "av" / CLAIMS)
    with pytest.raises(MismatchedHalvesError, match="claims.json was fitted with other halves than .*: it names no AR"):
        calibration_of(av, ar)


def test_a_head_that_publishing_put_beside_the_measured_one_is_no_other_half(copied):
    folder = copied()
    av, ar = halves(folder)
    fitted(av, ar).save(folder / "av" / CLAIMS)
    shutil.copy(folder / "ar" / "adapter_model.safetensors", folder / "ar" / "linear_head.safetensors")
    assert calibration_of(av, ar)[0] is not None
