"""A cluster to work on: one that is there, or one of this machine alone that ends with the job; and who works on it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import first_line
from ...io.progress import say
from ..faults import ClusterError
from .pool import Pool
from .sizes import Fit, Machine, fit

if TYPE_CHECKING:
    from .held import Held, Lies

EXTRA = "--engine ray needs Ray, which is not installed: pip install 'nla-sdk[cluster]'."
STORE = 500_000_000
"""Bytes of the object store of a cluster that is started here."""
ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for it; on every system: listen at 127.0.0.1 only
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # not 15: as fast as this process, which only waits meanwhile
}
"""What Ray is told of a cluster that is started here, before it is imported."""
ASKED = {"RAY_gcs_server_port_wait_time_s": "3", "RAY_py_gcs_connect_timeout_s": "5"}
"""What Ray is told of a cluster that is there already: three tries of 16 seconds. By itself it makes twenty of half a
minute where something listens at the address that is no cluster, or none that answers."""
_imported_with: dict[str, str] = {}
"""What it was told when it was imported here, which it keeps: each further cluster of this process is told the same."""
ANSWER = 5.0
"""Seconds that a cluster has to answer in; Ray itself waits for one that is not there without end."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ray, connected: to `address`, RAY_ADDRESS, or a cluster of this machine that ends with the block.

    A cluster that is started here listens on the loopback device only, wants a token that nobody else has, shows no
    dashboard and tells its makers nothing.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
    """
    own = address is None and not os.environ.get("RAY_ADDRESS")
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(EXTRA)
    if not own:
        address = _answering(address or os.environ["RAY_ADDRESS"])
    # Whoever has imported Ray before has it as it was then: half of this would be a cluster that lets nobody in.
    if own and "ray" not in sys.modules:
        _imported_with.update(ALONE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    told = _imported_with if own else ASKED
    said = {name: value for name, value in told.items() if name not in os.environ}
    os.environ.update(said)
    import ray

    if ray.is_initialized():  # the caller's own, who ends it
        yield ray
        return
    how: dict[str, Any] = {"address": "local" if own else address, "log_to_driver": False, "logging_level": "ERROR"}
    if own:
        how |= {"num_cpus": _cores(), "include_dashboard": False, "object_store_memory": STORE}
    try:
        try:
            ray.init(**how)
        except Exception as error:  # Ray has nothing more special for a node that does not come up in time
            where = "this machine" if own else address
            raise ClusterError(f"No Ray cluster at {where}: {first_line(error)}") from error
        yield ray
    finally:
        ray.shutdown()
        for name in said:
            os.environ.pop(name, None)


def running_here() -> str | None:
    """The address of the cluster that `ray start` has started on this machine, as it notes it down."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    try:
        return (folder / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _answering(address: str) -> str:
    """HOST:PORT of a cluster at which somebody listens; `auto` is RAY_ADDRESS, or the one that runs on this machine.

    Raises:
        ClusterError: nobody does.
    """
    if address == "auto":
        said = os.environ.get("RAY_ADDRESS")
        found = said if said not in (None, "auto") else running_here()
        if found is None:
            raise ClusterError("No Ray cluster runs on this machine (ray start --head), and RAY_ADDRESS names none.")
        address = found
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        raise ClusterError(
            f"--address {address:.80}: expected HOST:PORT of the cluster's head, such as node0:6379, or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        why = first_line(error)
        raise ClusterError(f"No Ray cluster answers at {address} ({why}). Is it running (ray status)?") from None
    return address


def seen() -> dict[str, Any]:
    """The cluster that RAY_ADDRESS names or that runs on this machine, JSON-able; none is started."""
    if importlib.util.find_spec("ray") is None:
        return {"ray": None, "address": None, "problem": "Ray is not installed: pip install 'nla-sdk[cluster]'"}
    found: dict[str, Any] = {"ray": metadata.version("ray"), "address": os.environ.get("RAY_ADDRESS") or running_here()}
    if found["address"] is None:
        return found
    try:
        with connected(found["address"]) as ray:
            return found | {"machines": [vars(one) for one in machines(ray)]}
    except ClusterError as error:
        return found | {"problem": str(error)}


def machines(ray: Any) -> list[Machine]:
    """The nodes that are there now."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            found.append(Machine(name, has.get("CPU", 0), has.get("GPU", 0), has.get("memory", 0)))
    return found


@contextlib.contextmanager
def opened(
    unit: Held,
    lying: Lies,
    address: str | None = None,
    *,
    actors: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Iterator[Pool]:
    """Actors at work on a unit's chunks, or a stage's, until the block ends.

    Args:
        lying: what it is loaded from, as that lies here.
        address: of the cluster; None: RAY_ADDRESS, or this machine.
        actors: how many; None: as many as fit.
        cpus, gpus: of each; see `sizes.fit`.
    Raises:
        ClusterError: there is no such cluster, or it has no room for an actor.
    """
    with connected(address) as ray:
        fits = fit(lying, unit.told, unit.holds, machines(ray), cpus=cpus, gpus=gpus)
        if not fits.actors:
            raise ClusterError(f"No machine of the cluster has room for one actor.\n{fits}")
        count = actors or fits.actors
        say(f"{count} actor{'s' * (count != 1)}, each {fits.size}")
        if count > fits.actors:
            say(f"{fits.actors} of them fit now; the others wait for a place")
        with Pool(ray, unit, fits.size, count, lying) as pool:
            yield pool


def fitting(
    unit: Held, lying: Lies, address: str | None = None, *, cpus: float | None = None, gpus: float | None = None
) -> Fit:
    """What would fit, asked of the cluster, or of this machine without starting anything."""
    if address is None and not os.environ.get("RAY_ADDRESS"):
        return fit(lying, unit.told, unit.holds, [this_machine()], cpus=cpus, gpus=gpus)
    with connected(address) as ray:
        return fit(lying, unit.told, unit.holds, machines(ray), cpus=cpus, gpus=gpus)


def this_machine() -> Machine:
    """What a cluster that is started here would have."""
    import psutil
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine("this machine", _cores(), gpus, psutil.virtual_memory().available)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
