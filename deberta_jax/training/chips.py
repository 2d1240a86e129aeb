"""Accelerators: compute, memory and bandwidth of one JAX device, from the vendors' data sheets."""

from typing import NamedTuple

GIB = 1 << 30
Rate = int | float


class Chip(NamedTuple):
    """An accelerator. All figures are those of one JAX device: a chip, or one of its `devices`.

    `kinds` are the names that `jax.Device.device_kind` starts with. `flops` is dense bfloat16 FLOP/s, `memory` in
    bytes. `bandwidth` is that of the memory, `interconnect` what a device can send to others, in one direction, and
    `network` what it can send to other slices, 0 if unknown, all in bytes per second. All rates are peaks, which real
    programs do not reach.
    """

    kinds: tuple[str, ...]
    flops: float
    memory: int
    bandwidth: float
    interconnect: float
    source: str
    devices: int = 1
    network: float = 0.0


def _tpu(
    kinds: tuple[str, ...],
    tflops: Rate,
    gib: Rate,
    memory_rate: Rate,
    link_rate: Rate,
    page: str,
    devices: int = 1,
    network_rate: Rate = 0,
) -> Chip:
    """A TPU from the rates of a chip (GB/s), and the memory of a device in GiB, as XLA's compiler states it."""
    source = f"Google Cloud documentation, {page}; memory: limit of the compiler"
    rates = tflops * 1e3, memory_rate, link_rate, network_rate
    flops, bandwidth, interconnect, network = (rate * 1e9 / devices for rate in rates)
    return Chip(kinds, flops, int(gib * GIB), bandwidth, interconnect, source, devices, network)


def _gpu(kind: str, tflops: Rate, gb: int, memory_rate: Rate, link_rate: Rate, source: str) -> Chip:
    return Chip((kind,), tflops * 1e12, gb * 10**9, memory_rate * 1e9, link_rate * 1e9, source)


# The documentation of v4 and later gives the interconnect in both directions together; half of it is sent. That of v2
# and v3 is from Jouppi et al. 2020, "A domain-specific supercomputer for training deep neural networks", and their
# memory is the whole. Two devices share a chip of v2, v3 and TPU7x. The network between slices is that of a pod of 256
# chips of v5e (6.4 Tbit/s) and v6e (25.6 Tbit/s), divided by its chips (Google Cloud documentation, TPU v6e).
CHIPS: dict[str, Chip] = {
    "v2": _tpu(("TPU v2",), 45, 8, 700, 248, "TPU v2", 2),
    "v3": _tpu(("TPU v3",), 123, 16, 900, 328, "TPU v3", 2),
    "v4": _tpu(("TPU v4",), 275, 30.75, 1228, 300, "TPU v4"),
    "v5e": _tpu(("TPU v5 lite", "TPU v5e"), 197, 15.75, 819, 200, "TPU v5e", network_rate=3.125),
    "v5p": _tpu(("TPU v5p", "TPU v5"), 459, 95.73, 2765, 600, "TPU v5p"),
    "v6e": _tpu(("TPU v6 lite", "TPU v6e"), 918, 31.24, 1638, 400, "TPU v6e", network_rate=12.5),
    "tpu7x": _tpu(("TPU7x",), 2307, 94.74, 7380, 600, "TPU7x", 2),
    "t4": _gpu("Tesla T4", 65, 16, 320, 16, "NVIDIA T4 data sheet: float16, PCIe 3.0"),
    "l4": _gpu("NVIDIA L4", 121, 24, 300, 32, "NVIDIA L4 data sheet: PCIe 4.0"),
    "a100": _gpu("NVIDIA A100", 312, 80, 2039, 300, "NVIDIA A100 data sheet: SXM 80 GB, NVLink"),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 756, 80, 2000, 64, "NVIDIA H100 data sheet: PCIe 5.0"),
    "h100": _gpu("NVIDIA H100", 989, 80, 3350, 450, "NVIDIA H100 data sheet: SXM, NVLink"),
    "h200": _gpu("NVIDIA H200", 989, 141, 4800, 450, "NVIDIA H200 data sheet: SXM, NVLink"),
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if unknown.

    A GPU kind has a suffix after the model name ("NVIDIA H100 80GB HBM3"); a TPU kind has none.
    """
    kinds = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
    if device_kind in kinds:
        return kinds[device_kind]
    models = [kind for kind in kinds if not kind.startswith("TPU") and device_kind.startswith(kind)]
    return kinds[max(models, key=len)] if models else None


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of a `jax.Device.device_kind`; None if unknown."""
    chip = find_chip(device_kind)
    return chip.flops if chip else None
