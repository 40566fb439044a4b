"""`nla export`: what it writes, prints and refuses."""

from __future__ import annotations

import pytest

from nla_sdk import NLAPair
from nla_sdk.cli.app import main
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama_base):
    root = tmp_path_factory.mktemp("pair")
    return tiny.lora_pair(root, llama_base, tiny.plain_model(llama_base), layer=1, blocks=2)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return int(end.value.code or 0)


def test_it_writes_a_pair_and_says_how_far_it_moved(folder, tmp_path, capsys):
    assert run("export", folder, tmp_path / "out", "--dtype", "bfloat16", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'out'}: reference layout, bfloat16; read back with transformers alone:")
    assert "\n  av: the next token's log-probability moved by 0.0" in said
    assert "\n  ar: directions moved by 0.0" in said
    assert "- The AV's prompt is raw text" in said
    assert isinstance(NLAPair.from_pretrained(tmp_path / "out").explain(tiny.random(64, seed=3)), str)


def test_what_it_refuses_is_one_line_and_exit_code_2(folder, tmp_path, capsys):
    out = tmp_path / "out"
    for words, message in (
        ((folder, out, "--layout", "gguf"), "layout='gguf' is not known; expected 'reference'."),
        ((folder, out, "--dtype", "int8"), "dtype='int8' is not exported; expected 'float32' or 'bfloat16'."),
        (("a", "b", "c"), "Expected [PAIR] FOLDER, got 3 arguments: a, b, c."),
    ):
        assert run("export", *words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert message in error[0]


def test_what_is_stated_is_exported(folder, tmp_path, capsys):
    stated = "injection={site: block, block: 1, rule: add, norm: match}"
    assert run("export", folder, tmp_path / "out", "--contract", stated) == 2
    assert "`injection.site: block`: the AV's vector goes in after block 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
