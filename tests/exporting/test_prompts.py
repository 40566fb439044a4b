"""What a prompt has beside its template's text goes into the chat template, token for token."""

from __future__ import annotations

import pytest
import yaml

from nla_sdk import NLAPair
from nla_sdk.errors import ExportError
from tests.exporting.reader import Reader

AWKWARD = 'Write "{{ so }}":\n\t{% raw %} é 😀 \\ \' '


@pytest.mark.parametrize(
    "facts",
    [
        {"prefill": "<explanation>\n"},
        {"prefill": AWKWARD},
        {"system": "You are terse."},
        {"system": AWKWARD, "enable_thinking": False, "prefill": "- "},
        {"enable_thinking": True},
    ],
    ids=["prefill", "awkward prefill", "system", "all", "thinking on"],
)
@pytest.mark.parametrize("base", ["llama", "thinks"])
def test_system_thinking_and_prefill_are_part_of_the_chat_template(write, tmp_path, facts, base):
    pair = NLAPair.from_pretrained(write(base, **facts))
    pair.export(tmp_path)
    assert Reader(tmp_path).prompt() == list(pair.verbalizer.prompt_ids)
    said = yaml.safe_load((tmp_path / "av" / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert not {"system", "enable_thinking", "prefill"} & set(said)
    assert list(NLAPair.from_pretrained(tmp_path).verbalizer.prompt_ids) == list(pair.verbalizer.prompt_ids)


def test_a_chat_template_without_bos_gets_one_where_the_pair_has_one(write, tmp_path):
    pair = NLAPair.from_pretrained(write("no-bos", bos=True))
    assert pair.verbalizer.prompt_ids[0] == 2
    pair.export(tmp_path)
    assert Reader(tmp_path).prompt() == list(pair.verbalizer.prompt_ids)


def test_a_raw_prompt_takes_no_other_messages(write, tmp_path):
    NLAPair.from_pretrained(write("llama", style="raw")).export(tmp_path)
    tokenizer = Reader(tmp_path).tokenizer
    text = tokenizer.apply_chat_template([{"role": "user", "content": " a\n{{ b }}\n"}], tokenize=False)
    assert text == "<bos> a\n{{ b }}\n"
    for messages in ([{"role": "system", "content": "a"}], [{"role": "user", "content": "a"}] * 2):
        with pytest.raises(Exception, match="reads one user message: its prompt is raw text"):
            tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_prompt_that_no_chat_template_makes_is_refused_with_the_place(write, tmp_path, monkeypatch):
    pair = NLAPair.from_pretrained(write("llama"))
    others = [*pair.verbalizer.prompt_ids[:-1], 5]
    monkeypatch.setattr(type(pair.verbalizer), "prompt_ids", property(lambda verbalizer: others))
    with pytest.raises(ExportError, match=r"cannot carry the AV's prompt: .* where the pair has \["):
        pair.export(tmp_path / "out")
