"""Compile the step of `deberta-jax pretrain v2-xxlarge` (1.5 B parameters) for 16 chips of TPU v5e, without a TPU.

256 sequences of 512 tokens, fsdp 16, bfloat16 compute, float32 parameters, full rematerialization. `python
benchmarks/compile_xxlarge.py` prints parameters, memory, FLOPs, bytes and collectives, and fails if a bar is missed.
Needs the extra `tpu`.
"""

import math
import re
import resource
import sys
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
from timing import verdict

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.planning.topologies import tpu_devices
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.flops import count_flops
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.state import TrainState, abstract_state
from deberta_jax.training.step import make_step

BATCH_SIZE, LENGTH, SLOTS, STEPS = 256, 512, 80, 1000
MEMORY_BAR, BYTES_BAR, SECONDS_BAR, HOST_BAR = 15.75e9, 40e9, 600, 8e9
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def abstract_batch(mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    widths = {
        "input_ids": (LENGTH, jnp.int32),
        "segment_ids": (LENGTH, jnp.int32),
        "position_ids": (LENGTH, jnp.int32),
        "masked_positions": (SLOTS, jnp.int32),
        "labels": (SLOTS, jnp.int32),
        "label_weights": (SLOTS, jnp.float32),
    }
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((BATCH_SIZE, width), dtype, sharding=sharding)
        for name, (width, dtype) in widths.items()
    }


def replicated_optimizer_state(state: TrainState) -> list[str]:
    """The paths of arrays in the optimizer's state that are not sharded."""
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer_state)
        if leaf.ndim and not any(leaf.sharding.spec)
    ]


def full_logits(text: str, vocab_size: int, tokens: int) -> list[str]:
    """The shapes in a compiled program that hold logits for at least this many tokens."""
    shapes = {tuple(map(int, sizes.split(","))) for sizes in re.findall(r"[a-z0-9]+\[([0-9,]+)\]", text)}
    return [str(shape) for shape in shapes if shape[-1] == vocab_size and math.prod(shape[:-1]) >= tokens]


def report(compiled: Any, flops: int, parameters: int, elapsed: float) -> dict[str, bool]:
    """Print the costs of a compiled step; returns whether each bar is reached."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    state_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = state_bytes + memory.temp_size_in_bytes
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"parameters                {parameters:,}")
    print(
        f"memory per chip           {total / 1e9:.2f} GB ({state_bytes / 1e9:.2f} state, "
        f"{memory.temp_size_in_bytes / 1e9:.2f} temporary)"
    )
    print(f"bytes accessed per chip   {cost['bytes accessed'] / 1e9:.1f} GB, a scanned body counted once")
    print(f"FLOPs, all chips          {flops / 1e12:.1f} TFLOP, from the jaxpr, with scan lengths")
    names = re.findall(f" ({COLLECTIVES})(?:-start)?[(]", compiled.as_text())
    print(f"collectives               {dict(Counter(names))}")
    print(f"compilation               {elapsed:.0f} s, host peak {host / 1e9:.1f} GB")
    return {
        "fits in memory": total <= MEMORY_BAR,
        "bytes accessed": cost["bytes accessed"] <= BYTES_BAR,
        "compile time": elapsed <= SECONDS_BAR,
        "host memory": host <= HOST_BAR,
    }


def main(preset: str = "v2-xxlarge", topology: str = "v5e:4x4") -> int:
    start = time.perf_counter()
    config = PRESETS[preset]
    mesh = make_mesh(data=1, fsdp=-1, devices=tpu_devices(topology))
    settings = OptimizerConfig()
    optimizer = make_optimizer(settings, STEPS)
    state = abstract_state(lambda key: MaskedLM(config, dtype=jnp.bfloat16, remat="full", key=key), optimizer, 0, mesh)
    batch = abstract_batch(mesh)
    step = make_step(masked_lm_objective, optimizer, learning_rate(settings, STEPS), shardings(state, mesh))
    compiled = step.lower(state, batch).compile()
    elapsed = time.perf_counter() - start
    print(f"jax {jax.__version__}, {preset}, {topology}: {mesh.size} chips, {BATCH_SIZE} x {LENGTH} tokens")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.model))
    bars = report(compiled, count_flops(step, state, batch), parameters, elapsed)
    replicated = replicated_optimizer_state(state)
    logits = full_logits(compiled.as_text(), config.vocab_size, LENGTH * BATCH_SIZE // mesh.size)
    bars |= {
        f"no replicated optimizer state {replicated[:3]}": not replicated,
        f"no [B, L, V] logits {logits[:3]}": not logits,
    }
    for name, ok in bars.items():
        print(verdict(name, ok))
    return int(not all(bars.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
