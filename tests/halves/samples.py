"""Folders of halves, small enough to write in a test."""

from pathlib import Path

ADAPTER = {"adapter_config.json": "{}", "adapter_model.safetensors": b"adapter"}
HALF = {"nla_meta.yaml": "kind: nla_model", "linear_head.pt": b"head", **ADAPTER}


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
