"""Attention and models on this GPU: values, time and memory of each implementation, and a default for each length.

`python benchmarks/gpu.py [STAGE...]` takes less than 6 minutes on an H200 and prints Markdown tables, medians of
alternating runs. The stages are `values`, `layer`, `encoder` and `train`. Peers in torch (transformers, FlashDeBERTa,
DisentangledFlash) are measured in the same run if they are installed. Without a GPU everything runs in tiny sizes, the
kernels by interpretation, to test this script. Needs the extra `cuda`.
"""

import functools
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

# The peers need memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import gpu_peers
import jax
import jax.numpy as jnp
import numpy as np
from gpu_models import model_attention, training_programs
from timing import alternate, seconds, table_row, verdict

from deberta_jax.model.deberta import Deberta
from deberta_jax.ops.attention import IMPLEMENTATIONS, disentangled_attention
from deberta_jax.ops.positions import relative_index
from deberta_jax.presets import PRESETS
from deberta_jax.training.flops import peak_flops

BUCKETS, MAX_DISTANCE = 256, 512
OURS = ("xla", "pallas_gpu")
PEER = "FlashDeBERTa's op"
# Relative to the largest entry: context, and gradients.
BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 4e-2)}


class Sizes(NamedTuple):
    """What is measured, and how often."""

    cells: list[tuple[int, int]]
    lengths: list[int]
    num_heads: int
    head_size: int
    preset: str
    large_preset: str
    calls: int
    repetitions: int
    seconds: float


GPU = Sizes(
    [(128, 128), (32, 512), (8, 2048), (2, 8192)], [100, 512, 1500], 12, 64, "v3-base", "v2-xxlarge", 10, 5, 350
)
CPU = Sizes([(1, 32)], [20], 2, 16, "tiny", "tiny", 1, 1, 3600)
START = time.perf_counter()


def has_time(sizes: Sizes, cell: str) -> bool:
    """Whether another cell fits; prints the ones that are skipped."""
    if time.perf_counter() - START < sizes.seconds:
        return True
    print(f"skipped {cell}: out of time")
    return False


def print_header(*titles: object) -> None:
    print(table_row(*titles), "|---" * len(titles) + "|", sep="\n")


def attend(implementation: str, *tensors: Any, **options: Any) -> Any:
    """One of our implementations, or plain attention of XLA ("plain xla") or cuDNN ("plain cudnn")."""
    if implementation.startswith("plain"):
        return jax.nn.dot_product_attention(*tensors[:3], implementation=implementation.split()[1])
    length = tensors[0].shape[1]
    index = relative_index(length, length, buckets=BUCKETS, max_distance=MAX_DISTANCE)
    return disentangled_attention(*tensors, index=index, implementation=implementation, **options)


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*tensors: Any) -> Any:
        return jnp.square(function(*tensors).astype(jnp.float32)).sum()

    return jax.grad(loss, argnums=(0, 1, 2, 3, 4))


def tensors(sizes: Sizes, batch_size: int, length: int, dtype: Any) -> list[jax.Array]:
    """q, k, v, rel_k and rel_q."""
    N, H, rng = sizes.num_heads, sizes.head_size, np.random.default_rng(0)
    shapes = [(batch_size, length, N, H)] * 3 + [(2 * BUCKETS, N, H)] * 2
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


def compile_all(lowered: dict[Any, Any]) -> dict[Any, Any]:
    """Compile programs in threads; a program that fails is its exception."""

    def compiled(program: Any) -> Any:
        try:
            return program.compile()
        except Exception as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered.values()), strict=True))


