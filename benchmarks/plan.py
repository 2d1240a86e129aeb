"""What `deberta-jax plan` takes, and how exact its memory is.

`python benchmarks/plan.py` compiles the step of the 1.5 B model for four TPU slices and a GPU host and the published
step of v3-base for the same host, and searches configurations of v3-base for another slice, one after another, and
fails if a bar is missed (10 minutes for a plan and 15 for the search, 8 GB of host memory). Arguments select some by
topology. `python benchmarks/plan.py memory` runs steps of small models on the
CPU, and fails if the memory of a process differs from the plan by more than 10 %. Needs the extra `tpu` for slices and
`cuda` for GPUs.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from timing import table_row, verdict

SECONDS_BAR, SEARCH_SECONDS_BAR, HOST_BAR, MEMORY_BAR = 600, 900, 8e9, 0.10
GIB = 1 << 30


class Target(NamedTuple):
    """The words after `deberta-jax plan`."""

    recipe: str
    topology: str
    options: tuple[str, ...]

    @property
    def is_search(self) -> bool:
        return "--search" in self.options


TARGETS = (
    Target("v2-xxlarge", "v5e:4x4", ("--batch-size", "256")),
    Target("v2-xxlarge", "v6e:4x4", ("--batch-size", "256")),
    Target("v2-xxlarge", "v5p:4x4x4", ("--batch-size", "1024")),
    Target("v2-xxlarge", "v5e:16x16", ("--batch-size", "2048")),
    Target("v2-xxlarge", "h100:8", ("--batch-size", "256")),
    Target("v3-base", "h100:8", ()),
    Target("v3-base", "v5e:2x2", ("--batch-size", "256", "--search")),
)
# Preset, sequences, tokens per sequence, rematerialization.
SMALL = (("mini", 32, 256, "none"), ("mini", 32, 256, "full"), ("v3-xsmall", 8, 256, "none"))


class Measured(NamedTuple):
    """A finished command: its plans, its seconds, those of the processor, and its largest memory in bytes."""

    plans: list[dict[str, Any]]
    seconds: float
    processor_seconds: float
    memory: int


def measure(target: Target) -> Measured:
    """Run the command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        words = ["plan", target.recipe, "--topology", target.topology, *target.options, "--output", str(path)]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "deberta_jax", *words])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: deberta-jax {' '.join(words)}")
        seconds = time.perf_counter() - start
        plans = json.loads(path.read_text())["plans"]
    return Measured(plans, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def row(target: Target, measured: Measured) -> str:
    """The first plan that fits, and what the command took."""
    plan = next(plan for plan in measured.plans if plan["fits"])
    memory, bounds = plan["memory_per_device"], plan["bounds"]
    sent = sum(collective["bytes"] for collective in plan["collectives"])
    mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1)
    return table_row(
        f"{target.recipe}, {target.topology}{', search' if target.is_search else ''}",
        f"{plan['batch_size']:,} x {plan['length']}, {mesh}, {plan['remat']}, accumulate {plan['accumulate']}",
        f"{memory['peak'] / GIB:.2f} ({memory['state'] / GIB:.2f} state) of {memory['capacity'] / GIB:.2f}",
        f"{plan['memory_bytes_per_device'] / 1e9:,.0f} GB, {sent / 1e9:,.1f} GB",
        f"{bounds['step']:.3f} ({bounds['limit']}: {bounds['compute']:.3f}, {bounds['memory']:.3f}, "
        f"{bounds['interconnect']:.3f})",
        f"{bounds['mfu']:.0%}",
        f"{measured.seconds:.0f} ({measured.processor_seconds:.0f})",
        f"{measured.memory / 1e9:.1f}",
    )


def targets(names: tuple[str, ...]) -> list[bool]:
    """Measure the targets of these topologies, or all."""
    titles = ("model, devices", "configuration", "GiB per device", "memory traffic, sent per device and step")
    titles += ("step at least, s (compute, memory, interconnect)", "MFU at most", "wall (processor) seconds", "host GB")
    print(f"{table_row(*titles)}\n|{'---|' * len(titles)}", flush=True)
    bars = []
    for target in TARGETS:
        if names and target.topology not in names:
            continue
        measured = measure(target)
        print(row(target, measured), flush=True)
        limit = SEARCH_SECONDS_BAR if target.is_search else SECONDS_BAR
        bars += [measured.seconds <= limit, measured.memory <= HOST_BAR]
        print(verdict(f"{target.topology}: {limit} s and {HOST_BAR / 1e9:.0f} GB", all(bars[-2:])), flush=True)
    return bars


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory, or with "VmHWM" their maximum."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def step_memory(preset: str, batch_size: int, length: int, remat: str) -> tuple[int, int]:
    """Bytes of a step by the plan, and those of the state plus those by which this process grows during the step."""
    import jax
    import numpy as np

    from deberta_jax.planning.compiled_step import compile_step
    from deberta_jax.pretraining.config import DataConfig, PretrainConfig
    from deberta_jax.pretraining.program import OBJECTIVES, abstract_step, model_options, model_to_train
    from deberta_jax.sharding import make_mesh
    from deberta_jax.training.config import TrainingConfig
    from deberta_jax.training.state import initial_state
    from deberta_jax.training.step import place

    training = TrainingConfig(batch_size=batch_size, steps=10)
    config = PretrainConfig(
        preset, dtype="float32", remat=remat, data=DataConfig(length=(str(length),)), training=training
    )
    mesh, model = make_mesh(), model_to_train(config)
    abstract = abstract_step(config, model, mesh)
    expected = compile_step(abstract, 1 << 60).memory
    step = abstract.step.lower(abstract.state, abstract.batch).compile()
    method = OBJECTIVES["mlm"].method(
        model_options(config, model), dataclasses.replace(training, steps=10**6), config.rtd
    )
    batch = {name: np.ones(x.shape, x.dtype) for name, x in abstract.batch.items()}
    state = initial_state(method.build, method.optimizer, 0, mesh)
    # After one step the code of the program and the memory of threads are there; the new state replaces the old one.
    state, metrics = step(state, place(batch, mesh))
    arguments = jax.block_until_ready((state, place(batch, mesh)))
    del metrics
    gc.collect()
    before = resident()
    # From now on the maximum is that of the step.
    Path("/proc/self/clear_refs").write_text("5")
    jax.block_until_ready(step(*arguments))
    return expected.peak, expected.state + resident("VmHWM") - before


def memory() -> list[bool]:
    """Compare plans with processes, each in a process of its own."""
    titles = ("model", "sequences", "remat", "GiB by the plan", "GiB measured", "ratio")
    print(f"{table_row(*titles)}\n|{'---|' * len(titles)}", flush=True)
    bars = []
    for case in SMALL:
        command = [sys.executable, __file__, "step", *map(str, case)]
        # Freed memory returns to the system at once, so that what stays in memory is in use.
        environment = dict(os.environ, JAX_PLATFORMS="cpu", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        expected, measured = map(int, output.split())
        ratio = measured / expected
        preset, batch_size, length, remat = case
        cells = f"{expected / GIB:.3f}", f"{measured / GIB:.3f}", f"{ratio:.3f}"
        print(table_row(preset, f"{batch_size} x {length}", remat, *cells), flush=True)
        bars.append(abs(ratio - 1) <= MEMORY_BAR)
    return bars


def main(*words: str) -> int:
    if words[:1] == ("step",):
        preset, batch_size, length, remat = words[1:]
        print(*step_memory(preset, int(batch_size), int(length), remat))
        return 0
    bars = memory() if words == ("memory",) else targets(words)
    return int(not all(bars))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
