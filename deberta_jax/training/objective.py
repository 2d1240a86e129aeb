"""What a training step minimizes: sums of losses and weights over the examples of a batch, never means."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

ArrayBatch = Mapping[str, Array]
AnyModule = TypeVar("AnyModule", bound=nnx.Module)


class Sums(NamedTuple):
    """Sums over a batch: the loss, its weight, the number of tokens, and metrics to divide by the same weight.

    `rows` holds arrays with one entry per row of the batch, which a later objective of the same step reads.
    """

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    tokens: Int[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    rows: Mapping[str, Array] = {}


# (model, batch, key) -> sums; without a key there is no dropout.
Objective = Callable[[AnyModule, ArrayBatch, PRNGKeyArray | None], Sums]
# (model, batch, number of the batch) -> sums without dropout, as a pytree of the method's choice.
BatchEvaluation = Callable[[Any, ArrayBatch, Any], Any]
