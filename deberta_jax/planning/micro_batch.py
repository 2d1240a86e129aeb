"""The option `--micro-batch`: a number of sequences, or the largest that fits the devices."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.planning.accumulation import accumulations
from deberta_jax.planning.compiled_step import CompiledStep
from deberta_jax.planning.configuration import config_mesh, mesh_sizes, with_accumulation
from deberta_jax.planning.plan import Target, compile_run
from deberta_jax.planning.search import smallest_fit
from deberta_jax.planning.topologies import LOCAL, find_topology
from deberta_jax.pretraining.config import AUTO, PretrainConfig
from deberta_jax.pretraining.program import longest_stage, model_to_train
from deberta_jax.training.chips import GIB
from deberta_jax.training.sizes import format_bytes


def resolve_micro_batch(config: PretrainConfig) -> tuple[PretrainConfig, str]:
    """A run on the local devices with `accumulate` in place of `micro_batch`, and a line that reports the choice.

    For "auto" it compiles the step of the run, and reads no text. A resumed run keeps its number of micro-batches if it
    fits, because dropout depends on it. Raises InputError if not even one sequence per device fits.
    """
    if config.micro_batch != AUTO:
        return fixed_micro_batch(config)
    run, config = config, longest_stage(config)
    target = Target.of(model_to_train(config), find_topology(LOCAL))
    # All processes must choose the same number.
    target = target._replace(capacity=_smallest(target.capacity))
    previous = _previous_accumulation(config)
    mesh = config_mesh(with_accumulation(config, 1), target.topology.devices)
    if previous in accumulations(config, mesh):
        resumed = with_accumulation(config, previous)
        step = compile_run(resumed, target)
        if step.fits:
            return with_accumulation(run, previous), _line(resumed, step, target, ", as before")
    largest, line = largest_micro_batch(config, target)
    return with_accumulation(run, largest.training.accumulate), line


def fixed_micro_batch(config: PretrainConfig) -> tuple[PretrainConfig, str]:
    """A run with the `accumulate` that gives its number of sequences per micro-batch, if it has one."""
    if config.micro_batch in (None, AUTO):
        return config, ""
    number = config.training.batch_size // int(config.micro_batch)
    return with_accumulation(config, number), f"micro-batch: {config.micro_batch} sequences, accumulate {number:,}"


def largest_micro_batch(config: PretrainConfig, target: Target) -> tuple[PretrainConfig, str]:
    """A run with the fewest micro-batches that fit a target; errors as `resolve_micro_batch`."""
    fit = smallest_fit(config, target)
    if fit.config is None or fit.step is None:
        mesh = mesh_sizes(config_mesh(with_accumulation(config, 1), target.topology.devices))
        needed, capacity = format_bytes(fit.needed), format_bytes(target.capacity)
        raise InputError(
            f"micro_batch auto: the smallest micro-batch needs {needed} of {capacity} per device (mesh {mesh}, remat "
            f"{config.remat}); `deberta-jax plan {config.recipe or 'RECIPE'} --search` lists configurations that fit"
        )
    return fit.config, _line(fit.config, fit.step, target)


def _line(config: PretrainConfig, step: CompiledStep, target: Target, note: str = "") -> str:
    number = config.training.accumulate
    return (
        f"micro-batch: {config.training.batch_size // number:,} sequences, accumulate {number:,}{note}; "
        f"{format_bytes(step.memory.peak)} of {format_bytes(target.capacity)} per device"
    )


def _smallest(capacity: int) -> int:
    """The smallest capacity of all processes."""
    if jax.process_count() == 1:
        return capacity
    return int(np.min(multihost_utils.process_allgather(np.asarray(capacity / GIB, np.float32))) * GIB)


def _previous_accumulation(config: PretrainConfig) -> int | None:
    """The number of micro-batches of the run that the folder contains; None without one."""
    path = config.folder / "config.json"
    number = read_json(path).get("training", {}).get("accumulate") if path.exists() else None
    return number if isinstance(number, int) else None
