"""TPU devices to compile for, without a TPU. Needs the extra `tpu`."""

import os
from typing import Any

import jax
from jax.experimental import topologies

# libtpu reads these when the topology is created.
_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ.update(_ENVIRONMENT, TPU_ACCELERATOR_TYPE="v5litepod-16", TPU_STDERR_LOG_LEVEL="3", TF_CPP_MIN_LOG_LEVEL="3")
jax.config.update("jax_platforms", "cpu")


def tpu_devices(name: str) -> list[Any]:
    """The devices of a topology such as `v5e:4x4`."""
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
