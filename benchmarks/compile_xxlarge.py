"""Compile the step of `deberta-jax pretrain v2-xxlarge` (1.5 B parameters) for 16 chips of TPU v5e, without any.

256 rows of 512 tokens, fsdp 16, bf16 compute, float32 masters, full remat. Prints parameters, memory, flops, bytes and
collectives of one chip, and fails where a bar is missed: `python benchmarks/compile_xxlarge.py`.
"""

import re
import resource
import sys
import time
from collections import Counter

import jax
import jax.numpy as jnp
from topology import tpu_devices

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.objectives import masked_lm
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.flops import count_flops
from deberta_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step

ROWS, LENGTH, SLOTS = 256, 512, 80
MEMORY_BAR, BYTES_BAR, SECONDS_BAR, HOST_BAR = 15.75e9, 60e9, 600, 8e9


def main(preset: str = "v2-xxlarge", topology: str = "v5e:4x4") -> int:
    started = time.perf_counter()
    config = PRESETS[preset]
    mesh = make_mesh(data=1, fsdp=-1, devices=tpu_devices(topology))

    def build(key):
        return MaskedLM(config, dtype=jnp.bfloat16, remat="full", key=key)

    settings = OptimizerConfig()
    optimizer = make_optimizer(settings, 1000)
    state = abstract_state(build, optimizer, 0, mesh)
    rows = batch_sharding(mesh)
    shapes = {
        "input_ids": (LENGTH, jnp.int32),
        "segment_ids": (LENGTH, jnp.int32),
        "position_ids": (LENGTH, jnp.int32),
        "masked_positions": (SLOTS, jnp.int32),
        "labels": (SLOTS, jnp.int32),
        "label_weights": (SLOTS, jnp.float32),
    }
    batch = {name: jax.ShapeDtypeStruct((ROWS, width), dtype, sharding=rows) for name, (width, dtype) in shapes.items()}
    step = make_step(masked_lm, optimizer, learning_rate(settings, 1000), shardings(state, mesh))
    lowered = step.lower(state, batch)
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    resident = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = resident + memory.temp_size_in_bytes
    text = compiled.as_text()
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.model))
    replicated = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer_state)
        if leaf.ndim and not any(leaf.sharding.spec)
    ]
    vocabulary = [
        shape
        for shape in set(re.findall(r"[a-z0-9]+\[([0-9,]+)\]", text))
        if (sizes := [int(size) for size in shape.split(",")])[-1] == config.vocab_size
        and _product(sizes[:-1]) >= LENGTH * ROWS // mesh.size
    ]
    flops = count_flops(step, state, batch)
    print(f"jax {jax.__version__}, {preset}, {topology}: {mesh.size} chips, {ROWS} x {LENGTH} tokens")
    print(f"parameters                {parameters:,}")
    temporary = memory.temp_size_in_bytes
    print(
        f"memory of a chip          {total / 1e9:.2f} GB ({resident / 1e9:.2f} state, {temporary / 1e9:.2f} temporary)"
    )
    print(f"bytes accessed, a chip    {cost['bytes accessed'] / 1e9:.1f} GB, a scanned body once")
    print(f"flops, all chips          {flops / 1e12:.1f} TFLOP, from the jaxpr, scan lengths included")
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    print(f"collectives               {dict(Counter(re.findall(f' ({kinds})(?:-start)?[(]', text)))}")
    print(f"compiled in               {seconds:.0f} s, host peak {host / 1e9:.1f} GB")
    bars = {
        "fits in memory": total <= MEMORY_BAR,
        "bytes accessed": cost["bytes accessed"] <= BYTES_BAR,
        "compile time": seconds <= SECONDS_BAR,
        "host memory": host <= HOST_BAR,
        f"no replicated optimizer state {replicated[:3]}": not replicated,
        f"no [B, L, V] logits {vocabulary[:3]}": not vocabulary,
    }
    for name, held in bars.items():
        print(f"{'ok    ' if held else 'MISSED'} {name}")
    return int(not all(bars.values()))


def _product(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
