"""One side of `speed.py`: a process that does what lines of JSON on stdin ask for and answers each with a line.

`python speed_side.py old|new|plain TREE`, PYTHONPATH=TREE. A request is `{"call": …, arguments}`, an answer
`{"seconds", "user_cpu_seconds", "value"}`: of the work alone, what is prepared for it is not in it. `old` and `new` are
the demo pair by the SDK of their tree, `plain` is transformers and PEFT with a loop of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
import yaml

NEW_TOKENS = 48
SEED_RELEASE = "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1"
CLOSE_TAG = "</explanation>"


def timed(work: Callable[[], object]) -> dict:
    cpu, start = os.times().user, time.perf_counter()
    value = work()
    return {"seconds": time.perf_counter() - start, "user_cpu_seconds": os.times().user - cpu, "value": value}


class Side:
    def __init__(self, tree: Path) -> None:
        import nla_sdk

        if tree not in Path(nla_sdk.__file__).parents:
            raise SystemExit(f"nla_sdk comes from {nla_sdk.__file__}, expected it from {tree}: set PYTHONPATH to it.")
        self.demo = tree / "nla_sdk" / "demo"
        self.heldout = pq.read_table(self.demo / "heldout.parquet")
        flat = self.heldout["activation_vector"].combine_chunks().values.to_numpy()
        self.vectors = torch.from_numpy(flat.copy()).reshape(len(self.heldout), -1)

    def about(self) -> dict:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {"value": {"rows": len(self.heldout), "threads": torch.get_num_threads(), **versions}}


class PairSide(Side, ABC):
    """The demo pair; its verbalizer with the bundled prompt, and one with the seed's."""

    def __init__(self, tree: Path) -> None:
        super().__init__(tree)
        from nla_sdk import NLAPair

        self.pair = NLAPair.from_pretrained("demo")
        self.verbalizers = {"bundled": self.pair.verbalizer, "seed": self.verbalizer(self._seed_contract())}

    def _seed_contract(self):
        from nla_sdk.contract import known_release

        return self.pair.av_contract.replace(
            av_template=known_release(SEED_RELEASE)["av_template"],
            injection_left_neighbor_id=None,
            injection_right_neighbor_id=None,
        ).verify(self.pair.source.tokenizer)

    @abstractmethod
    def verbalizer(self, contract):
        """One for that contract, on the pair's base."""

    @abstractmethod
    def write(self, verbalizer, vectors: torch.Tensor, tokens: int | None, exactly: bool) -> list:
        """Explanations of so many tokens, or of at most so many."""

    @abstractmethod
    def on_policy_stage(self):
        """The stage's `run` and its `Config`."""

    def prompt_tokens(self, prompt: str) -> dict:
        return {"value": len(self.verbalizers[prompt].prompt_ids)}

    def explain(self, prompt: str, rows: Sequence[int], tokens: int | None = None, exactly: bool = False) -> dict:
        vectors = self.vectors[list(rows)]
        answer = timed(lambda: self.write(self.verbalizers[prompt], vectors, tokens, exactly))
        return answer | {"value": [one.raw for one in answer["value"]]}

    def reconstruct(self, texts: Sequence[str]) -> dict:
        return timed(lambda: self.pair.reconstruct(texts)) | {"value": None}

    def extract(self, texts: Sequence[str]) -> dict:
        return timed(lambda: self.pair.extract(texts)) | {"value": None}

    def round_trip(self, prompt: str, rows: Sequence[int], tokens: int) -> dict:
        vectors, verbalizer = self.vectors[list(rows)], self.verbalizers[prompt]

        def work() -> None:
            written = self.write(verbalizer, vectors, tokens, True)
            self.pair.reconstruct([getattr(one, "text", one) for one in written])

        return timed(work) | {"value": None}

    def on_policy(self, rows: int) -> dict:
        """The stage as it is, on a table of held-out rows; the pair is this one, so that loading it is not in it."""
        from nla_sdk import NLAPair

        run, config_class = self.on_policy_stage()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            shutil.copytree(self.demo / "av", out / "av" / "final")
            labels = self.heldout["api_explanation"].to_pylist()
            labels += pq.read_table(self.demo / "rows.parquet")["explanation"].to_pylist()
            responses = [f"<explanation>\n{label}\n{CLOSE_TAG}" for label in labels]
            pq.write_table(
                pa.table({"response": responses, "labeler_model": ["readout"] * len(labels)}), out / "av_sft.parquet"
            )
            texts = pa.array([""] * len(self.heldout))
            pq.write_table(self.heldout.append_column("detokenized_text_truncated", texts), out / "ar_sft.parquet")
            values = yaml.safe_load((self.demo.parent.parent / "training/configs/demo.yaml").read_text("utf-8"))
            values |= {"out": folder, "ar": values["ar"] | {"on_policy_rows": rows}}
            file = out / "config.yaml"
            file.write_text(yaml.safe_dump(values), "utf-8")
            config = config_class.load(file)
            with mock.patch.object(NLAPair, "from_pretrained", lambda *_, **__: self.pair):
                try:
                    answer = timed(lambda: pq.read_table(run(config))["api_explanation"].to_pylist())
                finally:
                    self.pair.verbalizer.restrict(None)
        return answer


