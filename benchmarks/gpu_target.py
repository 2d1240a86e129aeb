"""GPUs to compile for, without a GPU. Needs the extra `cuda`."""

import os
from typing import Any

import jax
from jax.experimental import topologies

# With the platform of CUDA enabled, its libraries look for a driver.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
jax.config.update("jax_platforms", "cpu")

# Device kind; compute capability; multiprocessors; float32 units, shared memory and threads of each; L2 cache; bytes
# per second; clock in GHz; memory (NVIDIA's data sheets, and the compute capabilities in the CUDA documentation).
GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 2048, 41943040, 2039 * 10**9, 1.41, 80 << 30),
    "l4": ("NVIDIA L4", (8, 9), 58, 128, 102400, 1536, 50331648, 300 * 10**9, 2.04, 24 << 30),
    "h200": ("NVIDIA H200", (9, 0), 132, 128, 233472, 2048, 52428800, 4800 * 10**9, 1.98, 141 << 30),
}


def gpu_mesh(name: str) -> tuple[Any, jax.sharding.AbstractMesh]:
    """A device of this kind to compile for, and a mesh that tells Pallas its kind."""
    kind, _, cores, *_ = GPUS[name]
    target = topologies.get_topology_desc(platform="cuda", target_config=_target_config(name), topology="1x1x1")
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=cores, platform="gpu")
    axes = jax.sharding.AxisType.Auto
    mesh = jax.sharding.AbstractMesh((1,) * 3, ("data", "fsdp", "tensor"), (axes,) * 3, abstract_device=device)
    return target.devices[0], mesh


def _target_config(name: str) -> str:
    """The text of XLA's GpuTargetConfigProto."""
    kind, (major, minor), cores, units, shared, threads, cache, bandwidth, clock, memory = GPUS[name]
    # A block can have all shared memory but 1 KiB.
    return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
      shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
      core_count: {cores} fpus_per_core: {units} l2_cache_size: {cache} memory_bandwidth: {bandwidth}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      clock_rate_ghz: {clock} device_memory_size: {memory} dnn_version: "9.10.0"
      cuda_compute_capability {{
        major: {major} minor: {minor} feature_extension: {"ACCELERATED_FEATURES" if major == 9 else "NONE"}
      }}
    }}
    platform_name: "CUDA" device_description_str: "{kind}"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    """
