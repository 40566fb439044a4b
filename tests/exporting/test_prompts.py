"""What a prompt has beside its template's text goes into the chat template, token for token."""

from __future__ import annotations

import pytest
import yaml

from nla_sdk import NLAPair
from nla_sdk.errors import ExportError
from tests import tiny
from tests.exporting.reader import Reader

THINKING = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model]\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>\n{% endif %}{% endif %}\n"
)
AWKWARD = 'Write "{{ so }}":\n\t{% raw %} é 😀 \\ \' '


def pair_of(folder, facts, template: str | None = None) -> NLAPair:
    """A pair whose AV's prompt is made of `facts`, whoever reads them."""
    pair = NLAPair.from_pretrained(folder)
    tokenizer, verbalizer = pair.verbalizer.backbone.tokenizer, pair.verbalizer
    if template is not None:
        tokenizer.chat_template = template
    messages = [{"role": "user", "content": verbalizer.contract.av_prompt()}]
    if "system" in facts:
        messages.insert(0, {"role": "system", "content": facts["system"]})
    options = {key: facts[key] for key in ("enable_thinking",) if key in facts}
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
    verbalizer.prompt_ids = tokenizer(text + facts.get("prefill", ""), add_special_tokens=False).input_ids
    verbalizer.contract = verbalizer.contract.replace(**facts)
    return pair


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
@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, THINKING], ids=["plain", "thinks"])
def test_system_thinking_and_prefill_are_part_of_the_chat_template(write, tmp_path, facts, template):
    pair = pair_of(write("llama"), facts, template)
    pair.export(tmp_path)
    assert Reader(tmp_path).prompt() == list(pair.verbalizer.prompt_ids)
    said = yaml.safe_load((tmp_path / "av" / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert not {"system", "enable_thinking", "prefill"} & set(said)
    assert list(NLAPair.from_pretrained(tmp_path).verbalizer.prompt_ids) == list(pair.verbalizer.prompt_ids)


def test_a_chat_template_without_bos_gets_one_where_the_pair_has_one(write, tmp_path):
    pair = pair_of(write("llama"), {}, tiny.CHAT_TEMPLATE)
    pair.verbalizer.backbone.tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("{{ bos_token }}", "")
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


def test_a_prompt_that_no_chat_template_makes_is_refused_with_the_place(write, tmp_path):
    pair = NLAPair.from_pretrained(write("llama"))
    pair.verbalizer.prompt_ids = [*pair.verbalizer.prompt_ids[:-1], 5]
    with pytest.raises(ExportError, match=r"cannot carry the AV's prompt: .* where the pair has \["):
        pair.export(tmp_path / "out")
