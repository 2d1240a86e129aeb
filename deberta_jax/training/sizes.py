"""The size of a run, computed before it starts."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from deberta_jax.training.flops import count_flops
from deberta_jax.training.objective import BatchEvaluation
from deberta_jax.training.state import TrainState


class Sizes(NamedTuple):
    """Number of parameters, bytes of the whole state and of one device's shard, and FLOPs per step."""

    parameters: int
    state_bytes: int
    device_bytes: int
    step_flops: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters; parameters and optimizer {format_bytes(self.state_bytes)}, "
            f"{format_bytes(self.device_bytes)} on each device; {_flops(self.step_flops)} per step"
        )


def sizes(evaluate: BatchEvaluation, abstract: TrainState, batch: Mapping[str, Any]) -> Sizes:
    """Compute the sizes from shapes and shardings only, without allocating; `batch` may hold `ShapeDtypeStruct`s.

    By convention a step costs three forward passes. Recomputation by remat is not counted.
    """
    leaves = [leaf for leaf in jax.tree.leaves(abstract) if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    forward = count_flops(lambda model, batch: evaluate(model, batch, 0), abstract.model, dict(batch))
    return Sizes(
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract.model)),
        state_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves),
        device_bytes=sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves),
        step_flops=3 * forward,
    )


def _flops(number: int) -> str:
    return f"{number / 1e12:,.1f} TFLOP" if number >= 1e12 else f"{number / 1e9:,.1f} GFLOP"


def format_bytes(number: int) -> str:
    """A number of bytes in GiB, or in MiB if it is smaller."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
