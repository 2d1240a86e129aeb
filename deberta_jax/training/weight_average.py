"""An exponential moving average of the trained parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


class WeightAverage(NamedTuple):
    """How weights are averaged: `decay`, and the parameters that are trained, by default all.

    `trainable` returns a tree like the model with True for those parameters. The average starts as the initial weights.
    Update t uses the decay min(decay, (1 + t) / (10 + t)), so that the initial weights are forgotten soon
    (TensorFlow's `ExponentialMovingAverage` with `num_updates`; Polyak and Juditsky 1992).
    """

    decay: float
    trainable: Callable[[Any], Any] | None = None

    def init(self, model: Any) -> Any:
        """A copy of the trained parameters; the others are absent."""
        if self.trainable is None:
            return jax.tree.map(jnp.copy, model)
        return jax.tree.map(lambda x, keep: jnp.copy(x) if keep else optax.MaskedNode(), model, self.trainable(model))

    def update(self, average: Any, model: Any, num_updates: Int[Array, ""]) -> Any:
        """The average after update number `num_updates`, counted from 1, which led to `model`."""
        t = num_updates.astype(jnp.float32)
        share = 1 - jnp.minimum(self.decay, (1 + t) / (10 + t))
        return jax.tree.map(
            lambda a, x: a if _is_absent(a) else a + share.astype(a.dtype) * (x - a), average, model, is_leaf=_is_absent
        )


def averaged_model(average: Any, model: Any) -> Any:
    """The model with the averaged parameters; parameters that are not trained are its own."""
    return jax.tree.map(lambda a, x: x if _is_absent(a) else a, average, model, is_leaf=_is_absent)


def _is_absent(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
