"""The contract of a checkpoint or table, `nla_meta.yaml`: every dialect in, one canonical form out.

The contract decides everything that code must not guess: which base model and layer, which marker token is overwritten
and at what norm, the exact prompts, how many blocks the AR runs. `Contract.load` reads any dialect found in published
files (`dialects.py`), fills what a file lacks from a known release (`releases/`), refuses what is missing or
malformed with the key and the file named, and keeps every key it does not know. `Contract.verify` holds it against the
live tokenizer. Needs pydantic and PyYAML only: cards and tables are read without torch.

Example:
    >>> contract = Contract.load("my-av", known=known_release("owner/my-av"))
    >>> contract = contract.verify(tokenizer)
    >>> ids = contract.av_prompt_ids(tokenizer)
    >>> ids[contract.find_marker(ids)] == contract.injection_token_id
    True
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from ..errors import ContractError, MissingFileError
from ..publishing.publisher import Sending, publisher
from ..publishing.pushed import Pushed
from . import dialects
from .facts import Facts
from .file import SIDECAR_NAME, parse, sidecar_path, write
from .injection import Injection
from .prompts import ar, av, verify
from .prompts import fields as template_fields
from .prompts import prompt as whole
from .refusals import malformed, require


class Contract(Facts):
    """What a checkpoint (`nla_model`) or table (`nla_dataset`) promises; immutable, see `replace`.

    Build it with `load` or `from_dict`; the constructor takes the same keys as keyword arguments and checks the same.
    Attributes a file need not give are None where nothing is known.
    """

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _extras: dict[Any, Any] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr(default="Contract(…)")

    # --- in ----------------------------------------------------------------------------------------------------------
    def __init__(self, **values: Any) -> None:
        self._read(values, "Contract(…)", None)

    @classmethod
    def from_dict(
        cls,
        d: Mapping,
        *,
        source: str = "<dict>",
        known: Mapping | None = None,
        given: Mapping | None = None,
        found: Mapping | None = None,
        wanted: str | None = None,
    ) -> Contract:
        """A contract from a mapping in any dialect.

        Args:
            d: what a sidecar holds. Not changed.
            source: the file's name, for messages.
            known: a mapping in any dialect (a release's entry) that fills what `d` lacks; where both speak, `d` wins.
            given: a mapping in any dialect that stands above `d`: what the user says (see `NLAPair.from_pretrained`).
                Of what only one half has a use for, the other takes nothing.
            found: a mapping in any dialect that stands below `d` and above `known`: what the checkpoint's other files
                say.
            wanted: "av" or "ar", as which half it is asked for, where nothing tells which one it is of.
        Raises:
            ContractError: something is missing, malformed or contradictory; names the key, the file and what to do.
            UnstatedFactError: a fact that differs between releases and that nobody states: where and at what norm the
                vector goes, whether the AR's final norm stays. UnstatedPromptError: the same of an AV's `prompt_style`.
        Example:
            >>> sidecar = {"role": "critic", "base_checkpoint": "owner/lm", "extraction": {"layer": 2, "d_model": 64},
            ...            "critic": {"num_hidden_layers": 2}, "prompt_templates": {"critic": "{explanation}>"}}
            >>> Contract.from_dict(sidecar).ar_num_blocks
            3
        """
        contract = cls.__new__(cls)
        contract._read(d, source, known, given, found, wanted)
        return contract

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        known: Mapping | None = None,
        given: Mapping | None = None,
        found: Mapping | None = None,
    ) -> Contract:
        """Read a contract file, a folder's `nla_meta.yaml`, or a table's `<name>.parquet.nla_meta.yaml`.

        Args:
            path: the file, the folder, or the `.parquet` file.
            known: see `from_dict`. With it the file may be absent altogether.
            given, found: see `from_dict`.
        Raises:
            MissingFileError: there is no such file, and no `known` to stand in for it.
            ContractError: the file is no YAML mapping, or its content is refused (see `from_dict`).
        """
        file = sidecar_path(path)
        if file.is_file():
            said = parse(file.read_bytes(), str(file))
            return cls.from_dict(said, source=str(file), known=known, given=given, found=found)
        if known is not None:
            return cls.from_dict({}, source=f"{file} (absent; known release)", known=known, given=given, found=found)
        if not file.parent.is_dir():
            raise MissingFileError(f"{file.parent} does not exist, so it holds no contract. Check the path.")
        raise MissingFileError(
            f"{file} does not exist: a checkpoint needs its contract beside it ({SIDECAR_NAME}), a table "
            f"<name>.parquet.{SIDECAR_NAME}. Ask its publisher for it, or write one: Contract.from_dict(…).save(…)."
        )

    def _read(
        self,
        d: Mapping,
        source: str,
        known: Mapping | None,
        given: Mapping | None = None,
        found: Mapping | None = None,
        wanted: str | None = None,
    ) -> None:
        if not isinstance(d, Mapping):
            raise ContractError(f"{source}: expected a mapping of keys to values, found a {type(d).__name__}.")
        reading = dialects.read(d, known, type(self).model_fields, source, given, found, wanted)
        try:
            super().__init__(**reading.values)
        except ValidationError as error:
            raise ContractError(malformed(error, reading.keys, reading.origins, source)) from None
        self._origins = {name: reading.origins.get(name, "default") for name in type(self).model_fields}
        self._extras, self._source = reading.extras, source
        require(self)
        template_fields.require_fields(self)
        ar.require_reading(self)
        av.require_style(self)

    # --- out ---------------------------------------------------------------------------------------------------------
    @property
    def origins(self) -> dict[str, str]:
        """Where each attribute came from: "given", "sidecar", "release", "derived" or "default"."""
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
        """The canonical form: attributes at the top level or in their block, then the unknown keys as they were.

        None is left out, except for an `mse_scale` that is explicitly null, which means raw; absent is something else.
        """
        canonical: dict[Any, Any] = {}
        for name, value in self._flat().items():
            block, _, leaf = dialects.written_as(name).rpartition(".")
            (canonical.setdefault(block, {}) if block else canonical)[leaf] = value
        for key, value in self.extras.items():
            known = canonical.get(key)
            canonical[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        return canonical

    def _flat(self) -> dict[str, Any]:
        """Every attribute with a value, plain, by its own name; what is only a default is left out."""
        flat: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            value, stated = getattr(self, name), self._origins[name] != "default"
            if name == "fields":
                value = {field: rule.model_dump(exclude_defaults=True) for field, rule in value.items()}
            follows = name == "injection_scale" and self.injection_norm == "sqrt_d"
            raw = name == "mse_scale" and stated
            if raw or not (value is None or value == {} or follows or (value == info.default and not stated)):
                flat[name] = copy.deepcopy(value)
        return flat

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
        write(file, self.to_dict())
        return file

    def push_to_hub(
        self,
        repo: str,
        *,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> Pushed:
        """Put this contract beside the weights that a repository holds, held against them as at publishing.

        The weights there are fetched; the marker, the layer, the head, the mean and every adapter tensor must fit, and
        so must an evaluation that is published with them: one that was measured with another contract is refused. A
        card that nla-sdk wrote is rendered anew; any other stays as it is, and so does every other file.

        Args:
            repo: OWNER/NAME of the half.
            token: that may write; None: HF_TOKEN, or that of `hf auth login`.
            commit_message: the title begins with it.
            create_pr: open a pull request, on anybody's repository.
        Returns:
            The repository's address, or that of the pull request.
        Raises:
            RefusedError: it does not fit what is there; names all of it, and nothing was sent.
            MissingRepositoryError, MissingFileError: there are no such weights. AccessTokenError: no right to write.
            InputError: it is a table's contract; or pip install "nla-sdk[publish,eval]" was not done.
        Example:
            >>> contract.replace(max_new_tokens=64).push_to_hub("ada/cat-av")  # doctest: +SKIP
            'https://huggingface.co/ada/cat-av'
        """
        with publisher() as found:
            how = Sending(token=token, commit_message=commit_message, create_pr=create_pr)
            return found.push_contract(self, repo, how=how)

    def replace(self, **changes: Any) -> Contract:
        """A copy with some attributes changed and everything checked again; None takes an attribute away.

        A scale set to None is raw. Changed attributes get the origin "derived", the others keep theirs.
        """
        kept = {key: value for key, value in self._flat().items() if self._origins[key] != "default"}
        if "injection_scale" in changes and "injection_norm" not in changes:
            kept.pop("injection_norm", None)
        contract = type(self).from_dict(self.extras | kept | changes, source=self._source)
        contract._origins |= {
            name: "derived" if name in changes else self._origins[name]
            for name in self._origins
            if contract._origins[name] != "default"
        }
        return contract

    def __repr__(self) -> str:
        what = {"nla_dataset": "table"}.get(self.kind, str(self.role))
        facts = [what, f"base_model={self.base_model!r}", f"layer={self.layer}", f"d_model={self.d_model}"]
        return f"Contract({', '.join(facts)}, from {self._source!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Contract) else NotImplemented

    # --- prompts, and the live tokenizer: methods, defined where the rest of their subject is ------------------------
    av_prompt = av.av_prompt
    ar_prompt = ar.ar_prompt
    prompt = whole.prompt
    av_prompt_ids = whole.av_prompt_ids
    field_values = template_fields.field_values
    ar_prompt_ids = ar.ar_prompt_ids
    ar_prompt_ids_batch = ar.ar_prompt_ids_batch
    reading_position = ar.reading_position
    find_marker = av.find_marker
    verify = verify.verify

    def prompt_texts(self) -> list[str]:
        """Its templates' text around their fields: what a tokenizer must at least agree on."""
        return [text for name in ("av_template", "ar_template") if (text := getattr(self, name))]

    @property
    def injection(self) -> Injection | None:
        """How vectors are put in; None of an AR, and of a table that does not say it.

        Example:
            >>> contract.injection  # doctest: +SKIP
            Injection(site='block', block=1, rule='add', norm='match', scale=None, coefficient=1.0, …)
        """
        site, rule, norm = self.injection_site, self.injection_rule, self.injection_norm
        if site is None or rule is None or norm is None:
            return None
        return Injection(
            site=site,
            block=self.injection_block,
            rule=rule,
            norm=norm,
            scale=self.injection_scale,
            coefficient=self.injection_coefficient,
            markers=self.injection_markers,
            layers=None if self.injection_layers is None else tuple(self.injection_layers),
        )

    @property
    def asks(self) -> bool:
        """Whether it is an oracle's: its prompt has a place for a question."""
        return "question" in self.fields

    @property
    def ar_prefix(self) -> str:
        """The AR template's text before the explanation."""
        return ar.around_explanation(self)[0]

    @property
    def ar_suffix(self) -> str:
        """The AR template's text after the explanation."""
        return ar.around_explanation(self)[1]
