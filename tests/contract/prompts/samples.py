"""Chat templates as the bases of published verbalizers have them, in small, and the templates of RELEASES in full."""

QWEN25 = (
    "{% if messages[0]['role'] == 'system' %}<turn>system\n{{ messages[0]['content'] }}<turn>\n"
    "{% else %}<turn>system\nYou are Lm, created by Owner.<turn>\n{% endif %}"
    "{% for m in messages %}{% if m['role'] != 'system' %}<turn>{{ m['role'] }}\n{{ m['content'] }}<turn>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
"""Puts a system message of its own where there is none."""
_TURNS = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<turn>\n{% endfor %}"
QWEN3 = (
    _TURNS + "{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Closes a think block where it is told that thinking is off, and says nothing of it otherwise."""
QWEN36 = (
    _TURNS + "{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
"""Ends in an open think line unless it is told otherwise."""
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
"""Writes BOS itself, trims, and takes no system message."""
LLAMA = (
    "{{ bos_token }}<turn>system\n\nToday Date: 26 Jul 2024\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% endif %}<turn>"
    "{% for m in messages %}{% if m['role'] != 'system' %}<turn>{{ m['role'] }}\n\n{{ m['content'] | trim }}<turn>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<turn>assistant\n\n{% endif %}"
)
"""Writes BOS itself, and a system header with a fixed date."""

_OPENING = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a language "
    "model. Your overall task is to describe the semantic content of that activation vector.\n\n"
    "We will pass the vector enclosed in <concept> tags into your context"
)
_TASK = (
    ". You must then produce an explanation for the vector, enclosed within <explanation> tags. The explanation "
    "consists of 2-3 text snippets describing that vector.\n\nHere is the vector"
)
KITFT = f"{_OPENING}{_TASK}:\n\n<concept>{{injection_char}}</concept>\n\nPlease provide an explanation."
DEPTH = (
    f"{_OPENING}, along with the network depth where it was extracted{_TASK} from depth {{depth}}% of the network:"
    "\n\n<concept>{injection_char}</concept>\n\nPlease provide an explanation.\n\n<explanation>"
)
AO = "Layer: {layer}\n{injection_char} \n{question}"
AR = "Summary of the following text: <text>{explanation}</text> <summary>"
AR_MARK = AR + "㊗"
AR_DEPTH = "Summary of the following text from depth {depth}%: <text>{explanation}</text> <summary>㊗"

ADD_AT_1 = {"site": "block", "block": 1, "rule": "add", "norm": "match"}