def check_values(sizes: Sizes) -> bool:
    """Compare our implementations on this device with float64 on CPU, and two runs with each other."""
    bars = {}
    for length in sizes.lengths:
        segment_ids = np.where(np.arange(length) < length - 5, np.arange(length) // (length // 2), -1)[None]
        key = jax.random.key(1)

        def both(implementation: str, *tensors: Any, segment_ids: Any = segment_ids, key: Any = key) -> Any:
            options = {"segment_ids": jnp.asarray(segment_ids, jnp.int32), "dropout_rate": 0.1, "key": key}
            attention = functools.partial(attend, implementation, **options)
            return attention(*tensors), *with_gradients(attention)(*tensors)

        for dtype, bounds in BOUNDS.items():
            inputs = tensors(sizes._replace(num_heads=2), 1, length, dtype)
            with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                wide = [jnp.asarray(np.asarray(x, np.float64)) for x in inputs]
                reference = [np.asarray(x) for x in jax.jit(functools.partial(both, "xla"))(*wide)]
            for implementation in OURS:
                run = jax.jit(functools.partial(both, implementation))
                results, again = (jax.tree.map(np.asarray, run(*inputs)) for _ in range(2))
                errors = [
                    np.abs(np.float64(ours) - expected_value).max() / np.abs(expected_value).max()
                    for ours, expected_value in zip(results, reference, strict=True)
                ]
                name = f"{implementation} {dtype} {length}: context {errors[0]:.1e}, gradients {max(errors[1:]):.1e}"
                # Default matrix products of "xla" in float32 are tf32.
                bars[name] = errors[0] <= bounds[0] and max(errors[1:]) <= bounds[1]
                same = all((a == b).all() for a, b in zip(results, again, strict=True))
                bars[f"{implementation} {dtype} {length}: two runs are identical"] = same
    print("\n".join(verdict(name, bool(ok)) for name, ok in bars.items()))
    return all(ok for name, ok in bars.items() if name.startswith("pallas_gpu"))


def time_layer(sizes: Sizes, is_gpu: bool) -> dict[int, str]:
    """Time one layer; returns the fastest of our implementations at each length, forward and backward."""
    names = (*OURS, "plain xla", *["plain cudnn"] * is_gpu)
    print(f"\none layer, {sizes.num_heads} heads of {sizes.head_size}, bfloat16, milliseconds (temporary GiB)\n")
    print_header("cell", "pass", *names, PEER)
    passes = {"forward": lambda function: function, "forward+backward": with_gradients}
    fastest = {}
    for cell in sizes.cells:
        if not has_time(sizes, f"layer {cell}"):
            continue
        inputs = tensors(sizes, *cell, jnp.bfloat16)
        programs = compile_all(
            {
                (label, name): jax.jit(wrap(functools.partial(attend, name))).lower(*inputs)
                for label, wrap in passes.items()
                for name in names
            }
        )
        for label in passes:
            runs = {name: repeated(programs[label, name], inputs, sizes.calls) for name in names}
            memory = {name: temporary_memory(programs[label, name]) for name in names}
            if is_gpu:
                shape = *cell, sizes.num_heads, sizes.head_size
                runs[PEER] = gpu_peers.layer_run(label != "forward", *shape, sizes.calls)
            medians = measure(runs, sizes.repetitions, sizes.calls)
            times = {name: f"{median * 1e3:.2f} ({memory.get(name, '–')})" for name, median in medians.items()}
            print(table_row(cell, label, *(times.get(name, "–") for name in (*names, PEER))), flush=True)
            ours = {name: medians[name] for name in OURS if name in medians}
            fastest[cell[1]] = min(ours, key=ours.get, default="xla")
    return fastest


def temporary_memory(program: Any) -> str:
    return "–" if isinstance(program, Exception) else f"{program.memory_analysis().temp_size_in_bytes / 2**30:.2f}"


def repeated(program: Any, inputs: Any, calls: int) -> Callable[[], object] | None:
    """A function that calls a program several times and waits; None if the program did not compile."""
    if isinstance(program, Exception):
        print(f"failed: {str(program).splitlines()[0][:200]}")
        return None
    return lambda: jax.block_until_ready([program(*inputs) for _ in range(calls)][-1])


def measure(runs: dict[str, Callable[[], object] | None], repetitions: int, calls: int) -> dict[str, float]:
    """The median seconds of a call by name; runs that fail are reported and left out."""
    measures = {}
    for name, run in runs.items():
        if run is None:
            continue
        try:
            run()
        except Exception as error:
            print(f"failed {name}: {type(error).__name__} {str(error).splitlines()[0][:200]}")
        else:
            measures[name] = functools.partial(seconds, run)
    return {name: value / calls for name, value in alternate(measures, repetitions).items()}


def time_encoder(sizes: Sizes, is_gpu: bool) -> None:
    """Time the forward pass of the encoder, and forward and backward of the mean of its squared output."""
    peers = gpu_peers.encoders() if is_gpu else {}
    print(f"\n{sizes.preset} encoder, bfloat16, thousand tokens/s (temporary GiB)\n")
    print_header("cell", "pass", *OURS, *peers)
    config = PRESETS[sizes.preset]
    build = functools.partial(Deberta, config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    model = jax.jit(lambda key: build(key=key))(jax.random.key(0))

    def forward(model: Any, ids: Any, key: Any) -> Any:
        return model(ids).last_hidden_state

    def step(model: Any, ids: Any, key: Any) -> Any:
        def loss(model: Any) -> Any:
            return jnp.square(model(ids, key=key).last_hidden_state.astype(jnp.float32)).mean()

        return jax.grad(loss)(model)

    for cell in sizes.cells:
        if not has_time(sizes, f"encoder {cell}"):
            continue
        arguments = model, jnp.ones(cell, jnp.int32), jax.random.key(1)
        lowered = {}
        for label, function in (("forward", forward), ("step", step)):
            for name in OURS:
                with model_attention(name):
                    lowered[label, name] = jax.jit(lambda *x, f=function: f(*x)).lower(*arguments)
        programs = compile_all(lowered)
        for label in ("forward", "step"):
            runs = {name: repeated(programs[label, name], arguments, 1) for name in OURS}
            for name, build in peers.items():
                runs[name] = gpu_peers.encoder_run(build, config.num_hidden_layers, label == "step", *cell)
            medians = measure(runs, sizes.repetitions, 1)
            rates = {name: f"{np.prod(cell) / median / 1e3:.1f}" for name, median in medians.items()}
            ours = [f"{rates.get(name, '–')} ({temporary_memory(programs[label, name])})" for name in OURS]
            print(table_row(cell, label, *ours, *(rates.get(name, "–") for name in peers)), flush=True)


def time_training(sizes: Sizes, is_gpu: bool) -> None:
    """Time training steps: tokens/s, and the share of the device's peak that the model's operations take."""
    peak = peak_flops(jax.devices()[0].device_kind)
    print("\ntraining steps, bfloat16 compute, (batch, length) of the largest batch that fits\n")
    print_header("step", "attention", "cell", "thousand tokens/s", "MFU", "temporary GiB")
    for program in training_programs(sizes.preset, sizes.large_preset, is_gpu):
        # Training steps with interpreted kernels take minutes to compile.
        for name in OURS if is_gpu else OURS[:1]:
            if not has_time(sizes, f"{program.name} {name}"):
                continue
            for batch_size in program.batch_sizes:
                try:
                    with model_attention(name):
                        run, memory = program.prepare(batch_size)
                    run()
                    median = alternate({name: lambda run=run: seconds(run)}, min(3, sizes.repetitions))[name]
                except Exception as error:
                    print(f"failed {program.name} {name} {batch_size}: {str(error).splitlines()[0][:200]}")
                    continue
                rate = batch_size * program.length / median
                used = f"{100 * program.flops(batch_size) / median / peak:.1f} %" if peak else "–"
                cell = batch_size, program.length
                print(
                    table_row(program.name, name, cell, f"{rate / 1e3:.1f}", used, f"{memory / 2**30:.1f}"), flush=True
                )
                break


def main(*stages: str) -> int:
    # JAX announces the end of Pallas's Triton back end with each kernel.
    warnings.filterwarnings("ignore", "The Pallas Triton", DeprecationWarning)
    device = jax.devices()[0]
    is_gpu = device.platform == "gpu"
    sizes = GPU if is_gpu else CPU
    print(f"jax {jax.__version__}, {device.device_kind}")
    if not is_gpu:
        IMPLEMENTATIONS["pallas_gpu"] = functools.partial(IMPLEMENTATIONS["pallas_gpu"], tile=16, interpret=True)
    selected = stages or ("values", "layer", "encoder", "train")
    is_right = check_values(sizes) if "values" in selected else True
    if "layer" in selected:
        fastest = time_layer(sizes, is_gpu)
        print("\ndefault by length, from forward and backward\n")
        print_header("length", *fastest)
        print(table_row("implementation", *(name if is_right else "xla" for name in fastest.values())))
    if "encoder" in selected:
        time_encoder(sizes, is_gpu)
    if "train" in selected:
        time_training(sizes, is_gpu)
    print(f"\n{time.perf_counter() - START:.0f} s")
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
