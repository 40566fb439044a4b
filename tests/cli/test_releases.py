"""`nla releases`: what is known of published checkpoints, offline and without a model's libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nla_sdk.cli.app import main
from nla_sdk.contract.releases.catalogue import families, releases


@pytest.fixture
def nla(capsys, monkeypatch):
    """Run a command in this process in a terminal so wide: its exit code, stdout and stderr."""

    def run(*args: str, width: int = 120) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as end:
            main(["releases", *args])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_release_of_every_family_is_listed_in_any_width(nla, width):
    code, out, err = nla(width=width)
    assert code == 0 and max(map(len, out.splitlines())) <= max(width, 96)  # a long name is not broken
    together = "".join(out.split())
    for family in families():
        assert f"\n{family}\n" in f"\n{out}"
    if width < 100:
        for release in releases():
            assert f"  {release.repo}" in out
    loading = sum(release.runnable for release in releases())
    assert f"{loading} of {len(list(releases()))} entries load" in err and "kitft/nla-qwen2.5-7b-L20-av" in together


def test_a_release_is_listed_with_base_layer_kind_and_what_it_lacks(nla):
    code, out, _ = nla("anicka/nla-qwen2.5", width=80)
    assert code == 0
    assert "    Qwen2.5-7B-Instruct, layer 20, AV LoRA, lacks prompt_style [CK]" in out.splitlines()
    assert "    Qwen2.5-7B-Instruct, layer 20, AR LoRA, yes [CK]" in out.splitlines()
    _, out, _ = nla("ar-v2", width=120)
    row = next(line for line in out.splitlines() if line.startswith("anicka/nla-phi4-universal-ar-v2"))
    assert row.split("  ")[-1].strip() == "CK" and all(cell in row for cell in ("phi-4", "4–38", "AR LoRA", "yes"))


def test_a_family_and_a_text_choose_and_a_folder_says_its_own_facts(nla):
    code, out, _ = nla("--family", "solshine", "INJ20K", "--json")
    found = json.loads(out)
    assert code == 0 and [one["subfolder"] for one in found] == ["inj20k_*", "norms_inj20k_*"]
    assert all("retracted" in fault for one in found for fault in one["faults"])
    _, out, _ = nla("--family", "oracle", "--json")
    assert {one["kind"] for one in json.loads(out)} == {"oracle"}


def test_json_names_what_is_missing_under_the_keys_it_is_stated_by(nla):
    _, out, _ = nla("olens_and_ar", "--json")
    [one] = json.loads(out)
    assert (one["loads"], one["missing"]) == (False, ["layer", "av_template", "enable_thinking"])
    assert one["base_model"] == "Qwen/Qwen3.6-27B" and one["evidence"] == "C"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "kitft"], "No family 'kitft'. There are: reference, "),
        (["nowhere"], "No known release holds 'nowhere'"),
        (["--family", "oracle", "kitft"], "No known release in the family oracle holds 'kitft'"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(nla, arguments, message):
    code, out, err = nla(*arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_it_needs_neither_torch_nor_the_hubs_client():
    code = (
        "import sys; sys.argv = ['nla', 'releases', 'qwen3-8b']\n"
        "from nla_sdk.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
