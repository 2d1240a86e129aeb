"""How large a run is, known before it begins."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from deberta_jax.training.flops import count_flops
from deberta_jax.training.objective import Evaluate
from deberta_jax.training.state import TrainState


class Sizes(NamedTuple):
    """Numbers of parameters and of FLOPs in a step, bytes of the state in all and on one device."""

    parameters: int
    state_bytes: int
    device_bytes: int
    step_flops: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters; parameters and optimizer {_bytes(self.state_bytes)}, "
            f"{_bytes(self.device_bytes)} on each device; {_flops(self.step_flops)} a step"
        )


def sizes(evaluate: Evaluate, abstract: TrainState, batch: Mapping[str, Any]) -> Sizes:
    """Counted from shapes and shardings alone, `batch` may be of `ShapeDtypeStruct`s: nothing is allocated.

    A step counts, by convention, three forward passes: what remat computes again is no work of the model's.
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


def _bytes(number: int) -> str:
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
