"""The contract of a checkpoint or table, `nla_meta.yaml`: every dialect in, one canonical form out.

The contract decides everything that code must not guess: which base model and layer, which marker token is overwritten
and at what norm, the exact prompts, how many blocks the AR runs. `Contract.load` reads any dialect found in published
files (`DIALECTS`), fills what a file lacks from a known release (`releases.yaml`), refuses what is missing or malformed
with the key and the file named, and keeps every key it does not know. `Contract.verify` holds it against the live
tokenizer. Needs pydantic and PyYAML only: cards and tables are read without torch.

Example:
    >>> contract = Contract.load("my-av", known=known_release("owner/my-av"))
    >>> contract = contract.verify(tokenizer)
    >>> ids = contract.av_prompt_ids(tokenizer)
    >>> ids[contract.find_marker(ids)] == contract.injection_token_id
    True
"""

from __future__ import annotations

import copy
import math
import numbers
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from ..errors import ContractError, ContractMismatchError, MarkerError, MissingFileError
from ..io.sidecars import write_yaml

SIDECAR_NAME = "nla_meta.yaml"
MARKER_FIELD = "{injection_char}"
EXPLANATION_FIELD = "{explanation}"

# What other files call an attribute; "block.key" is a key inside a block. The attribute's own name, at the top level,
# is always read too, and is the only one ever written.
DIALECTS: dict[str, tuple[str, ...]] = {
    "base_model": ("base_checkpoint", "extraction.base_model"),
    "d_model": ("extraction.d_model",),
    "layer": ("extraction.layer", "extraction.layer_index", "extraction_layer_index"),
    "injection_scale": ("extraction.injection_scale",),
    "mse_scale": ("extraction.mse_scale",),
    "injection_char": ("tokens.injection_char", "extraction.injection_char"),
    "injection_token_id": ("tokens.injection_token_id", "extraction.injection_token_id"),
    "injection_left_neighbor_id": ("tokens.injection_left_neighbor_id", "extraction.injection_left_neighbor_id"),
    "injection_right_neighbor_id": ("tokens.injection_right_neighbor_id", "extraction.injection_right_neighbor_id"),
    "critic_suffix_ids": ("tokens.critic_suffix_ids", "extraction.critic_suffix_ids"),
    "av_template": ("prompt_templates.av", "prompt_templates.actor"),
    "ar_template": ("prompt_templates.ar", "prompt_templates.critic"),
    "ar_num_blocks": ("ar.num_hidden_layers", "critic.num_hidden_layers", "critic.extraction_layer_index"),
}
# These hold K where K + 1 blocks are kept.
_INDEX_OF_LAST_BLOCK = frozenset(DIALECTS["ar_num_blocks"])
_BLOCKS = sorted({key.split(".")[0] for keys in DIALECTS.values() for key in keys if "." in key})
_SCALES = ("injection_scale", "mse_scale")
_ROLES = {"av": "av", "actor": "av", "ar": "ar", "critic": "ar"}
_DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
_NEIGHBOURS = ("injection_left_neighbor_id", "injection_right_neighbor_id")


