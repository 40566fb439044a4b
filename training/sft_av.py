"""AV supervised training: activation → explanation. `python -m training.sft_av --config training/configs/demo.yaml`

Next-token loss on response tokens only, and logits computed for those only; the activation goes in through the same
hook as at inference. Reads `<out>/av_sft.parquet` and `eval.parquet`, checkpoints every `save_interval` steps,
resumes where it was, logs the held-out loss with true vectors against the loss with vectors shuffled among rows (the
gap is the signal, not the loss), and leaves a loadable half in `<out>/av`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
import typer
from torch.nn import functional

from nla_sdk.backbone import Backbone, quiet
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.hub import fetch_base
from nla_sdk.injection import inject
from nla_sdk.reconstructor import pad_right
from nla_sdk.verbalizer import OPEN_TAG, Verbalizer, end_token_ids

from .cli import run_stage
from .config import Config, Train
from .files import code_version, read_vectors, sha256_of
from .loop import Loop, data_order, finish
from .statistics import Statistics
from .table import target_text

ADAPTER = "av"


def load_rows(path: Path, sources: Sequence[str], max_rows: int | None = None, *, spread: bool = False):
    """Rows of a training table whose label is of one of `sources`: (vectors float32 [n, d], list of dicts).

    Of more than `max_rows`, the first are taken, or with `spread` evenly spaced ones.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `python -m training.build` first.")
    table = pq.read_table(path)
    vectors = torch.from_numpy(read_vectors(table).copy())
    rows = table.drop_columns(["activation_vector"]).to_pylist()
    kept = [i for i, row in enumerate(rows) if kind_of(row["labeler_model"]) in sources]
    kept = kept[:: max(1, len(kept) // (max_rows or len(kept)))][:max_rows] if spread and kept else kept[:max_rows]
    if not kept:
        raise InputError(f"{path} holds no rows with labels from {', '.join(sources)}.")
    return vectors[kept], [rows[i] for i in kept]


def kind_of(labeler: str) -> str:
    """extractive, on_policy or written, from a row's `labeler_model`."""
    if labeler.startswith("extractive"):
        return "extractive"
    return "on_policy" if labeler.startswith("av:") else "written"


def lora_config(settings: Train, backbone: Backbone, num_blocks: int | None = None):
    """LoRA on the text blocks that run, named so that no tower is matched."""
    with quiet():  # importing PEFT imports bitsandbytes, which logs
        from peft import LoraConfig

    blocks = "|".join(str(block) for block in range(num_blocks or backbone.num_blocks))
    targets = "|".join(settings.lora.targets)
    prefix = backbone.blocks_name.replace(".", r"\.")
    return LoraConfig(
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=rf"{prefix}\.({blocks})\..*\.({targets})",
        task_type="CAUSAL_LM",
    )


class ResponseLoss:
    """Cross-entropy of response tokens, over the whole vocabulary or an estimate of it.

    With `negatives` > 0 the normaliser is exact over `candidates` (every token of the responses at hand) and, for the
    rest of the vocabulary, estimated from tokens drawn anew each step, each standing for as many as it was drawn
    from. At 262,144 tokens the lm_head is more than half of a step; this makes it a twentieth.
    """

    def __init__(self, backbone: Backbone, candidates: Sequence[int], negatives: int) -> None:
        self.head = backbone.model.get_output_embeddings()
        self.softcap = getattr(backbone.model.config.get_text_config(), "final_logit_softcapping", None)
        self.negatives = negatives
        vocabulary = self.head.weight.shape[0]
        self.exact = not negatives or len(candidates) + negatives >= vocabulary
        if not self.exact:
            self.candidates = torch.tensor(sorted(set(candidates)))
            self.index = torch.full((vocabulary,), -1)
            self.index[self.candidates] = torch.arange(len(self.candidates))
            rest = torch.ones(vocabulary, dtype=torch.bool)
            rest[self.candidates] = False
            self.rest = rest.nonzero()[:, 0]
            self.weights = self.head.weight[self.candidates].detach().clone()

    def __call__(
        self, states: torch.Tensor, targets: torch.Tensor, generator: torch.Generator | None = None, exact: bool = False
    ):
        """Mean loss of `states` [n, d] (after the final norm) against token ids [n]."""
        if exact or self.exact or (self.index[targets] < 0).any():
            return functional.cross_entropy(self._cap(self.head(states)).float(), targets)
        drawn = self.rest[torch.randint(len(self.rest), (self.negatives,), generator=generator)]
        known = self._cap(states @ self.weights.T)
        other = self._cap(states @ self.head.weight[drawn].T) + math.log(len(self.rest) / self.negatives)
        return functional.cross_entropy(torch.cat([known, other], dim=1).float(), self.index[targets])

    def _cap(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class Trainer:
    """Holds the model, the rows and the loss; `python -m training.sft_av` runs it."""

    def __init__(self, config: Config, backbone: Backbone) -> None:
        self.config, self.backbone, settings = config, backbone, config.av
        self.statistics = Statistics.load(config.out)
        self.contract = self.statistics.contract(config, backbone.tokenizer, backbone.d_model, "av")
        self.verbalizer = Verbalizer(backbone, ADAPTER, self.contract, self.statistics.mean if config.centred else None)
        self.table = config.out / "av_sft.parquet"
        vectors, self.rows = load_rows(self.table, settings.sources, settings.max_rows)
        held_out, self.eval_rows = load_rows(
            config.out / "eval.parquet", settings.sources, settings.eval_rows, spread=True
        )
        self.inputs, self.eval_inputs = self.verbalizer.prepare(vectors), self.verbalizer.prepare(held_out)
        self.targets, self.eval_targets = self._tokenize(self.rows), self._tokenize(self.eval_rows)
        seen = [token for ids in [*self.targets, *self.eval_targets] for token in ids]
        self.loss = ResponseLoss(backbone, seen, settings.sampled_negatives)
        torch.manual_seed(config.seed)  # the adapter's first numbers are part of the run
        backbone.add_lora(ADAPTER, lora_config(settings, backbone))
        self.parameters = backbone.adapter_parameters(ADAPTER)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def _tokenize(self, rows) -> list[list[int]]:
        texts = [target_text(row["response"], self.contract.av_template) for row in rows]
        ids = self.backbone.tokenizer(texts, add_special_tokens=False).input_ids
        if self.contract.av_template.endswith(OPEN_TAG):
            return ids
        end = min(end_token_ids(self.backbone))
        return [[*row, end] for row in ids]

    def batch_loss(
        self, inputs: torch.Tensor, targets: list[list[int]], generator=None, exact: bool = False
    ) -> torch.Tensor:
        """Loss of one batch: prepared activations [n, d] and response tokens."""
        prompt = self.verbalizer.prompt_ids
        padded, last = pad_right([[*prompt, *ids] for ids in targets])
        decoder = getattr(self.backbone.model, self.backbone.model.base_model_prefix)
        with inject(self.backbone.embedding, self.verbalizer.marker, inputs):
            states = decoder(input_ids=padded, use_cache=False).last_hidden_state
        at = torch.arange(padded.shape[1] - 1)
        scored = (at >= len(prompt) - 1) & (at < last[:, None])
        return self.loss(states[:, :-1][scored], padded[:, 1:][scored], generator, exact)

    def evaluate(self, exact: bool = False) -> dict[str, float]:
        """Held-out loss with true vectors and with vectors shuffled among rows, and the gap."""
        result = {}
        size = self.config.av.batch_size
        shuffled = self.eval_inputs.roll(1, dims=0)
        with torch.no_grad():
            for name, inputs in (("heldout_loss", self.eval_inputs), ("heldout_loss_shuffled", shuffled)):
                total = count = 0.0
                for start in range(0, len(inputs), size):
                    targets = self.eval_targets[start : start + size]
                    tokens = sum(len(ids) for ids in targets)
                    draw = torch.Generator().manual_seed(start)
                    total += self.batch_loss(inputs[start : start + size], targets, draw, exact).item() * tokens
                    count += tokens
                result[name] = total / count
        result["heldout_gap"] = result["heldout_loss_shuffled"] - result["heldout_loss"]
        return result


def run(config: Config) -> Path:
    """Train the AV; returns the folder of the finished half."""
    backbone = Backbone.load(fetch_base(config.base).path, ref=config.base_id, dtype="float32")
    trainer = Trainer(config, backbone)
    settings = config.av
    optimizer = torch.optim.AdamW(trainer.parameters.values(), lr=settings.lr, weight_decay=0.0)
    identity = {
        "av": settings.model_dump(mode="json"),
        "layer": config.layer,
        "seed": config.seed,
        "table": sha256_of(trainer.table),
    }
    with backbone.using(ADAPTER):
        loop = Loop(config.out / "run_av", settings, optimizer, trainer.parameters, identity, config.seed)
        batches = data_order([len(ids) for ids in trainer.targets], settings.batch_size, settings.epochs, config.seed)

        def loss_of(rows: Sequence[int], step: int) -> torch.Tensor:
            draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            return trainer.batch_loss(trainer.inputs[list(rows)], [trainer.targets[row] for row in rows], draw)

        loop.run(batches, loss_of, trainer.evaluate, "sft_av")
        final = trainer.evaluate(exact=True)
    facts = training_facts(config, "av", [trainer.table], len(trainer.rows), len(batches)) | final
    return save_half(config.out / "av", backbone, ADAPTER, trainer.contract, trainer.statistics, facts)


def training_facts(config: Config, role: str, tables: Sequence[Path], rows: int, steps: int) -> dict:
    """What a contract's provenance says about how the half was made."""
    import peft
    import transformers

    return {
        "settings": getattr(config, role).model_dump(mode="json"),
        "tables_sha256": {table.name: sha256_of(table) for table in tables},
        "rows": rows,
        "steps": steps,
        "code_version": code_version(),
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "libraries": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    }


def save_half(
    folder: Path, backbone: Backbone, adapter: str, contract: Contract, statistics: Statistics, facts: dict, head=None
) -> Path:
    """Write adapter (bf16), contract, activation mean and, for an AR, the head as one loadable folder."""
    from safetensors.torch import save_file

    def write(sibling: Path) -> None:
        backbone.save_adapter(adapter, sibling, dtype=torch.bfloat16)
        if head is not None:
            state = {key: tensor.detach().to(torch.bfloat16).contiguous() for key, tensor in head.state_dict().items()}
            save_file(state, sibling / "linear_head.safetensors")
        if contract.activation_mean:
            save_file({"mean": statistics.mean}, sibling / contract.activation_mean)
        record = contract.replace(provenance={**contract.provenance, "training": facts})
        record.save(sibling)

    return finish(folder, write)


if __name__ == "__main__":
    typer.run(run_stage(run))
