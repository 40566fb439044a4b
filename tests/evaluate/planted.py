"""Pairs whose every word and vector is known: what an evaluation must find out is planted in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from nla_sdk.contract import Contract
from nla_sdk.evaluation.parts import Settings
from nla_sdk.io.files import hash64
from nla_sdk.io.tables import vector_column
from nla_sdk.results import Explanation
from nla_sdk.sampling import GREEDY, Sampling
from training.evaluate import heldout, run

D = 24
SETTINGS = Settings(
    seed=0, floor=0.3, max_new_tokens=40, controls_n=12, signal_n=12, permutations=199, bootstrap_draws=50
)
"""As few draws as tell p < 0.01, by which a pair reads content."""
FEW = SETTINGS.model_copy(update={"permutations": 19, "bootstrap_draws": 5})
"""Where neither a p nor an interval is asked about."""
COMMON = {"base_model": "tiny/base", "d_model": D, "layer": 3, "provenance": {"pair_id": "planted"}}


def random_of(name: str, size: int = D) -> np.ndarray:
    """A direction that belongs to a word."""
    return np.random.default_rng(hash64(name)).normal(size=size).astype(np.float32)


def table(path: Path, documents: int = 30, positions: int = 2, *, labels: bool = False, texts: bool = False) -> Path:
    """Held-out activations: a shared direction, one of the document, and noise of the row."""
    rng = np.random.default_rng(7)
    shared = 2.0 * rng.normal(size=D)
    names = [f"doc{number:03d}" for number in range(documents) for _ in range(positions)]
    vectors = np.stack([shared + random_of(name) + 0.3 * rng.normal(size=D) for name in names])
    columns: dict = {
        "row_id": [f"{name}-{at % positions}" for at, name in enumerate(names)],
        "doc_id": names,
        "source_family": ["odd" if int(name[3:]) % 2 else "even" for name in names],
        "activation_vector": vector_column(vectors),
    }
    if labels:
        columns["api_explanation"] = [f"The text is {name}. It goes on." for name in names]
    if texts:
        columns["detokenized_text_truncated"] = [
            f"story of {name} at place {at} and then the very end of it comes" for at, name in enumerate(names)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


class PlantedPair:
    """An AV and an AR given as functions, with the surface an evaluation uses.

    Args:
        say: activation [d] (or None where nothing is injected) → text.
        hear: text → vector [d].
    """

    matched = True
    d_model = D

    def __init__(self, folder: Path, say: Callable, hear: Callable) -> None:
        self.say, self.hear, self.calls = say, hear, []
        backbone = SimpleNamespace(
            tokenizer=_Words(), vocabulary=1 << 20, quantization=None, dtype=torch.float32, device=torch.device("cpu")
        )
        contracts = {
            "av": Contract.from_dict(
                {
                    "kind": "nla_model",
                    "role": "av",
                    "av_template": "<{injection_char}>",
                    "prompt_style": "raw",
                    "injection_scale": "sqrt_d_model",
                    "injection_char": "§",
                    **COMMON,
                }
            ),
            "ar": Contract.from_dict(
                {"kind": "nla_model", "role": "ar", "ar_template": "{explanation}>", "ar_num_blocks": 4, **COMMON}
            ),
        }
        for role, contract in contracts.items():
            (folder / role).mkdir(parents=True, exist_ok=True)
            contract.save(folder / role)
            save_file({"weight": torch.ones(2)}, folder / role / "adapter_model.safetensors")
        self.av_contract, self.ar_contract = contracts["av"], contracts["ar"]
        self.contract = self.av_contract
        self.av, self.ar = (
            SimpleNamespace(folder=folder / role, ref=str(folder / role), commit=None, contract=contracts[role])
            for role in ("av", "ar")
        )
        self.verbalizer = _Verbalizer(self, backbone)
        self.reconstructor = SimpleNamespace(backbone=backbone, mean=None, contract=contracts["ar"])
        self.missing = ""

    def reconstruct(self, texts):
        return torch.tensor(np.stack([self.hear(text) for text in texts]), dtype=torch.float32)


class _Verbalizer:
    """The AV of a planted pair."""

    def __init__(self, pair: PlantedPair, backbone: SimpleNamespace) -> None:
        self.pair, self.backbone = pair, backbone

    def __call__(self, vectors: torch.Tensor, sampling: Sampling = GREEDY) -> list[Explanation]:
        self.pair.calls.append(len(vectors))
        return self.write(vectors)

    def prepare(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors

    def write(self, inputs: torch.Tensor | None, sampling: Sampling = GREEDY) -> list[Explanation]:
        return [self._say(None)] if inputs is None else [self._say(vector.numpy()) for vector in inputs]

    def _say(self, vector) -> Explanation:
        text = self.pair.say(vector)
        status = "untagged" if text.startswith("no tags") else "ok" if text else "empty"
        return Explanation(text, status=status, tokens=len(text.split()))


class _Words:
    """A tokenizer of words."""

    bos_token_id = None

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, texts, **options):
        return {"input_ids": [[self.words.setdefault(w, len(self.words)) for w in text.split()] for text in texts]}

    def decode(self, ids, skip_special_tokens):
        words = list(self.words)
        return " ".join(words[at] for at in ids)


class Oracle:
    """An AV that names the nearest document of a list, and an AR that knows each document's direction."""

    def __init__(self, data: Path) -> None:
        rows = pq.read_table(data)
        vectors = np.array(rows["activation_vector"].to_pylist(), dtype=np.float64)
        self.mean = vectors.mean(axis=0)
        self.names = sorted(set(rows["doc_id"].to_pylist()))
        self.directions = np.stack([random_of(name) for name in self.names])

    def say(self, vector) -> str:
        if vector is None or not np.any(vector):
            return "Nothing is there. It says nothing."
        off = np.asarray(vector, dtype=np.float64) - self.mean
        scores = self.directions @ off / np.linalg.norm(self.directions, axis=1)
        name = self.names[int(scores.argmax())]
        return f'The text is {name}. It ends in "{off[0]:.2f} {off[1]:.2f}".'

    def hear(self, text: str) -> np.ndarray:
        named = [name for name in self.names if name in text]
        if not named:  # what an AR makes of no text is no better than the mean
            return self.mean + 0.5 * random_of("empty" + text)
        return self.mean + random_of(named[0])


def evaluate(pair, data: Path, out: Path, settings: Settings = SETTINGS, limit: int | None = None, **options):
    """Run a whole evaluation of a planted pair."""
    job = run.Job(pair, heldout.read(data, pair.contract, limit), settings, out, **options)
    return run.run(job, progress=False)