def _number(value: Any) -> float:
    """Any finite number, also as a string (`39.19`, `1e4`, `20_000`): YAML 1.1 reads `1e4` as text."""
    if isinstance(value, (str, numbers.Real)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError("expected a number")


def _integer(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    try:
        number = _number(value)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError("expected a whole number")
    return int(number)


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _role(value: Any) -> Any:
    return _ROLES.get(_lower(value), value) if isinstance(value, str) else value


def _dtype(value: Any) -> Any:
    name = _lower(value).removeprefix("torch.") if isinstance(value, str) else value
    return _DTYPES.get(name, name) if isinstance(name, str) else name


def _bare_file_name(value: str) -> str:
    """No path that a file names is trusted: a downloaded contract must not point outside its own folder."""
    if not re.fullmatch(r"\w[\w.+ -]*", value):
        raise ValueError("expected a bare file name beside the contract, without folders")
    return value


def _repo_id(value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value) or ".." in value:
        raise ValueError("expected a repository id such as owner/name")
    return value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, BeforeValidator(_integer), Field(ge=1)]
Index = Annotated[int, BeforeValidator(_integer), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]


class Contract(BaseModel):
    """What a checkpoint (`nla_model`) or table (`nla_dataset`) promises; immutable, see `replace`.

    Build it with `load` or `from_dict`; the constructor takes the same keys as keyword arguments and checks the same.
    Attributes a file need not give are None where nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nla_model", "nla_dataset"] = Field(description="A checkpoint or a table.")
    role: Annotated[Literal["av", "ar"], BeforeValidator(_role)] | None = Field(
        None, description="The half: av (vector to text) or ar (text to vector); None for most tables."
    )
    base_model: Text | None = Field(None, description="Hub id or folder of the base model.")
    base_revision: Text | None = Field(None, description="Commit, tag or branch of the base model.")
    d_model: Count | None = Field(None, description="Width of the residual stream and of every vector.")
    layer: Index | None = Field(None, description="Decoder block whose output is read, counted from 0.")
    injection_scale: Positive | None = Field(
        None, description="Norm an activation is scaled to before it is injected; None = as it is."
    )
    mse_scale: Positive | None = Field(None, description="Norm both vectors are scaled to in the loss; None = raw.")
    injection_char: Text | None = Field(None, description="The marker, whose embedding the activation overwrites.")
    injection_token_id: Index | None = Field(None, description="Token id of the marker.")
    injection_left_neighbor_id: Index | None = Field(None, description="Token id just before the marker.")
    injection_right_neighbor_id: Index | None = Field(None, description="Token id just after the marker.")
    av_template: Text | None = Field(None, description="AV prompt, byte for byte, with one {injection_char}.")
    ar_template: Text | None = Field(None, description="AR prompt, byte for byte, with one {explanation}.")
    critic_suffix_ids: Annotated[list[Index], Field(min_length=1)] | None = Field(
        None, description="Token ids every AR prompt ends in."
    )
    prompt_style: Annotated[Literal["raw", "chat"], BeforeValidator(_lower)] = Field(
        "raw", description="AV prompt as raw text, or as one user message of the chat template; AR prompts are raw."
    )
    ar_num_blocks: Count | None = Field(None, description="B: blocks 0 … B−1 run, hidden_states[B] is read.")
    head_bias: bool | None = Field(None, description="Whether the AR's linear head has a bias; None = as found.")
    quantization: Text | None = Field(None, description="Quantisation of the base in training (nf4); None = none.")
    compute_dtype: Annotated[Literal["float16", "bfloat16", "float32"], BeforeValidator(_dtype)] | None = Field(
        None, description="Dtype of the base's matrix products in training."
    )
    extraction_precision: Annotated[Text, BeforeValidator(_dtype)] | None = Field(
        None, description="Precision the source ran at when read (nf4, float32, …); fp16 and its like are spelled out."
    )
    max_length: Count | None = Field(None, description="Most tokens an AR prompt may have; longer ones are cut.")
    max_new_tokens: Count | None = Field(None, description="Tokens the AV writes at most by default.")
    activation_mean: Annotated[Text, AfterValidator(_bare_file_name)] | None = Field(
        None, description="File beside the contract with the mean activation of a centred pair."
    )
    centred_norm: Positive | None = Field(None, description="Median norm of the centred training vectors.")
    baseline_mse: Positive | None = Field(None, description="Direction mse of predicting the mean: FVE's denominator.")
    pair: Annotated[Text, AfterValidator(_repo_id)] | None = Field(None, description="Repository of the other half.")
    provenance: dict[Any, Any] = Field(
        default_factory=dict, description="What it was made from: hashes, code version, settings."
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _extras: dict[Any, Any] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr(default="Contract(…)")

    # --- in ----------------------------------------------------------------------------------------------------------
    def __init__(self, **values: Any) -> None:
        self._read(values, "Contract(…)", None)

    @classmethod
    def from_dict(cls, d: Mapping, *, source: str = "<dict>", known: Mapping | None = None) -> Contract:
        """A contract from a mapping in any dialect.

        Args:
            d: what a sidecar holds. Not changed.
            source: the file's name, for messages.
            known: a mapping in any dialect (a release's entry) that fills what `d` lacks; where both speak, `d` wins.
        Raises:
            ContractError: something is missing, malformed or contradictory; names the key, the file and what to do.
        Example:
            >>> found = {"role": "critic", "base_checkpoint": "owner/lm", "extraction": {"layer": 2, "d_model": 64},
            ...          "critic": {"num_hidden_layers": 2}, "prompt_templates": {"critic": "{explanation}>"}}
            >>> Contract.from_dict(found).ar_num_blocks
            3
        """
        contract = cls.__new__(cls)
        contract._read(d, source, known)
        return contract

    @classmethod
    def load(cls, path: str | os.PathLike, *, known: Mapping | None = None) -> Contract:
        """Read a contract file, a folder's `nla_meta.yaml`, or a table's `<name>.parquet.nla_meta.yaml`.

        Args:
            path: the file, the folder, or the `.parquet` file.
            known: see `from_dict`. With it the file may be absent altogether.
        Raises:
            MissingFileError: there is no such file, and no `known` to stand in for it.
            ContractError: the file is no YAML mapping, or its content is refused (see `from_dict`).
        """
        file = sidecar_path(path)
        if file.is_file():
            return cls.from_dict(_parse(file.read_bytes(), str(file)), source=str(file), known=known)
        if known is not None:
            return cls.from_dict({}, source=f"{file} (absent; known release)", known=known)
        if not file.parent.is_dir():
            raise MissingFileError(f"{file.parent} does not exist, so it holds no contract. Check the path.")
        raise MissingFileError(
            f"{file} does not exist: a checkpoint needs its contract beside it ({SIDECAR_NAME}), a table "
            f"<name>.parquet.{SIDECAR_NAME}. Ask its publisher for it, or write one: Contract.from_dict(…).save(…)."
        )

    def _read(self, d: Mapping, source: str, known: Mapping | None) -> None:
        if not isinstance(d, Mapping):
            raise ContractError(f"{source}: expected a mapping of keys to values, found a {type(d).__name__}.")
        found, extras = _collect(d)
        values, keys = _choose(found, source)
        origins = dict.fromkeys(values, "sidecar")
        release, release_keys = _choose(_collect(known or {})[0], f"{source} (known release)")
        stale = _stale(values, release)
        for name, value in release.items():
            if name not in values and name not in stale:
                values[name], origins[name], keys[name] = value, "release", release_keys[name]
        _derive(values, origins, keys, source)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ContractError(_malformed(error, keys, origins, source)) from None
        self._origins = {name: origins.get(name, "default") for name in type(self).model_fields}
        self._extras, self._source = extras, source
        self._require()

    def _require(self) -> None:
        """Refuse what is missing: the model's own validation knows types and ranges only."""
        if self.kind == "nla_dataset":
            return
        needed = {"role": "a checkpoint is an AV or an AR", "base_model": "", "d_model": "", "layer": ""}
        if self.role == "av":
            needed["av_template"] = "an AV needs its exact prompt"
            if self.injection_token_id is None:
                needed["injection_char"] = "an AV needs its marker, or the marker's injection_token_id"
        if self.role == "ar":
            needed["ar_template"] = "an AR needs its exact prompt"
            needed["ar_num_blocks"] = "an AR needs its depth"
            if self.activation_mean is not None:
                needed["centred_norm"] = "an AR with an activation_mean needs the norm of what it adds to it"
        for name, why in needed.items():
            if getattr(self, name) is None:
                raise ContractError(_missing(name, why, self._source))
        name, field = ("av_template", MARKER_FIELD) if self.role == "av" else ("ar_template", EXPLANATION_FIELD)
        if (count := getattr(self, name).count(field)) != 1:
            raise ContractError(
                f"{self._source}: `{name}` ({_names(name)}) must contain {field} exactly once, found {count} times in "
                f"{_short(getattr(self, name))}. Put {field} where the "
                f"{'vector is injected' if self.role == 'av' else 'explanation stands'}."
            )

    # --- out ---------------------------------------------------------------------------------------------------------
    @property
    def origins(self) -> dict[str, str]:
        """Where each attribute came from: "sidecar", "release", "derived" or "default"."""
        return dict(self._origins)

    @property
    def extras(self) -> dict[Any, Any]:
        """The keys nobody here knows, where they stood; they are written back unchanged."""
        return copy.deepcopy(self._extras)

    @property
    def source(self) -> str:
        """The file it was read from, as named in messages."""
        return self._source

    def to_dict(self) -> dict[Any, Any]:
        """The canonical form: attribute names at the top level, then the unknown keys as they were.

        None is left out, except for a scale that is explicitly null: null means raw, absent means √d_model.
        """
        canonical: dict[Any, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            explicit_null = name in _SCALES and self._origins[name] != "default"
            if (value is not None and value != {}) or (value is None and explicit_null):
                canonical[name] = copy.deepcopy(value)
        return canonical | self.extras

    def save(self, path: str | os.PathLike) -> Path:
        """Write the canonical form, atomically: a reader sees the old file or the new one, never half of one.

        Args:
            path: a `.yaml` file, a folder (made if need be), or a `.parquet` file, beside which the sidecar is put.
        Returns:
            The file written.
        Raises:
            ContractError: an unknown key or the provenance holds something that YAML cannot hold.
        """
        file = sidecar_path(path)
        try:
            write_yaml(file, self.to_dict(), _Dumper, width=1 << 20)
        except yaml.YAMLError as error:
            raise ContractError(f"{file} not written: the contract holds what YAML cannot: {error}.") from None
        return file

    def replace(self, **changes: Any) -> Contract:
        """A copy with some attributes changed and everything checked again; None takes an attribute away.

        A scale set to None is raw. Changed attributes get the origin "derived", the others keep theirs.
        """
        kept = {key: value for key, value in self.to_dict().items() if self._origins.get(key) != "default"}
        contract = type(self).from_dict(kept | changes, source=self._source)
        contract._origins |= {
            name: "derived" if name in changes else self._origins[name]
            for name in self._origins
            if contract._origins[name] != "default"
        }
        return contract

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Contract) else NotImplemented

    # --- prompts -----------------------------------------------------------------------------------------------------
    @property
    def ar_prefix(self) -> str:
        """The AR template's text before the explanation."""
        return self._need("ar_template").partition(EXPLANATION_FIELD)[0]

    @property
    def ar_suffix(self) -> str:
        """The AR template's text after the explanation; its last token is where the AR reads."""
        return self._need("ar_template").partition(EXPLANATION_FIELD)[2]

    def av_prompt(self) -> str:
        """The AV template with the marker in its place, before any chat template.

        Raises:
            ContractError: the contract has only the marker's token id; `verify` fills in the text.
        """
        return self._need("av_template").replace(MARKER_FIELD, self._need("injection_char"))

    def ar_prompt(self, explanation: str) -> str:
        """The AR template around an explanation, whose braces are text like any other.

        Example:
            >>> contract.ar_prompt("a {dict}")
            'Summary of the following text: <text>a {dict}</text> <summary>'
        """
        return self.ar_prefix + explanation + self.ar_suffix

    def av_prompt_ids(self, tokenizer) -> list[int]:
        """Token ids of the AV prompt, with BOS exactly once at the front where the tokenizer has one.

        Raises:
            ContractMismatchError: the contract wants a chat template and the tokenizer has none.
        """
        prompt = self._need("av_template").replace(MARKER_FIELD, self._marker(tokenizer))
        if self.prompt_style == "raw":
            return _encode(tokenizer, [prompt])[0]
        if not getattr(tokenizer, "chat_template", None):
            raise ContractMismatchError(
                f"{self._source}: `prompt_style` is chat, but the tokenizer has no chat template. Load the tokenizer "
                f"of the instruction-tuned base ({self.base_model}), or set `prompt_style: raw` if it was trained so."
            )
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True)
        return _one_bos(tokenizer, _flat(ids))

    def ar_prompt_ids(self, tokenizer, explanation: str, max_length: int | None = None) -> tuple[list[int], bool]:
        """Token ids of the AR prompt, with BOS exactly once where the tokenizer has one.

        Args:
            explanation: any text; the empty string too.
            max_length: most ids to return; None: the contract's `max_length`, else no limit.
        Returns:
            The ids, and whether the explanation was cut to fit. Its end is cut, never the template's suffix: without
            that the AR reads a meaningless token.
        Raises:
            ContractError: not even the empty explanation fits.
        """
        return self.ar_prompt_ids_batch(tokenizer, [explanation], max_length)[0]

    def ar_prompt_ids_batch(
        self, tokenizer, explanations: Sequence[str], max_length: int | None = None
    ) -> list[tuple[list[int], bool]]:
        """`ar_prompt_ids` for many explanations, with one call of the tokenizer unless some must be cut."""
        limit = self.max_length if max_length is None else max_length
        prompts = _encode(tokenizer, [self.ar_prompt(explanation) for explanation in explanations])
        return [
            (ids, False) if limit is None or len(ids) <= limit else (self._cut(tokenizer, explanation, limit), True)
            for ids, explanation in zip(prompts, explanations, strict=True)
        ]

    def _cut(self, tokenizer, explanation: str, limit: int) -> list[int]:
        """The longest beginning of the explanation, in characters, whose whole prompt has at most `limit` ids.

        The whole prompt is tokenised anew at each try, because tokens merge across the explanation's end.
        """
        fitting, shortest, too_long = _encode(tokenizer, [self.ar_prompt("")])[0], 0, len(explanation)
        if len(fitting) > limit:
            raise ContractError(
                f"{self._source}: `max_length` {limit} leaves no room for an explanation: the AR template alone takes "
                f"{len(fitting)} tokens. Raise max_length."
            )
        while too_long - shortest > 1:
            middle = (shortest + too_long) // 2
            ids = _encode(tokenizer, [self.ar_prompt(explanation[:middle])])[0]
            if len(ids) <= limit:
                fitting, shortest = ids, middle
            else:
                too_long = middle
        return fitting

    def find_marker(self, ids: Sequence[int]) -> int:
        """Position of the marker in one prompt's ids (a list, array or tensor [n]).

        Raises:
            MarkerError: it is not there exactly once, or not between its two neighbours. A silent miss would verbalise
                the marker character itself.
            ContractError: the contract does not know the marker's token id; `verify` derives it.
        """
        tokens, marker = _flat(ids), self._need("injection_token_id")
        positions = [position for position, token in enumerate(tokens) if token == marker]
        if len(positions) != 1:
            raise MarkerError(
                f"The marker {self.injection_char!r} (token {marker}) occurs {len(positions)} times in the prompt of "
                f"{len(tokens)} tokens; expected exactly once. Build the prompt with av_prompt_ids."
            )
        around = _around(tokens, positions[0])
        for side, name, token in zip(("left", "right"), _NEIGHBOURS, around, strict=True):
            expected = getattr(self, name)
            if expected is not None and token != expected:
                raise MarkerError(
                    f"The marker {self.injection_char!r} (token {marker}) at position {positions[0]} has {token} as "
                    f"its {side} neighbour; expected {expected}. Build the prompt with av_prompt_ids."
                )
        return positions[0]

    # --- against the live tokenizer ----------------------------------------------------------------------------------
    def verify(self, tokenizer) -> Contract:
        """Hold the contract against the tokenizer the model will be run with.

        AV: the marker is one token, not UNK, and the one the contract names; it occurs exactly once in the prompt,
        between its two neighbours. AR: prompts end in the suffix's tokens whatever the explanation (only punctuation,
        or the one token that touches the explanation, may merge with it: `.` + `</` is one token for some). Both: BOS
        exactly once where the tokenizer has one.

        Returns:
            A contract completed with what the tokenizer tells (marker text and id, neighbours, suffix ids; origin
            "derived"); this one is not changed.
        Raises:
            ContractMismatchError: with the expected and the found ids and pieces.
        Example:
            >>> contract = contract.verify(AutoTokenizer.from_pretrained(contract.base_model))
        """
        learned: dict[str, Any] = {}
        if self.role == "av" or (self.kind == "nla_dataset" and self.role is None and self._has_marker()):
            learned |= self._verify_av(tokenizer)
        if self.role == "ar" or (self.kind == "nla_dataset" and self.role is None and self.ar_template):
            learned |= self._verify_ar(tokenizer)
        changes = {name: value for name, value in learned.items() if getattr(self, name) is None and value is not None}
        return self.replace(**changes) if changes else self

    def _has_marker(self) -> bool:
        return self.av_template is not None and (self.injection_char or self.injection_token_id) is not None

    def _verify_av(self, tokenizer) -> dict[str, Any]:
        marker = self._marker(tokenizer)
        ids, expected = _standing_alone(tokenizer, marker), self.injection_token_id
        if getattr(tokenizer, "unk_token_id", None) in ids:
            self._mismatch(tokenizer, f"The marker {marker!r} is unknown to the tokenizer", expected, ids)
        if len(ids) != 1:
            self._mismatch(tokenizer, f"The marker {marker!r} is {len(ids)} tokens, not one", expected, ids)
        if expected not in (None, ids[0]):
            self._mismatch(tokenizer, f"The marker {marker!r} is another token", expected, ids)

        content = _plain(tokenizer, self.av_template.replace(MARKER_FIELD, marker))
        tokens = self.av_prompt_ids(tokenizer)
        self._verify_bos(tokenizer, tokens, content, "AV")
        if self.prompt_style == "raw" and tokens[-1] != content[-1]:
            self._mismatch(tokenizer, "The tokenizer appends a token to the AV prompt", content[-1:], tokens[-1:])
        positions = [position for position, token in enumerate(tokens) if token == ids[0]]
        if len(positions) != 1:
            before, _, after = self.av_template.partition(MARKER_FIELD)
            context = _plain(tokenizer, before[-8:] + marker + after[:8])
            what = f"The marker {marker!r} occurs {len(positions)} times in the AV prompt, not once"
            self._mismatch(tokenizer, what, ids, context)
        around = _around(tokens, positions[0])
        for side, name, token in zip(("left", "right"), _NEIGHBOURS, around, strict=True):
            if (expected := getattr(self, name)) not in (None, token):
                self._mismatch(tokenizer, f"The marker {marker!r} has another {side} neighbour", expected, token)
        return {"injection_char": marker, "injection_token_id": ids[0]} | dict(zip(_NEIGHBOURS, around, strict=True))

    def _verify_ar(self, tokenizer) -> dict[str, Any]:
        explanations = ("a cat.", "42")
        prompts = [self.ar_prompt(explanation) for explanation in explanations]
        tokenised = _encode(tokenizer, prompts)
        for prompt, tokens in zip(prompts, tokenised, strict=True):
            self._verify_bos(tokenizer, tokens, _plain(tokenizer, prompt), "AR")
        suffix = _plain(tokenizer, self.ar_suffix) if self.ar_suffix else []
        expected, stable = self.critic_suffix_ids, len(suffix)
        for explanation, tokens in zip(explanations, tokenised, strict=True):
            where = f"The AR prompt of {explanation!r} ends in other tokens than"
            matching = _common_tail(tokens, suffix)
            merged = suffix[: len(suffix) - matching]
            if suffix and (
                not matching or (len(merged) > 1 and any(char.isalnum() for char in tokenizer.decode(merged)))
            ):
                self._mismatch(tokenizer, f"{where} its template's suffix", suffix, tokens[-len(suffix) :])
            if expected and expected not in (tokens[-len(expected) :], suffix[-len(expected) :]):
                self._mismatch(tokenizer, f"{where} critic_suffix_ids", expected, tokens[-len(expected) :])
            stable = min(stable, matching)
        return {"critic_suffix_ids": suffix[len(suffix) - stable :] or None}

    def _verify_bos(self, tokenizer, tokens: list[int], content: list[int], half: str) -> None:
        """BOS once: in front, and not again in the text. A chat template may use BOS as its turn delimiter."""
        bos = getattr(tokenizer, "bos_token_id", None)
        if bos is None:
            return
        chat = half == "AV" and self.prompt_style == "chat"
        count = 1 + content.count(bos) if chat else tokens.count(bos)
        if tokens[0] != bos or count != 1:
            self._mismatch(tokenizer, f"The {half} prompt holds BOS {count} times, not once", [bos], tokens[:8])

    def _marker(self, tokenizer) -> str:
        """The marker's text: what the contract says, else what its token id stands for."""
        if self.injection_char is not None:
            return self.injection_char
        token = self._need("injection_token_id")
        text = tokenizer.decode([token])
        for candidate in (text, text.strip(), tokenizer.convert_ids_to_tokens(token)):
            if candidate and _standing_alone(tokenizer, candidate) == [token]:
                return candidate
        self._mismatch(tokenizer, "The marker's token cannot be written as text", token, None)

    def _mismatch(self, tokenizer, what: str, expected, found) -> None:
        raise ContractMismatchError(
            f"{self._source}: {what}. Expected {_pieces(tokenizer, expected)}, found {_pieces(tokenizer, found)}. "
            f"Load the tokenizer it was trained with (base model {self.base_model}), or correct the contract."
        )

    def _need(self, name: str) -> Any:
        value = getattr(self, name)
        if value is None:
            hint = ", or use what contract.verify(tokenizer) returns, which derives it" if "injection" in name else ""
            raise ContractError(f"{self._source} lacks `{name}`, needed here. Add it ({_names(name)}){hint}.")
        return value


# --- reading dialects ------------------------------------------------------------------------------------------------
def _collect(raw: Mapping) -> tuple[dict[str, list[tuple[str, Any]]], dict[Any, Any]]:
    """Every known key with its value, by attribute, and all the rest where it stood."""
    rest = copy.deepcopy(dict(raw))
    for block in _BLOCKS:
        if isinstance(rest.get(block), dict):
            rest[block] = dict(rest[block])  # a YAML alias may share the block with an unknown key
    found: dict[str, list[tuple[str, Any]]] = {}
    for name in Contract.model_fields:
        for key in (name, *DIALECTS.get(name, ())):
            block, _, leaf = key.rpartition(".")
            holder = rest.get(block) if block else rest
            if isinstance(holder, dict) and leaf in holder:
                found.setdefault(name, []).append((key, holder.pop(leaf)))
                if block and not holder:
                    del rest[block]
    return found, rest


def _choose(found: dict[str, list[tuple[str, Any]]], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """One value per attribute, with the key it was found under; two keys that disagree are refused."""
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    first: dict[str, Any] = {}
    for name, entries in found.items():
        for key, raw in entries:
            if (raw is None and name not in _SCALES) or (isinstance(raw, list) and not raw):
                continue
            value = raw
            if key in _INDEX_OF_LAST_BLOCK:
                try:
                    value = _integer(raw) + 1
                except ValueError as error:
                    raise ContractError(f"{source}: `{key}` is {_short(raw)}: {error}.") from None
            if name == "role":
                value = _role(raw)
            if name not in values:
                values[name], keys[name], first[name] = value, key, raw
            elif not _agree(values[name], value, values.get("d_model")):
                raise ContractError(
                    f"{source}: `{keys[name]}` is {_short(first[name])} but `{key}` is {_short(raw)}, and both give "
                    f"`{name}`. Correct the wrong one, or keep only `{name}`."
                )
    return values, keys


def _agree(a: Any, b: Any, d_model: Any) -> bool:
    numeric = []
    for value in (a, b):
        try:
            numeric.append(math.sqrt(_integer(d_model)) if value == "sqrt_d_model" else _number(value))
        except ValueError:
            return a == b
    return math.isclose(*numeric, rel_tol=1e-4)


def _stale(values: dict[str, Any], release: dict[str, Any]) -> set[str]:
    """What a known release must not fill, because it belongs to another marker or template than the sidecar's."""

    def differs(name: str) -> bool:
        return name in values and name in release and not _agree(values[name], release[name], None)

    stale = set()
    if differs("injection_char") or differs("injection_token_id"):
        stale |= {"injection_char", "injection_token_id", *_NEIGHBOURS}
    if differs("av_template"):
        stale |= set(_NEIGHBOURS)
    if differs("ar_template"):
        stale.add("critic_suffix_ids")
    return stale


def _derive(values: dict[str, Any], origins: dict[str, str], keys: dict[str, str], source: str) -> None:
    """Fill in what follows from the rest: kind, role and the scales (in place)."""
    if "kind" not in values:
        is_table = source.endswith(f".parquet.{SIDECAR_NAME}")
        values["kind"], origins["kind"] = ("nla_dataset", "derived") if is_table else ("nla_model", "default")
    if "role" not in values and values["kind"] == "nla_model":
        av, ar = "av_template" in values, "ar_template" in values or "ar_num_blocks" in values
        if av != ar:
            values["role"], origins["role"] = ("av" if av else "ar"), "derived"
    try:
        root = math.sqrt(_integer(values.get("d_model")))
    except ValueError:
        root = None
    for name in _SCALES:
        if name not in values:
            if root:
                values[name] = root
            continue
        word = _lower(values[name])
        if word in ("raw", "none"):
            values[name] = None
        elif word == "sqrt_d_model":
            if root:
                values[name] = root
            else:
                del values[name], origins[name]
        elif word is not None:
            try:
                values[name] = _number(values[name])
            except ValueError:
                if name == "injection_scale" and values.get("role") == "ar":
                    values[name] = None  # an AR injects nothing
                    continue
                raise ContractError(
                    f"{source}: `{keys[name]}` is {_short(values[name])}; expected a number, `sqrt_d_model` "
                    "(= √d_model) or null (= raw). A scale cannot be guessed: ask the publisher which one was used."
                ) from None


def _names(name: str) -> str:
    """What the files call an attribute, for messages."""
    others = ", ".join(f"`{key}`" for key in DIALECTS.get(name, ()))
    if name == "ar_num_blocks":
        others += " (these hold K, where K + 1 blocks run)"
    return f"`{name}`" + (f"; in other dialects {others}" if others else "")


def _missing(name: str, why: str, source: str) -> str:
    meaning = (Contract.model_fields[name].description or "").rstrip(".")
    because = f": {why}" if why else ""
    return (
        f"{source}: `{name}` is missing and cannot be derived{because}. It may be given as {_names(name)}. It means: "
        f"{meaning}. Add it to the file."
    )


def _malformed(error: ValidationError, keys: dict[str, str], origins: dict[str, str], source: str) -> str:
    said: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0])
        message = entry["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        whose = " (of the known release)" if origins.get(name) == "release" else ""
        said.setdefault(name, f"`{keys.get(name, name)}`{whose} is {_short(entry['input'])}: {message}")
    return f"{source}: {'; '.join(said.values())}. Correct the file."


def _short(value: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    return shortener.repr(value)


# --- YAML ------------------------------------------------------------------------------------------------------------
def sidecar_path(path: str | os.PathLike) -> Path:
    """Where the contract of a folder, of a `.parquet` table or of a file that is itself a contract lies."""
    path = Path(path)
    if path.suffix == ".parquet" and not path.is_dir():
        return path.with_name(f"{path.name}.{SIDECAR_NAME}")
    if path.is_file() or (path.suffix in (".yaml", ".yml") and not path.is_dir()):
        return path
    return path / SIDECAR_NAME


def _parse(data: bytes, source: str) -> Mapping:
    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ContractError(f"{source} is not valid YAML{where}: {problem}. Correct the file.") from None
    except (ValueError, OverflowError, RecursionError) as error:  # an impossible date or number, absurd nesting
        raise ContractError(f"{source} is not valid YAML: {error}. Correct the file.") from None
    if content is None:
        raise ContractError(f"{source} is empty; expected a mapping of keys to values. Download or write it again.")
    if not isinstance(content, Mapping):
        raise ContractError(f"{source} holds a {type(content).__name__}; expected a mapping of keys to values.")
    return content


class _Dumper(yaml.SafeDumper):
    """Multi-line text as a block, so that a template can be read in the file."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if re.search(r"[\r\t\x85\u2028\u2029\ufeff]", text):  # PyYAML would rewrite some of these outside double quotes
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


# --- tokens ----------------------------------------------------------------------------------------------------------
def _call(tokenizer, text, **options):
    # verbose=False: "sequence is longer than the model's maximum" is ours to deal with, not to print
    return tokenizer(text, verbose=False, **options)["input_ids"]


def _flat(ids) -> list[int]:
    """A plain list of ids from whatever holds one row of them: transformers 5 gives a dict, others nest once more."""
    if hasattr(ids, "keys"):
        ids = ids["input_ids"]
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
        ids = ids[0]
    return [int(token) for token in ids]


def _one_bos(tokenizer, ids: list[int]) -> list[int]:
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return ids
    text = next((position for position, token in enumerate(ids) if token != bos), len(ids))
    return [bos, *ids[text:]]


def _encode(tokenizer, texts: list[str]) -> list[list[int]]:
    return [_one_bos(tokenizer, list(ids)) for ids in _call(tokenizer, texts)] if texts else []


def _plain(tokenizer, text: str) -> list[int]:
    return _flat(_call(tokenizer, text, add_special_tokens=False))


def _standing_alone(tokenizer, text: str) -> list[int]:
    """Ids of a text by itself; SentencePiece-like tokenizers put a space token before it, dropped here."""
    ids = _plain(tokenizer, text)
    return ids[1:] if len(ids) == 2 and not tokenizer.decode(ids[:1]).strip() else ids


def _around(tokens: list[int], position: int) -> tuple[int | None, int | None]:
    return (
        tokens[position - 1] if position else None,
        tokens[position + 1] if position + 1 < len(tokens) else None,
    )


def _common_tail(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


def _pieces(tokenizer, ids) -> str:
    if ids is None:
        return "nothing"
    ids = [ids] if isinstance(ids, int) else list(ids)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return "[" + ", ".join(f"{token} {piece!r}" for token, piece in zip(ids, pieces, strict=True)) + "]"


# --- known releases --------------------------------------------------------------------------------------------------
@cache
def _releases() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("releases.yaml").read_text(encoding="utf-8")
    return {repo.lower(): {"repo": repo, **entry} for repo, entry in yaml.safe_load(text)["releases"].items()}


def known_release(repo_id: str, subfolder: str | None = None) -> dict[str, Any] | None:
    """What is known of a published repository, as `known` for `Contract.load`; None if nothing is.

    Args:
        repo_id: owner/name, in any letter case.
        subfolder: a checkpoint inside it. Only releases that keep one checkpoint per subfolder are known so; what
            stands in another repository's subfolder is not.
    Example:
        >>> known_release("solshine/gemma-4-e2b-nla-l23-ar-v0_0_1")["ar_num_blocks"]
        18
    """
    entry = copy.deepcopy(_releases().get(repo_id.lower()))
    if entry is None or (subfolder and not entry.get("any_subfolder")):
        return None
    return {key: value for key, value in entry.items() if key not in ("repo", "any_subfolder")}


def release_partner(repo_id: str) -> str | None:
    """The repository of a known release's other half; None where none is known."""
    releases = _releases()
    if pair := releases.get(repo_id.lower(), {}).get("pair"):
        return pair
    naming_it = (entry["repo"] for entry in releases.values() if entry.get("pair", "").lower() == repo_id.lower())
    return next(naming_it, None)


def guess_partner(repo_id: str) -> str | None:
    """The other half's likely name: `-av` for `-ar` and the other way round, in the last part of an id or path.

    Example:
        >>> guess_partner("owner/lm-nla-L23-av-v0_1")
        'owner/lm-nla-L23-ar-v0_1'
    """
    folder, slash, name = repo_id.rpartition("/")
    halves = list(re.finditer(r"(?<=-a)[vr](?=-|$)", name, flags=re.IGNORECASE))
    if len(halves) != 1:
        return None
    at = halves[0].start()
    return folder + slash + name[:at] + name[at].translate(str.maketrans("vrVR", "rvRV")) + name[at + 1 :]
