"""Compile the GPU attention kernels for A100, L4 and H200, without a GPU: registers, spills and temporary memory.

`python benchmarks/compile_gpu.py [GPU...]` compiles one layer's forward and backward pass, 12 heads of 64 with dropout
and packed documents, and fails if a kernel spills registers. Needs the extra `cuda`; `.ci/gpu-compile` installs it.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

# XLA reads them when it is loaded, and writes the code of kernels there.
DUMP = Path(tempfile.mkdtemp(prefix="gpu_kernels_"))
os.environ["XLA_FLAGS"] = f"--xla_dump_to={DUMP} --xla_gpu_dump_llvmir=true --xla_dump_emitter_re=^(llvm|ptx)$"

import jax
import jax.numpy as jnp
from timing import table_row, verdict

from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.positions import relative_index
from deberta_jax.planning.topologies import GPUS, gpu_mesh

BUCKETS, MAX_DISTANCE, DROPOUT = 256, 512, 0.1


class Shape(NamedTuple):
    batch_size: int
    length: int
    num_heads: int = 12
    head_size: int = 64
    dtype: str = "bfloat16"
    has_order: bool = False


SHAPES = [
    *(Shape(*size) for size in ((128, 128), (32, 512), (2, 8192), (1, 16384))),
    Shape(32, 512, 6, 128),
    Shape(8, 512, dtype="float32"),
    Shape(8, 512, 6, 128, "float32"),
    # A language model.
    Shape(32, 512, has_order=True),
]


class KernelReport(NamedTuple):
    """The cost of a kernel on a multiprocessor."""

    registers: int
    spilled_bytes: int
    shared_memory: int


def layer(shape: Shape, sharding: Any) -> tuple[dict[str, Any], list[jax.ShapeDtypeStruct]]:
    """The passes of a layer as functions, and their abstract arguments."""
    B, T, N, H, dtype, has_order = shape
    index = relative_index(T, T, buckets=BUCKETS, max_distance=MAX_DISTANCE)

    def forward(q, k, v, rel_k, rel_q, segment_ids, order, key):
        options = {"index": index, "segment_ids": segment_ids, "dropout_rate": DROPOUT, "key": key}
        options |= {"order": order if has_order else None}
        return disentangled_attention(q, k, v, rel_k, rel_q, implementation="pallas_gpu", **options)

    def loss(*arguments):
        return jnp.square(forward(*arguments).astype(jnp.float32)).sum()

    def like(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arguments = [like((B, T, N, H), dtype)] * 3 + [like((2 * BUCKETS, N, H), dtype)] * 2
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments += [like((B, T), jnp.int32)] * 2 + [like((), key.dtype)]
    return {"forward": forward, "forward + backward": jax.grad(loss, argnums=(0, 1, 2, 3, 4))}, arguments


def kernel_reports(gpu: str) -> dict[str, KernelReport]:
    """Registers and memory of the kernels compiled since the last call."""
    major, minor = GPUS[gpu].capability
    architecture = f"sm_{major}{minor}{'a' if major >= 9 else ''}"
    sequences = "".join(path.read_text() for path in DUMP.glob("*.thunk_sequence.txt"))
    shared = dict(re.findall(r"(\w+_kernel) .*shared_memory: (\d+) bytes", sequences))
    reports = {}
    for path in DUMP.glob("*.ptx"):
        name = re.search(r"\.entry (\w+_kernel)\(", path.read_text())
        if name:
            command = [ptxas(), "-v", f"-arch={architecture}", str(path), "-o", os.devnull]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            numbers = [int(re.search(pattern, text)[1]) for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill stores")]
            reports[name[1]] = KernelReport(*numbers, int(shared[name[1]]))
    for path in DUMP.iterdir():
        path.unlink()
    return reports


def ptxas() -> str:
    """The assembler of the CUDA wheels."""
    import nvidia

    (path, *_) = (path for folder in nvidia.__path__ for path in Path(folder).glob("*/bin/ptxas"))
    return str(path)


def compile_passes(gpu: str, shape: Shape) -> bool:
    """Compile and report both passes; returns whether no kernel spills."""
    device, mesh = gpu_mesh(gpu)
    passes, arguments = layer(shape, jax.sharding.SingleDeviceSharding(device))
    start, memory = time.perf_counter(), []
    for function in passes.values():
        with jax.sharding.use_abstract_mesh(mesh):
            compiled = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes / 2**30)
    reports = kernel_reports(gpu)
    kernels = (
        f"{reports[name].registers}, {reports[name].spilled_bytes}, {reports[name].shared_memory}" for name in NAMES
    )
    temporary = " / ".join(f"{size:.2f}" for size in memory)
    print(table_row(gpu, *shape, temporary, *kernels, f"{time.perf_counter() - start:.0f}"), flush=True)
    return all(report.spilled_bytes == 0 for report in reports.values())


NAMES = ("forward_kernel", "query_gradient_kernel", "key_gradient_kernel")


def main(*gpus: str) -> int:
    # JAX announces the end of Pallas's Triton back end with each kernel.
    warnings.filterwarnings("ignore", "The Pallas Triton", DeprecationWarning)
    titles = (
        "GPU",
        "batch",
        "length",
        "heads",
        "head size",
        "dtype",
        "order",
        "temporary GiB, forward / with backward",
    )
    titles += tuple(f"{name}: registers, bytes spilled, bytes shared" for name in NAMES)
    print(f"jax {jax.__version__}\n{table_row(*titles, 'seconds')}\n|{'---|' * (len(titles) + 1)}")
    spills = [f"{gpu} {shape}" for gpu in gpus or GPUS for shape in SHAPES if not compile_passes(gpu, shape)]
    print(verdict(f"no kernel spills registers {spills or ''}", not spills))
    return int(bool(spills))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
