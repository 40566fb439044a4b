"""Code to copy: with nla-sdk, and with plain transformers and peft. Every value in it is the contract's.

Strings from a contract become Python literals, so that none can leave its place in the code.
"""

from __future__ import annotations

import json

from nla_sdk.contract import EXPLANATION_FIELD, MARKER_FIELD, Contract


def is_bundled(repo: str) -> bool:
    """Whether it is a half of the pair that comes with nla-sdk (demo/av, demo/ar), and not a repository."""
    return repo in ("demo/av", "demo/ar")


def literal(value: str) -> str:
    """A Python string literal on one line."""
    return json.dumps(value, ensure_ascii=False)


def with_sdk(contract: Contract, repo: str, pair: str | None) -> str:
    """Explain, reconstruct and round-trip with `NLAPair`."""
    av, ar = (repo, pair) if contract.role == "av" else (pair, repo)
    halves = [literal(av) if av else "None", *([literal(ar)] if ar else [])]
    loading = f"NLAPair.from_pretrained({', '.join(halves)})"
    if is_bundled(repo):
        loading = 'NLAPair.from_pretrained("demo")  # offline, on a CPU'
    lines = ["from nla_sdk import NLAPair", "", f"pair = {loading}"]
    if av and ar:
        lines += [
            'activation = pair.extract("The cat sat on the mat.").vectors[-1]',
            "trip = pair.round_trip(activation)",
            "print(trip.explanation, trip.fve)",
            'print(pair.score("", activation).fve)  # what no explanation scores: compare with it',
        ]
    elif contract.role == "av":
        lines += [
            'activation = pair.extract("The cat sat on the mat.").vectors[-1]',
            "print(pair.explain(activation))",
        ]
    else:
        lines += [
            'print(pair.reconstruct("a cat on a mat").shape)',
            'print(pair.reconstruct("").shape)  # always compare with what no explanation gives',
        ]
    return "\n".join(lines)


def plain(contract: Contract, repo: str, *, is_adapter: bool = True) -> str:
    """The same without nla-sdk: one vector, or one explanation, in transformers and peft."""
    return "\n".join(_av(contract, repo, is_adapter) if contract.role == "av" else _ar(contract, repo, is_adapter))


