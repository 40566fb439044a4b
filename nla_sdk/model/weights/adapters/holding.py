"""Adapters on a model in memory: put on, switched, several of them active together, and taken off again.

Switching is state, so every use goes through `using`, which holds the lock: two threads never run each other's adapter.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ....errors import AdapterConfigError, LoadError, NLAError, first_line
from ...quiet import quiet
from ..files import adapter_files
from ..finite import refuse_non_finite
from .attached import fill, parameters_of, put_back, saved_name, saved_parameters, write_adapter
from .config import NAME, AdapterFacts
from .lean import import_peft, plain_layers
from .reading import AdapterReport, read_adapter
from .turns import Pace, Turns

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

Folders = str | os.PathLike | Sequence[str | os.PathLike]


class AdapterHolder:
    """A model that holds LoRA adapters by name, with at most one name on at a time; `Backbone` is one.

    Attributes:
        model, ref: the transformers model, and what messages call it.
        lock: held during every use of the model; its turns come in the order in which they were asked for.
        reports: what became of each adapter's tensors, by its name.
    """

    def __init__(self, model: PreTrainedModel, ref: str) -> None:
        self.model = model
        self.ref = ref
        self.lock = Turns()
        self.reports: dict[str, AdapterReport] = {}
        self._peft = None
        self._active: str | None = None
        self._added = 0
        self._uses: list[str | None] = []
        self._members: dict[str, list[str]] = {}  # of a name that stands for several, what PEFT calls each
        self._let_go: deque[str] = deque()

    @property
    def active(self) -> tuple[str | None, int, torch.dtype | None]:
        """The adapter that is on, how many have been put on the model, and what autocast computes in here (None: it is
        off): what was computed with others is another's."""
        device = self.model.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return self._active, self._added, dtype

    # --- on and off -----------------------------------------------------------------------------------------------
    def load_adapter(
        self,
        name: str,
        folder: Folders,
        *,
        num_blocks_run: int | None = None,
        facts: AdapterFacts | None = None,
    ) -> AdapterReport:
        """Put a LoRA adapter from disk on the model under `name`, every tensor of it accounted for.

        Several are active together under the one name, each with a scaling of its own: W + Σᵢ sᵢ·Bᵢ·Aᵢ.

        Args:
            name: how `using` will call it.
            folder: holds `adapter_config.json` and `adapter_model.safetensors`; or several such folders.
            num_blocks_run: see `plan_adapter`.
            facts: what a contract says where the adapter's own config does not.
        Raises:
            MissingFileError, DamagedFileError, UnsafeFileError: a file is not there, or is no weights.
            AdapterConfigError: the config would change the base all roles share, or holds what is not known; or of
                several adapters two replace a module each, so that which is meant is not known.
            AdapterMismatchError: some tensors fit nowhere; the message lists them.
            NonFiniteWeightsError: some hold NaN or infinity.
            LoadError: PEFT does not take it. After any of these the model is as it was.
        """
        folders = [Path(folder)] if isinstance(folder, (str, os.PathLike)) else [Path(one) for one in folder]
        parts = [name] if len(folders) == 1 else [f"{name}-{at}" for at in range(1, len(folders) + 1)]
        with self.lock, self._as_it_was_after_a_failure(f"the adapter in {', '.join(map(str, folders))}"):
            self._sweep()
            read = [read_adapter(one, self.model, self.ref, num_blocks_run, facts) for one in folders]
            for one, (_, _, tensors) in zip(folders, read, strict=True):
                refuse_non_finite(tensors.items(), adapter_files(one)[0])
            if len(folders) > 1:
                _refuse_together([config for config, _, _ in read], folders)
            for part, (config, plan, tensors) in zip(parts, read, strict=True):
                self._add(part, config)
                fill(self.model, part, plan, tensors)
            if len(parts) > 1:
                self._members[name] = parts
                self._switch(None)
        inert = {
            (key if len(folders) == 1 else f"{one.name}: {key}"): why
            for one, (_, plan, _) in zip(folders, read, strict=True)
            for key, why in {**plan.inert, **dict.fromkeys(plan.copies, "the base's own numbers, saved along")}.items()
        }
        tensors = [tensor for _, _, found in read for tensor in found.values()]
        self.reports[name] = AdapterReport(len(tensors), sum(tensor.numel() for tensor in tensors), inert)
        return self.reports[name]

    def hold(
        self, wanted: str, folder: Folders, *, num_blocks_run: int | None = None, facts: AdapterFacts | None = None
    ) -> str:
        """`load_adapter` under a name that is free: `wanted`, or that with a number. Returns the name."""
        with self.lock:
            self._sweep()
            taken = {*self._members, *self._let_go, *([] if self._peft is None else self._peft.peft_config)}
            name = next(name for at in count(1) if (name := wanted if at == 1 else f"{wanted}_{at}") not in taken)
            self.load_adapter(name, folder, num_blocks_run=num_blocks_run, facts=facts)
            return name

    def let_go(self, name: str) -> None:
        """Nobody uses adapter `name` any more: it is taken off before the model is used next.

        Waits for no lock: it is called wherever the garbage collector happens to run.
        """
        self._let_go.append(name)

    def _sweep(self) -> None:
        """Take off what was let go. The caller holds the lock; in the midst of a use nothing is done."""
        while self._let_go and not self._uses:
            name = self._let_go.popleft()
            parts = self._members.pop(name, [name])
            self.reports.pop(name, None)
            for part in parts:
                self._remove(part)

    def _remove(self, part: str) -> None:
        peft = self._peft
        if peft is None or part not in peft.peft_config:
            return
        with self._trained_as_before():
            peft.base_model.enable_adapter_layers()
            # PEFT puts another in the place of one that was on, with a warning, and takes no list of them then.
            if rest := [other for other in peft.peft_config if other != part]:
                peft.set_adapter(rest[0], inference_mode=True)
            peft.base_model.delete_adapter(part)
            if rest:
                peft.active_adapter = self._active = rest[0]
                peft.set_adapter(rest[0], inference_mode=True)
            else:  # PEFT adds none where none is left: the base's own modules come back, as before the first
                peft.base_model.unload()
                vars(self.model).pop("peft_config", None)
                self._peft = self._active = None

    @contextmanager
    def _trained_as_before(self) -> Iterator[None]:
        """What is trained stays so: PEFT takes switching for a wish to train, or not to."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        yield
        for parameter in trained:
            parameter.requires_grad_(True)

    def add_lora(self, name: str, config: LoraConfig) -> None:
        """Put a fresh, untrained adapter (a `peft.LoraConfig`) on the model under `name`."""
        with self.lock, self._as_it_was_after_a_failure(f"adapter {name!r}"):
            self._add(name, config)

    @contextmanager
    def _as_it_was_after_a_failure(self, what: str) -> Iterator[None]:
        peft, active, members = self._peft, self._active, dict(self._members)
        try:
            with put_back(peft, self.model):
                yield
        except Exception as error:
            self._peft, self._active, self._members = peft, active, members
            if isinstance(error, (NLAError, MemoryError, torch.OutOfMemoryError)):
                raise
            raise LoadError(f"PEFT does not take {what} on {self.ref}: {first_line(error)}") from error

    def _add(self, name: str, config: LoraConfig) -> None:
        import_peft()
        from peft import PeftModel

        self._added += 1
        with self._trained_as_before():
            with quiet(), plain_layers():
                if self._peft is None:
                    self._peft = PeftModel(self.model, config, adapter_name=name)
                else:
                    if self._active in self._members:  # PEFT adds beside one, not beside several
                        self._peft.set_adapter(self._members[self._active][0], inference_mode=True)
                    self._peft.add_adapter(name, config)
            # A new adapter would stay off on every module that other adapters stand on, if these are switched off now.
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)
        self._active = name
        self.model.eval()

    # --- in use ---------------------------------------------------------------------------------------------------
    @contextmanager
    def using(self, adapter: str | None, check: Callable[[], None] | None = None) -> Iterator[PreTrainedModel]:
        """Hold the model with `adapter` active (None: all adapters off). Nothing else runs on it meanwhile.

        A use inside a use gives the outer one its adapter back.

        Args:
            check: called now and then while it is waited for; what it raises ends the wait.
        """
        self.lock.acquire(check)
        try:
            self._sweep()
            self._switch(adapter)
            self._uses.append(adapter)
            try:
                yield self.model
            finally:
                if self.lock.mine:
                    self._uses.pop()
                    if self._uses:
                        self._switch(self._uses[-1])
        finally:
            if self.lock.mine:  # not where it was called off while others had their turn
                self.lock.release()

    def pace(self, check: Callable[[], None] | None = None) -> Pace:
        """For a use of many steps: its `step` after each lets others have their turn. What a use has hung on the model
        is off then; a use inside a use never gives way."""
        return Pace(lambda: self._give_way(check), lambda: self.lock.wanted and self.lock.depth == 1)

    def _give_way(self, check: Callable[[], None] | None) -> None:
        adapter = self._uses.pop()
        self.lock.release()
        self.lock.acquire(check)
        self._sweep()
        self._uses.append(adapter)
        self._switch(adapter)

    def _switch(self, adapter: str | None) -> None:
        held = self._members if self._peft is None else {**self._members, **self._peft.peft_config}
        if adapter is not None and adapter not in held:
            raise LoadError(f"{self.ref} holds no adapter {adapter!r}; load_adapter or add_lora comes first.")
        if adapter == self._active or self._peft is None:
            return
        with self._trained_as_before():
            if adapter is None:
                self._peft.base_model.disable_adapter_layers()
            else:
                self._peft.base_model.enable_adapter_layers()
                if parts := self._members.get(adapter):
                    self._peft.base_model.set_adapter(parts, inference_mode=True)
                else:
                    self._peft.set_adapter(adapter, inference_mode=True)
        self._active = adapter

    # --- its parameters -------------------------------------------------------------------------------------------
    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Live parameters of adapter `name`, by their name in the model."""
        return parameters_of(self.model, name)

    def adapter_state(self, name: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Tensors of adapter `name` under PEFT's file names, on the CPU, cast to `dtype` if given."""
        return {
            saved_name(key, name): parameter.detach().to("cpu", dtype or parameter.dtype, copy=True).contiguous()
            for key, parameter in saved_parameters(self.model, name).items()
        }

    def save_adapter(self, name: str, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write adapter `name` as PEFT's two files into an existing folder."""
        write_adapter(Path(folder), self._peft.peft_config[name], self.adapter_state(name, dtype), self.ref)


def _refuse_together(configs: Sequence[LoraConfig], folders: Sequence[Path]) -> None:
    """Of adapters that are active together only what adds up is taken.

    Raises:
        AdapterConfigError: one is a DoRA, whose magnitudes belong to the weights it was trained on; or two hold a copy
            each of whole modules or of tokens' rows.
    """
    for config, folder in zip(configs, folders, strict=True):
        if config.use_dora:
            raise AdapterConfigError(
                f"{folder / NAME} says use_dora, and the adapter is to be active together with others: DoRA scales the "
                "weights it was trained on, and on which of the others it was trained is not known. Ask its author for "
                "them merged."
            )
    for key in ("modules_to_save", "trainable_token_indices"):
        holding = [folder for config, folder in zip(configs, folders, strict=True) if getattr(config, key)]
        if len(holding) > 1:
            raise AdapterConfigError(
                f"{' and '.join(str(folder / NAME) for folder in holding)} both set {key}: each replaces what the "
                "other has trained, so active together they are not defined. Ask their author for them merged."
            )
