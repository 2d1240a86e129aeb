"""What a training step minimizes: sums of losses and weights over the examples of a batch, never means."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

ArrayBatch = Mapping[str, Array]
AnyModule = TypeVar("AnyModule", bound=nnx.Module)


class Sums(NamedTuple):
    """What an objective `(model, batch, key) -> Sums` returns: scalar sums over a batch, never means.

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> def squares(model, batch, key):
        ...     loss = jnp.sum(jnp.square(model - batch["x"]))
        ...     return dj.Sums(loss, jnp.asarray(1.0), jnp.asarray(1), {})
        >>> float(squares(1.0, {"x": jnp.array([3.0])}, None).loss)
        4.0
    """

    loss: Float[Array, ""]
    """The sum of the losses, each times the weight of its example; the step divides it by `weight`."""
    weight: Float[Array, ""]
    """The sum of the weights."""
    tokens: Int[Array, ""]
    """The number of tokens, for throughput."""
    metrics: dict[str, Float[Array, ""]]
    """Sums by name, which the step divides by `weight`."""
    rows: Mapping[str, Array] = {}
    """Arrays with one entry per row of the batch, which a later objective of the same step reads."""


# (model, batch, key) -> sums; without a key there is no dropout.
Objective = Callable[[AnyModule, ArrayBatch, PRNGKeyArray | None], Sums]
# (model, batch, number of the batch) -> sums without dropout, as a pytree of the method's choice.
BatchEvaluation = Callable[[Any, ArrayBatch, Any], Any]
