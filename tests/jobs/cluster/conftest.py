"""A real Ray cluster on the loopback device, once for the tests of a file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from nla_sdk.jobs.cluster.connection import ALONE

ROOT = Path(__file__).parents[3]
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU, on the loopback device."""
    folder = tempfile.mkdtemp(prefix="nla-ray-")  # sockets have short names only
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ALONE, "RAY_AUTH_TOKEN": "0" * 64, "NLA_CACHE": folder, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config
        from ray.cluster_utils import Cluster

        def told() -> None:  # what Ray reads when it is imported, which another test may have done
            Config.initialize("")
            AuthenticationTokenLoader.instance().reset_cache()

        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        told()
        nodes = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": folder})
        try:
            nodes.add_node(**NODE)
            yield nodes
        finally:
            nodes.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
    told()


@pytest.fixture(scope="module")
def ray(cluster):
    """The module, connected to it."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
