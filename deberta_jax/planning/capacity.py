"""The memory that a program can use on one device."""

import os
from pathlib import Path

import jax

from deberta_jax.planning.topologies import LOCAL, Topology

# JAX reserves this fraction of a GPU's memory for programs, unless one of these variables sets another.
_GPU_FRACTION = 0.75
_GPU_VARIABLES = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"


def device_capacity(topology: Topology) -> int:
    """Bytes for arrays and programs on each device.

    On the local GPU or TPU, the limit that JAX states; on a CPU the available memory of the host, in equal parts for
    its devices. For a TPU that is not there the compiler's limit, for a GPU the part that JAX would reserve.
    """
    if topology.name == LOCAL:
        statistics = jax.local_devices()[0].memory_stats() or {}
        return int(statistics.get("bytes_limit") or available_memory() // jax.local_device_count())
    assert topology.chip is not None
    if topology.platform != "gpu":
        return topology.chip.memory
    fraction = next((os.environ[name] for name in _GPU_VARIABLES if name in os.environ), _GPU_FRACTION)
    return int(float(fraction) * topology.chip.memory)


def available_memory() -> int:
    """Bytes of the host's memory that programs can still allocate, within the limit of a container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(available, _container_memory() or available)


def _container_memory() -> int | None:
    """What a container's limit (cgroup version 2) leaves; None without a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except OSError:
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
