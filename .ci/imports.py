"""Imports every module of what is installed: without an extra only its own libraries may be missing."""

import importlib
import pkgutil
import sys

# Of extras: what some modules import at their top.
EXTRAS = {"fastapi", "gguf", "prometheus_client", "starlette", "uvicorn"}

missing, faults = {}, []
names = [
    module.name
    for top in ("nla_sdk", "cards", "training")
    for module in pkgutil.walk_packages(importlib.import_module(top).__path__, f"{top}.")
    if not module.name.endswith("__main__")
]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            faults.append(f"{name}: {error}")
    except Exception as error:
        if "pip install" in str(error) and "nla-sdk[" in str(error):  # it says itself which extra it needs
            missing[name] = str(error).rpartition("nla-sdk[")[2].partition("]")[0]
            continue
        faults.append(f"{name}: {type(error).__name__}: {error}")
if faults:
    sys.exit("\n".join(faults))
print(
    f"{len(names)} modules imported; of extras: {', '.join(sorted(set(missing.values()))) or 'none'} ({len(missing)})"
)