class Old(PairSide):
    def verbalizer(self, contract):
        from nla_sdk.verbalizer import Verbalizer

        return Verbalizer(self.pair.source, "av", contract, self.pair.verbalizer.mean)

    def write(self, verbalizer, vectors, tokens, exactly):
        return verbalizer(vectors, max_new_tokens=tokens, ignore_end=exactly)

    def on_policy_stage(self):
        from training.config import Config
        from training.on_policy import run

        return run, Config


class New(PairSide):
    """Also the two it is compared with that are not the old one: `inference.py`'s script way and `generate`."""

    def verbalizer(self, contract):
        from nla_sdk.model.verbalizer import Verbalizer

        return Verbalizer(self.pair.source, "av", contract, self.pair.verbalizer.transform)

    def write(self, verbalizer, vectors, tokens, exactly):
        from nla_sdk.sampling import Sampling

        return verbalizer(vectors, Sampling(tokens, ignore_end=exactly))

    def on_policy_stage(self):
        from training.configs.config import Config
        from training.fit.on_policy import run

        return run, Config

    def generate(self, prompt: str, rows: Sequence[int], tokens: int, exactly: bool) -> dict:
        from inference import generate_batch

        vectors, verbalizer = self.vectors[list(rows)], self.verbalizers[prompt]
        return timed(lambda: generate_batch(self.pair, verbalizer, vectors, tokens, exactly=exactly))

    @cached_property
    def _script(self):
        from inference import Script

        return Script(self.pair, self.pair.av_contract.av_prompt())

    def script(self, prompt: str, rows: Sequence[int], tokens: int) -> dict:
        script = self._script
        script.prompt, script.new_tokens = self.verbalizers[prompt].contract.av_prompt(), tokens
        return timed(lambda: script.round_trip(self.vectors[list(rows)])) | {"value": None}

    def forget_script(self) -> dict:
        self.__dict__.pop("_script", None)
        return {"value": None}

    def bare_reconstruct(self, texts: Sequence[str]) -> dict:
        from inference import bare_forward

        contract, tokenizer = self.pair.ar_contract, self.pair.source.tokenizer
        prompts = [ids for ids, _ in contract.ar_prompt_ids_batch(tokenizer, texts)]
        return timed(lambda: bare_forward(self.pair, prompts, contract.ar_num_blocks, "ar")) | {"value": None}

    def bare_extract(self, texts: Sequence[str]) -> dict:
        from inference import bare_forward

        prompts = [self.pair.source.tokenizer(text).input_ids for text in texts]
        return timed(lambda: bare_forward(self.pair, prompts, self.pair.layer + 1, None)) | {"value": None}


class Plain(Side):
    """Greedy decoding in float32 with nothing of the SDK but the folder of the demo base."""

    ROWS = 32

    def __init__(self, tree: Path) -> None:
        super().__init__(tree)
        from peft import PeftModel
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from nla_sdk.halves.demo_base import demo_base

        meta = yaml.safe_load((self.demo / "av" / "nla_meta.yaml").read_text("utf-8"))
        base = AutoModelForCausalLM.from_pretrained(demo_base(), dtype=torch.float32)
        self.model = PeftModel.from_pretrained(base, self.demo / "av").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(demo_base())
        self.ids = self.tokenizer(meta["av_template"].replace("{injection_char}", meta["injection_char"])).input_ids
        self.marker = self.ids.index(meta["injection_token_id"])
        (mean,) = load_file(self.demo / "av" / meta["activation_mean"]).values()
        centred = self.vectors - mean.float()
        self.inputs = centred * (meta["injection_scale"] / centred.norm(dim=1, keepdim=True))
        self.limit = meta["max_new_tokens"]
        ends = base.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def texts(self, rows: Sequence[int]) -> dict:
        """Of each row its text and the smallest gap between its two largest logits, over the tokens it wrote."""
        batches = [list(rows[at : at + self.ROWS]) for at in range(0, len(rows), self.ROWS)]
        return timed(lambda: [one for batch in batches for one in self._batch(batch)])

    @torch.no_grad()
    def _batch(self, rows: list[int]) -> list[tuple[str, float]]:
        def overwrite(module, args, output):
            output = output.clone()
            output[:, self.marker] = self.inputs[rows]
            return output

        handle = self.model.get_input_embeddings().register_forward_hook(overwrite)
        try:
            ids = torch.tensor([self.ids] * len(rows))
            out = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        finally:
            handle.remove()
        written: list[list[int]] = [[] for _ in rows]
        gaps = [float("inf")] * len(rows)
        going = list(range(len(rows)))
        for _ in range(self.limit):
            logits = out.logits[:, -1]
            chosen, best = logits.argmax(dim=-1), logits.topk(2).values
            kept = []
            for at, row in enumerate(going):
                gaps[row] = min(gaps[row], float(best[at, 0] - best[at, 1]))
                if int(chosen[at]) not in self.ends:
                    written[row].append(int(chosen[at]))
                    if CLOSE_TAG not in self._decoded(written[row]):
                        kept.append(at)
            if not kept:
                break
            if len(kept) < len(going):
                out.past_key_values.batch_select_indices(torch.tensor(kept))
                going, chosen = [going[at] for at in kept], chosen[kept]
            out = self.model(input_ids=chosen[:, None], past_key_values=out.past_key_values, use_cache=True)
        return [(self._decoded(tokens), gap) for tokens, gap in zip(written, gaps, strict=True)]

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def main() -> None:
    name, tree = sys.argv[1], Path(sys.argv[2]).resolve()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    side = {"old": Old, "new": New, "plain": Plain}[name](tree)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(side, request.pop("call"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
