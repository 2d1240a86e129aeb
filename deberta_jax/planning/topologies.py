"""Devices to compile for: the local ones, a TPU slice, or the GPUs of a host that is not there."""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from deberta_jax.errors import InputError
from deberta_jax.sharding import MESH_AXES
from deberta_jax.training.chips import CHIPS, Chip, find_chip

LOCAL = "local"
# The shapes of slices whose chips form a plane, and the kinds whose chips form a cube (Cloud TPU documentation).
_PLANES = "1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"
_FLAT, _CUBIC = ("v5e", "v6e"), ("v4", "v5p", "tpu7x")
# Programs compiled for TPU v4 use both cores of a chip as one device, as on Cloud TPU.
_TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
# libtpu reads them when it is loaded: no queries to a metadata server, and several processes may compile.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Gpu(NamedTuple):
    """What XLA must know to compile for a GPU (NVIDIA's data sheets and CUDA documentation).

    Sizes of shared memory are bytes for each multiprocessor, `clock` is in GHz.
    """

    kind: str
    capability: tuple[int, int]
    multiprocessors: int
    float32_units: int
    shared_memory: int
    threads: int
    cache: int
    clock: float
    memory: int


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 2048, 41943040, 1.41, 80 << 30),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 102400, 1536, 50331648, 2.04, 24 << 30),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 2048, 52428800, 1.98, 80 << 30),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 233472, 2048, 52428800, 1.98, 141 << 30),
}


class Topology(NamedTuple):
    """Devices to compile for. `chip` is None for an unknown kind of device, such as a CPU."""

    name: str
    devices: list[Any]
    chip: Chip | None

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def compiler_options(self) -> dict[str, bool]:
        """Options of XLA for programs for these devices.

        XLA chooses the tiles of Triton's matrix products by measuring them. Without the GPU it takes tiles that it can
        refuse later, so that the products are left to cuBLAS.
        """
        return {"xla_gpu_enable_triton_gemm": False} if self.platform == "gpu" and self.name != LOCAL else {}

    @property
    def num_chips(self) -> int:
        """The number of chips, each with one or two devices."""
        return -(-len(self.devices) // (self.chip.devices if self.chip else 1))


def find_topology(name: str, slices: int = 1) -> Topology:
    """The devices of "local", of a TPU slice such as "v5e:4x4" or several of them, or of GPUs such as "h100:8".

    For all but "local", call it before any other function of JAX that looks for devices: it selects the CPU as JAX's
    platform. Raises InputError for an unknown name, and if an extra is not installed.
    """
    kind, _, shape = name.partition(":")
    is_slice = kind in CHIPS and kind not in GPUS and bool(re.fullmatch(r"\d+(x\d+)+", shape))
    if slices > 1 and not is_slice:
        raise InputError(f"slices is {slices}, but topology {name!r} is not a TPU slice such as v5e:4x4")
    if name == LOCAL:
        devices = jax.devices()
        return Topology(name, devices, find_chip(devices[0].device_kind))
    if kind in GPUS and re.fullmatch(r"[1-9]\d*", shape):
        return Topology(name, gpu_devices(kind, int(shape)), CHIPS[kind])
    if is_slice:
        title = name if slices == 1 else f"{slices} x {name}"
        return Topology(title, tpu_devices(name, slices), CHIPS[kind])
    tpus = ", ".join(kind for kind, chip in CHIPS.items() if chip.kinds[0].startswith("TPU"))
    raise InputError(
        f"topology {name!r}: expected {LOCAL}, a TPU slice such as v5e:4x4 (kinds {tpus}), or GPUs such as h100:8 "
        f"(kinds {', '.join(GPUS)})"
    )


def tpu_devices(name: str, slices: int = 1) -> list[Any]:
    """The devices of TPU slices such as "v5e:4x4"; raises InputError as `find_topology`."""
    _require("libtpu", "tpu", f"topology {name}")
    os.environ.update({key: os.environ.get(key, value) for key, value in _TPU_ENVIRONMENT.items()})
    jax.config.update("jax_platforms", "cpu")
    kind, _, shape = name.partition(":")
    if kind in _FLAT and shape not in _PLANES:
        raise InputError(f"topology {name}: slices of {kind} have the shapes {', '.join(_PLANES)}")
    if kind in _CUBIC and shape.count("x") != 2:
        raise InputError(f"topology {name}: slices of {kind} have three sizes, such as {kind}:2x2x4")
    options: dict[str, Any] = _TPU_OPTIONS.get(kind, {})
    if shape == "1x1":
        options = options | {"chips_per_host_bounds": (1, 1, 1)}
    if slices > 1:
        options = options | {"num_slices": slices}
    try:
        target = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:
        raise InputError(f"topology {name}: {_first_line(error)}") from error
    return list(target.devices)


def gpu_devices(kind: str, count: int = 1) -> list[Any]:
    """GPUs of one kind, connected as in one host; raises InputError as `find_topology`."""
    _require("jax_plugins.xla_cuda13", "cuda", f"topology {kind}:{count}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # With the platform of CUDA enabled, its libraries look for a driver.
    jax.config.update("jax_platforms", "cpu")
    target = topologies.get_topology_desc(
        platform="cuda", target_config=_target_config(GPUS[kind], CHIPS[kind]), topology=f"1x1x{count}"
    )
    return list(target.devices)


def gpu_mesh(kind: str) -> tuple[Any, AbstractMesh]:
    """A GPU to compile kernels for, and a mesh that describes it to Pallas."""
    gpu = GPUS[kind]
    device = AbstractDevice(device_kind=gpu.kind, num_cores=gpu.multiprocessors, platform="gpu")
    mesh = AbstractMesh((1,) * 3, MESH_AXES, (AxisType.Auto,) * 3, abstract_device=device)
    return gpu_devices(kind)[0], mesh


def _require(module: str, extra: str, subject: str) -> None:
    """Raise InputError if a module of an extra is not installed."""
    try:
        installed = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise InputError(f"{subject} needs the extra {extra}: pip install 'deberta-jax[{extra}]'")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _target_config(gpu: Gpu, chip: Chip) -> str:
    """The text of XLA's GpuTargetConfigProto."""
    major, minor = gpu.capability
    # A block can have all shared memory but 1 KiB.
    return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {gpu.threads}
      shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_memory}
      shared_memory_per_block_optin: {gpu.shared_memory - 1024}
      core_count: {gpu.multiprocessors} fpus_per_core: {gpu.float32_units} l2_cache_size: {gpu.cache}
      memory_bandwidth: {chip.bandwidth:.0f}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      clock_rate_ghz: {gpu.clock} device_memory_size: {gpu.memory} dnn_version: "9.10.0"
      cuda_compute_capability {{
        major: {major} minor: {minor} feature_extension: {"ACCELERATED_FEATURES" if major == 9 else "NONE"}
      }}
    }}
    platform_name: "CUDA" device_description_str: "{gpu.kind}"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    """