def _loading(contract: Contract, repo: str, is_adapter: bool) -> list[str]:
    """Imports, `folder` with the half's files, `model` and `tokenizer`."""
    base, options, of_tokenizer, before = literal(contract.base_model), ["dtype=torch.float32"], [], []
    classes = ["AutoModelForCausalLM", "AutoTokenizer"]
    hub, where = ["from huggingface_hub import snapshot_download"], f"snapshot_download({literal(repo)})"
    if is_bundled(repo):
        hub = ["from importlib import resources", "", "from nla_sdk.halves.demo_base import demo_base"]
        where, base = f'str(resources.files("nla_sdk") / {literal(repo)})', "demo_base()"
    elif is_adapter and contract.base_model.lower().endswith("gguf"):
        hub = ["from huggingface_hub import list_repo_files, snapshot_download"]
        classes.append("GgufConfig")
        before = [f'[file] = [name for name in list_repo_files({base}) if name.endswith(".gguf")]']
        # Packed weights take no adapter.
        options = ["gguf_file=file", *options, "quantization_config=GgufConfig(dequantize=True)"]
        of_tokenizer = ["gguf_file=file"]
    elif is_adapter and contract.quantization == "nf4":
        classes.append("BitsAndBytesConfig")
        options = ["quantization_config=four_bits"]
        before = [
            "four_bits = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            f"    bnb_4bit_compute_dtype=torch.{contract.compute_dtype or 'float16'},",
            ")",
        ]
    lines = [
        "import torch",
        *hub,
        *(["from peft import PeftModel"] if is_adapter else []),
        "from safetensors.torch import load_file",
        f"from transformers import {', '.join(classes)}",
        "",
        f"folder = {where}",
        *before,
    ]
    if not is_adapter:
        return [
            *lines,
            "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
    return [
        *lines,
        *_call("base = AutoModelForCausalLM.from_pretrained", base, *options),
        "model = PeftModel.from_pretrained(base, folder).eval()",
        f"tokenizer = AutoTokenizer.from_pretrained({', '.join([base, *of_tokenizer])})",
    ]


def _call(function: str, *arguments: str) -> list[str]:
    """A call, on lines of a page's width."""
    line = f"{function}({', '.join(arguments)})"
    return [line] if len(line) <= 120 else [f"{function}(", *(f"    {one}," for one in arguments), ")"]


def _av(contract: Contract, repo: str, is_adapter: bool) -> list[str]:
    marker = contract.injection_char
    lines = _loading(contract, repo, is_adapter)
    lines += [
        "",
        f"activation = torch.randn({contract.d_model})  # yours: the output of decoder block {contract.layer}",
    ]
    if contract.activation_mean:
        lines.append(f'activation = activation - load_file(f"{{folder}}/{contract.activation_mean}")["mean"]')
    if contract.injection_scale is not None:
        lines.append(f"activation = activation * ({contract.injection_scale!r} / activation.norm())")
    if marker:
        lines.append(f"prompt = {literal(contract.av_template.replace(MARKER_FIELD, marker))}")
    else:
        lines += [
            f"marker = tokenizer.decode([{contract.injection_token_id}]).strip()",
            f"prompt = {literal(contract.av_template)}.replace({literal(MARKER_FIELD)}, marker)",
        ]
    if contract.prompt_style == "chat":
        lines += [
            'chat = [{"role": "user", "content": prompt}]',
            "prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)",
            'ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids',
        ]
    else:
        lines.append('ids = tokenizer(prompt, return_tensors="pt").input_ids')
    token = contract.injection_token_id
    token = token if token is not None else f"tokenizer.convert_tokens_to_ids({literal(marker)})"
    lines += [
        f"at = (ids[0] == {token}).nonzero().item()  # the marker, exactly once",
        "",
        "",
        "def inject(module, args, output):  # a hook on the embedding's output: inputs_embeds is no way for Gemma 4",
        "    if output.shape[1] > at:  # the prompt; later calls bring one token each",
        "        output = output.clone()",
        "        output[:, at] = activation.to(output)",
        "        return output",
        "",
        "",
        "hook = model.get_input_embeddings().register_forward_hook(inject)",
        f"written = model.generate(ids, max_new_tokens={contract.max_new_tokens or 120}, do_sample=False)",
        "hook.remove()",
        "text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)",
        'explanation = text.split("</explanation>")[0].split("<explanation>")[-1].strip()',
        "print(explanation)",
    ]
    return lines


def _ar(contract: Contract, repo: str, is_adapter: bool) -> list[str]:
    d = contract.d_model
    before, _, after = contract.ar_template.partition(EXPLANATION_FIELD)
    head = "linear_head.safetensors" if is_adapter else "value_head.safetensors"
    text_model = "model.get_base_model().get_decoder()" if is_adapter else "model.get_decoder()"
    lines = _loading(contract, repo, is_adapter)
    lines += [
        f'state = load_file(f"{{folder}}/{head}")',
        f'head = torch.nn.Linear({d}, {d}, bias="bias" in state)',
        "head.load_state_dict({name: tensor.float() for name, tensor in state.items()})",
        "",
        'explanation = "a cat on a mat"',
        f'ids = tokenizer({literal(before)} + explanation + {literal(after)}, return_tensors="pt").input_ids',
        "kept = []  # a hook, because the last of a model's hidden_states has been through its final norm",
        f"block = {text_model}.layers[{contract.ar_num_blocks - 1}]",
        "hook = block.register_forward_hook(lambda module, args, output: kept.append(output))",
        "with torch.no_grad():  # all blocks run here; nla-sdk stops after the last one that is needed",
        "    model(ids)",
        "    hook.remove()",
        "    state = kept[0][0] if isinstance(kept[0], tuple) else kept[0]  # the batch [1, n, d]",
        "    vector = head(state[0, -1].float())",
    ]
    if contract.activation_mean:
        lines += [
            f'mean = load_file(f"{{folder}}/{contract.activation_mean}")["mean"]',
            f"vector = mean + {contract.centred_norm!r} * vector / vector.norm()",
        ]
    else:
        lines.append("vector = vector / vector.norm()  # only the direction means anything")
    lines.append("print(vector.shape)")
    return lines
