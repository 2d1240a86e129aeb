"""Meshes: the same training on all of them, a step of every model on each of them, and compile time by depth.

`python benchmarks/meshes.py train` trains a small model for 20 steps with the commands, by masked language modeling, by
replaced-token detection and on a table, on every mesh of eight virtual devices, and fails if a loss differs from that
of one device by more than 1e-5 of its value. `presets` compiles the step of every preset at full size on every mesh
that divides its heads, with few optimizations of the machine code, and fails if one does not compile. `depth` compiles
models of 6, 12, 24 and 48 layers, and fails if the slowest takes 1.3 times as long as the fastest. Arguments after the
first one select rows.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fault_runs import all_runs, make_inputs
from timing import alternate, table_row, verdict

DEVICES, STEPS, LOSS_BAR, DEPTH_BAR = 8, 20, 1e-5, 1.3
DEPTHS = (6, 12, 24, 48)


def meshes(heads: int | None = None) -> Iterator[tuple[int, int, int]]:
    """All sizes (data, fsdp, tensor) whose product is the number of devices; `tensor` divides the heads."""
    for tensor in (1, 2, 4, 8):
        for fsdp in (1, 2, 4, 8):
            data, rest = divmod(DEVICES, fsdp * tensor)
            if data and not rest and (heads is None or heads % tensor == 0):
                yield data, fsdp, tensor


def title(mesh: tuple[int, int, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), mesh, strict=True) if size > 1)


def run(*words: str, devices: int, folder: Path) -> None:
    """A command in a process with some virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "deberta_jax", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(words)}\n{done.stderr}")


def losses(folder: Path) -> list[float]:
    """The losses of a run's steps and evaluations."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [values["loss"] for line in lines if "loss" in (values := json.loads(line))]


def train_once(words: Sequence[str], mesh: tuple[int, int, int], work: Path) -> list[float]:
    """The losses of a run of 20 steps; its inputs are in `work`."""
    axes = [f"--mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), mesh, strict=True)]
    length = ["--epochs=2"] if words[0] == "finetune" else [f"--steps={STEPS}"]
    shutil.rmtree(work / "run", ignore_errors=True)
    run(*words, *length, *axes, devices=mesh[0] * mesh[1] * mesh[2], folder=work)
    return losses(work / "run")


def train(names: tuple[str, ...]) -> list[bool]:
    bars = []
    print(f"{table_row('training', 'mesh', 'largest relative difference of a loss')}\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_inputs(work)
        for kind in all_runs():
            if kind.name == "prepare" or kind.processes > 1 or (names and kind.name not in names):
                continue
            expected = train_once(kind.words, (1, 1, 1), work)
            for mesh in meshes():
                values = train_once(kind.words, mesh, work)
                largest = max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))
                print(table_row(kind.name, title(mesh), f"{largest:.1e}"), flush=True)
                bars.append(largest <= LOSS_BAR)
    print(verdict(f"{STEPS} steps on every mesh: within {LOSS_BAR:.0e}", all(bars)))
    return bars


def compiled(preset: str, mesh: tuple[int, int, int], layers: int | None = None) -> tuple[Any, float]:
    """The compiled step of a preset on a mesh, 16 sequences of 128 tokens, and the seconds of compilation."""
    from deberta_jax.planning.compiled_step import compile_step
    from deberta_jax.presets import PRESETS
    from deberta_jax.pretraining.config import DataConfig, PretrainConfig
    from deberta_jax.pretraining.program import abstract_step, model_to_train
    from deberta_jax.sharding import make_mesh
    from deberta_jax.training.config import TrainingConfig

    objective = "rtd" if preset.startswith(("v3", "mdeberta")) else "mlm"
    training = TrainingConfig(batch_size=16)
    config = PretrainConfig(
        preset, objective=objective, data=DataConfig(length=("128",)), training=training, remat="full"
    )
    # Without a tokenizer, a run trains one of another size.
    published = PRESETS[preset]
    layers = layers or published.num_hidden_layers
    model = dataclasses.replace(model_to_train(config), vocab_size=published.vocab_size, num_hidden_layers=layers)
    abstract = abstract_step(config, model, make_mesh(*mesh))
    start = time.perf_counter()
    step = compile_step(abstract, 1 << 60)
    return step, time.perf_counter() - start


def presets(names: tuple[str, ...]) -> list[bool]:
    from deberta_jax.presets import PRESETS

    print(f"{table_row('preset', 'mesh', 'GiB per device', 'GB sent per device')}\n|{'---|' * 4}", flush=True)
    for name, config in PRESETS.items():
        for mesh in meshes(config.num_attention_heads) if not names or name in names else ():
            step, _ = compiled(name, mesh)
            sent = sum(collective.bytes for collective in step.costs.collectives) / 1e9
            print(table_row(name, title(mesh), f"{step.memory.peak / 2**30:.2f}", f"{sent:.2f}"), flush=True)
    return [True]


def depth(_: tuple[str, ...]) -> list[bool]:
    measures = {str(layers): lambda layers=layers: compiled("v2-xlarge", (1, 8, 1), layers)[1] for layers in DEPTHS}
    seconds = alternate(measures, 3)
    print(f"{table_row('layers', 'seconds')}\n|---|---|")
    for layers, value in seconds.items():
        print(table_row(layers, f"{value:.1f}"))
    flat = max(seconds.values()) <= DEPTH_BAR * min(seconds.values())
    print(verdict(f"compile time by depth: within {DEPTH_BAR}", flat))
    return [flat]


if __name__ == "__main__":
    parts = {"train": train, "presets": presets, "depth": depth}
    if len(sys.argv) < 2 or sys.argv[1] not in parts:
        raise SystemExit(__doc__)
    flags = [f"--xla_force_host_platform_device_count={DEVICES}"]
    if sys.argv[1] == "presets":
        # The time of compilation is not compared.
        flags += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
        # Later versions of jaxlib do not have the flag.
        flags += ["--xla_cpu_use_fusion_emitters=false"] * metadata.version("jaxlib").startswith("0.10.")
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    sys.exit(not all(parts[sys.argv[1]](tuple(sys.argv[2:]))))
