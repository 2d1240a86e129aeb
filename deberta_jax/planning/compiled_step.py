"""A training step, compiled without running it: its memory, its traffic and its collectives."""

import math
import re
import time
from typing import Any, NamedTuple

import jax

from deberta_jax.planning.collectives import Collective, collectives
from deberta_jax.planning.hlo import Program, parse_program
from deberta_jax.planning.scratch import scratch_bytes
from deberta_jax.planning.traffic import memory_bytes
from deberta_jax.pretraining.program import AbstractStep

# What XLA for TPU says of a program that does not fit: "(17.91G) exceeds available HBM (15.75G)", or "Used 17.91G of
# 15.75G hbm".
_USED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM|Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", re.I)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes on one device: the state and the batch, and what the step needs beside them while it runs."""

    state: int
    temporary: int

    @property
    def peak(self) -> int:
        """All bytes together."""
        return self.state + self.temporary


class Costs(NamedTuple):
    """What one step moves: bytes from and to the memory of a device, and bytes that each device sends."""

    memory_bytes: int
    collectives: tuple[Collective, ...]


class CompiledStep(NamedTuple):
    """The result of a compilation. `costs` is None if the program does not fit."""

    memory: Memory
    fits: bool
    costs: Costs | None
    seconds: float


def compile_step(abstract: AbstractStep, capacity: int, options: dict[str, bool] | None = None) -> CompiledStep:
    """Compile a step for its devices with options of XLA, and compare its memory with the capacity of one."""
    start = time.perf_counter()
    state = shard_bytes((abstract.state, abstract.batch))
    try:
        step: Any = abstract.step
        compiled = step.lower(abstract.state, abstract.batch).compile(options)
    except jax.errors.JaxRuntimeError as error:
        # The compiler of a TPU refuses programs that do not fit.
        used = bytes_needed(str(error))
        if used is None:
            raise
        return CompiledStep(Memory(state, max(used - state, 0)), False, None, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    program = parse_program(compiled.as_text())
    memory = _memory(compiled, program)
    fits = memory.peak <= capacity
    return CompiledStep(memory, fits, _costs(program, abstract) if fits else None, seconds)


def bytes_needed(message: str) -> int | None:
    """The memory that a program needs, from the compiler's error; None for another error."""
    match = _USED.search(message)
    if match is None:
        return None
    number, unit = match[1] or match[3], match[2] or match[4]
    return int(float(number) * _UNITS[unit.upper()])


def state_bytes(abstract: AbstractStep) -> int:
    """Bytes of the state and the batch on one device, from shapes alone."""
    return shard_bytes((abstract.state, abstract.batch))


def _memory(compiled: Any, program: Program) -> Memory:
    analysis = compiled.memory_analysis()
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporary = max(results, 0) + analysis.temp_size_in_bytes + scratch_bytes(program)
    return Memory(analysis.argument_size_in_bytes, temporary)


def _costs(program: Program, abstract: AbstractStep) -> Costs:
    devices = jax.tree.leaves(abstract.state.model)[0].sharding.mesh.size
    return Costs(memory_bytes(program), tuple(collectives(program, devices)))


def shard_bytes(tree: Any) -> int:
    """Bytes of one device's shards of all arrays, without random keys."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
