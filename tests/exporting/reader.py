"""Code that knows only the reference layout, with transformers alone: no contract of ours, no nla_sdk."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


class Reader:
    """Loads `folder/av` and `folder/ar` and runs them."""

    def __init__(self, folder: Path) -> None:
        self.av, self.ar = folder / "av", folder / "ar"
        self.sidecar = yaml.safe_load((self.av / "nla_meta.yaml").read_text(encoding="utf-8"))
        self.model = AutoModelForCausalLM.from_pretrained(self.av).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.av)
        self.critic = AutoModelForCausalLM.from_pretrained(self.ar).eval()
        self.critic.model.norm = torch.nn.Identity()
        self.critic_tokenizer = AutoTokenizer.from_pretrained(self.ar)
        heads = load_file(self.ar / "value_head.safetensors")
        assert set(heads) == {"weight"}
        self.head = heads["weight"].float()

    def prompt(self) -> list[int]:
        tokens = self.sidecar["tokens"]
        content = self.sidecar["prompt_templates"]["av"].replace("{injection_char}", tokens["injection_char"])
        message = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]

    @torch.no_grad()
    def explain(self, vector: torch.Tensor, **options: object) -> str:
        """Greedy, as the exported generation config ends it; what stands before the closing tag."""
        ids, tokens = self.prompt(), self.sidecar["tokens"]
        at = ids.index(tokens["injection_token_id"])
        assert ids.count(tokens["injection_token_id"]) == 1
        assert ids[at - 1] == tokens["injection_left_neighbor_id"]
        assert ids[at + 1] == tokens["injection_right_neighbor_id"]
        embeddings = self.model.get_input_embeddings()(torch.tensor([ids])).clone()
        scaled = vector.float() / vector.float().norm() * self.sidecar["extraction"]["injection_scale"]
        embeddings[0, at] = scaled.to(embeddings.dtype)
        mask = torch.ones(1, len(ids), dtype=torch.long)
        written = self.model.generate(inputs_embeds=embeddings, attention_mask=mask, **options)[0]
        text = self.tokenizer.decode(written, skip_special_tokens=True).partition("</explanation>")[0]
        return text.rpartition("<explanation>")[2].strip()

    @torch.no_grad()
    def reconstruct(self, explanation: str) -> torch.Tensor:
        sidecar = yaml.safe_load((self.ar / "nla_meta.yaml").read_text(encoding="utf-8"))
        prompt = sidecar["prompt_templates"]["ar"].replace("{explanation}", explanation)
        ids = torch.tensor([self.critic_tokenizer(prompt)["input_ids"]])
        return self.head @ self.critic.model(input_ids=ids).last_hidden_state[0, -1].float()


def directions(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
