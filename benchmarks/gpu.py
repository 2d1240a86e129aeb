"""Attention and models on this GPU: values, time and memory of each implementation, and a default for each length.

`python benchmarks/gpu.py [STAGE...]` takes less than 6 minutes on an H200 and prints Markdown tables, medians of
alternating runs. The stages are `values`, `layer`, `encoder` and `train`; it exits with 1 if a value is wrong. cuDNN's
attention has no dropout and no float32: it is left out where they are needed. Peers in torch (transformers,
FlashDeBERTa, DisentangledFlash) are measured in the same run if they are installed. Without a GPU everything runs in
tiny sizes, the kernels by interpretation, to test this script. Needs the extra `cuda`.
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
from gpu_models import training_programs
from gpu_values import OURS, WITH_DROPOUT, attend, check_values, interpret, tensors, with_gradients
from timing import alternate, seconds, table_row

from deberta_jax.model.deberta import Deberta
from deberta_jax.presets import PRESETS
from deberta_jax.training.chips import peak_flops

STAGES = ("values", "layer", "encoder", "train")
PEER = "FlashDeBERTa's op"


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


def compile_all(functions: dict[Any, Callable[..., Any]], arguments: dict[Any, Any]) -> dict[Any, Any]:
    """Compile functions for their arguments in threads; a program that fails is its exception."""

    def compiled(name: Any) -> Any:
        try:
            return jax.jit(functions[name]).lower(*arguments[name]).compile()
        except Exception as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(functions, pool.map(compiled, functions), strict=True))


def time_layer(sizes: Sizes, is_gpu: bool, wrong: set[str]) -> dict[tuple[int, str], str]:
    """Time one layer; returns the fastest implementation without wrong values by length and pass."""
    names = (*OURS, "plain xla", *["plain cudnn"] * is_gpu)
    print(f"\none layer, {sizes.num_heads} heads of {sizes.head_size}, bfloat16, milliseconds (temporary GiB)\n")
    print_header("cell", "pass", *names, PEER)
    passes = {"forward": lambda function: function, "forward+backward": with_gradients}
    fastest = {}
    for cell in sizes.cells:
        if not has_time(sizes, f"layer {cell}"):
            continue
        inputs = tensors((*cell, sizes.num_heads, sizes.head_size), jnp.bfloat16)
        functions = {
            (label, name): wrap(functools.partial(attend, name)) for label, wrap in passes.items() for name in names
        }
        programs = compile_all(functions, dict.fromkeys(functions, inputs))
        for label in passes:
            runs = {name: repeated(programs[label, name], inputs, sizes.calls) for name in names}
            memory = {name: temporary_memory(programs[label, name]) for name in names}
            if is_gpu:
                shape = *cell, sizes.num_heads, sizes.head_size
                runs[PEER] = gpu_peers.layer_run(label != "forward", *shape, sizes.calls)
            medians = measure(runs, sizes.repetitions, sizes.calls)
            times = {name: f"{median * 1e3:.2f} ({memory.get(name, '–')})" for name, median in medians.items()}
            print(table_row(cell, label, *(times.get(name, "–") for name in (*names, PEER))), flush=True)
            candidates = OURS if label == "forward" else WITH_DROPOUT
            ours = {name: medians[name] for name in candidates if name in medians and name not in wrong}
            fastest[cell[1], label] = min(ours, key=ours.get, default="xla")
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
    options = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    models = {
        name: jax.jit(functools.partial(Deberta, config, attention=name, **options))(key=jax.random.key(0))
        for name in OURS
    }

    def forward(model: Any, ids: Any, key: Any) -> Any:
        return model(ids).last_hidden_state

    def step(model: Any, ids: Any, key: Any) -> Any:
        def loss(model: Any) -> Any:
            return jnp.square(model(ids, key=key).last_hidden_state.astype(jnp.float32)).mean()

        return jax.grad(loss)(model)

    for cell in sizes.cells:
        if not has_time(sizes, f"encoder {cell}"):
            continue
        arguments = jnp.ones(cell, jnp.int32), jax.random.key(1)
        passes = {"forward": (forward, OURS), "step": (step, WITH_DROPOUT)}
        functions = {(label, name): function for label, (function, names) in passes.items() for name in names}
        programs = compile_all(functions, {key: (models[key[1]], *arguments) for key in functions})
        for label, (_, names) in passes.items():
            runs = {name: repeated(programs[label, name], (models[name], *arguments), 1) for name in names}
            for name, build in peers.items():
                runs[name] = gpu_peers.encoder_run(build, config.num_hidden_layers, label == "step", *cell)
            medians = measure(runs, sizes.repetitions, 1)
            rates = {name: f"{np.prod(cell) / median / 1e3:.1f}" for name, median in medians.items()}
            ours = [
                f"{rates.get(name, '–')} ({temporary_memory(programs[label, name])})" if name in names else "–"
                for name in OURS
            ]
            print(table_row(cell, label, *ours, *(rates.get(name, "–") for name in peers)), flush=True)


def time_training(sizes: Sizes, is_gpu: bool) -> None:
    """Time training steps: tokens/s, and the share of the device's peak that the model's operations take."""
    peak = peak_flops(jax.devices()[0].device_kind)
    print("\ntraining steps, bfloat16 compute, (batch, length) of the largest batch that fits\n")
    print_header("step", "attention", "cell", "thousand tokens/s", "MFU", "temporary GiB")
    for program in training_programs(sizes.preset, sizes.large_preset, is_gpu):
        # Training steps with interpreted kernels take minutes to compile.
        for name in WITH_DROPOUT if is_gpu else WITH_DROPOUT[:1]:
            if not has_time(sizes, f"{program.name} {name}"):
                continue
            for batch_size in program.batch_sizes:
                try:
                    run, memory = program.prepare(batch_size, name)
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
    if unknown := set(stages) - set(STAGES):
        print(f"no stage {', '.join(sorted(unknown))}; expected {', '.join(STAGES)}", file=sys.stderr)
        return 2
    # JAX announces the end of Pallas's Triton back end with each kernel.
    warnings.filterwarnings("ignore", "The Pallas Triton", DeprecationWarning)
    device = jax.devices()[0]
    is_gpu = device.platform == "gpu"
    sizes = GPU if is_gpu else CPU
    print(f"jax {jax.__version__}, {device.device_kind}")
    if not is_gpu:
        interpret()
    selected = stages or STAGES
    wrong = check_values(sizes.lengths, sizes.head_size) if "values" in selected else set()
    if "layer" in selected:
        fastest = time_layer(sizes, is_gpu, wrong)
        print("\nfastest by length: forward (inference), forward and backward (training)\n")
        print_header("length", "pass", "implementation")
        for (length, label), name in fastest.items():
            print(table_row(length, label, name))
    if "encoder" in selected:
        time_encoder(sizes, is_gpu)
    if "train" in selected:
        time_training(sizes, is_gpu)
    print(f"\n{time.perf_counter() - START:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
