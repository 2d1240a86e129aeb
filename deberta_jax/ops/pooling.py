"""The states of the tokens of a text as one vector, in the ways of sentence-transformers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.precision import einsum, upcast


def pool(
    states: Float[Array, "B T D"],
    attention_mask: Bool[Array, "B T"],
    pooling: str,
    excluded: Int[Array, "B"] | None = None,
) -> Float[Array, "B D"]:
    """One vector per text, in float32 or wider; zero for a row without tokens.

    `excluded` is the number of tokens at the start of each text that are left out, those of a prompt. "mean" averages
    over tokens, "mean_sqrt_len" divides their sum by the square root of their number, "max" takes the maximum of each
    feature, "cls" the first token, "last" the last one. "weighted_mean" weights each token by its position, from 1.
    """
    position = jnp.cumsum(attention_mask.astype(jnp.int32), 1)
    mask = attention_mask
    if excluded is not None:
        mask = mask & (position > excluded[:, None])
    return _POOLING[pooling](upcast(states), mask, position)


def _mean(states: Array, mask: Array, position: Array) -> Array:
    return _weighted_sum(states, mask.astype(states.dtype), 1.0)


def _mean_sqrt_len(states: Array, mask: Array, position: Array) -> Array:
    return _weighted_sum(states, mask.astype(states.dtype), 0.5)


def _weighted_mean(states: Array, mask: Array, position: Array) -> Array:
    return _weighted_sum(states, jnp.where(mask, position, 0).astype(states.dtype), 1.0)


def _weighted_sum(states: Array, weights: Array, power: float) -> Array:
    """The weighted sum of the states, divided by this power of the sum of the weights."""
    total = jnp.maximum(weights.sum(1, keepdims=True), jnp.ones((), states.dtype))
    return einsum("BTD,BT->BD", states, weights / total**power)


def _max(states: Array, mask: Array, position: Array) -> Array:
    highest = jnp.where(mask[..., None], states, -jnp.inf).max(1)
    return jnp.where(mask.any(1)[:, None], highest, jnp.zeros((), states.dtype))


def _first(states: Array, mask: Array, position: Array) -> Array:
    return _at(states, mask, mask.argmax(1))


def _last(states: Array, mask: Array, position: Array) -> Array:
    return _at(states, mask, mask.shape[1] - 1 - mask[:, ::-1].argmax(1))


def _at(states: Array, mask: Array, index: Array) -> Array:
    selected = jnp.take_along_axis(states, index[:, None, None], 1)[:, 0]
    return jnp.where(mask.any(1)[:, None], selected, jnp.zeros((), states.dtype))


def masked_softmax(scores: Float[Array, "*batch T"], mask: Bool[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """The softmax over the entries that the mask allows; 0 for the others, and for a row without any."""
    lowest = jnp.asarray(jnp.finfo(scores.dtype).min, scores.dtype)
    weights = jax.nn.softmax(jnp.where(mask, scores, lowest), axis=-1)
    return jnp.where(mask, weights, jnp.zeros((), scores.dtype))


def mean_over_windows(
    logits: Float[Array, "B M C"], scores: Float[Array, "B M"], mask: Bool[Array, "B M"]
) -> Float[Array, "B C"]:
    """The mean of the logits of the windows of each text, weighted by the softmax of their scores."""
    return einsum("BMC,BM->BC", logits, masked_softmax(scores, mask))


def max_over_windows(
    logits: Float[Array, "B M C"], scores: Float[Array, "B M"], mask: Bool[Array, "B M"]
) -> Float[Array, "B C"]:
    """The highest logit of each class over the windows of each text; 0 for a text without windows."""
    highest = jnp.where(mask[..., None], logits, -jnp.inf).max(1)
    return jnp.where(mask.any(1)[:, None], highest, jnp.zeros((), logits.dtype))


# Without trained scores all scores are equal.
WINDOW_POOLING: dict[str, Callable[[Array, Array, Array], Array]] = {
    "mean": mean_over_windows,
    "max": max_over_windows,
    "attention": mean_over_windows,
}
_POOLING: dict[str, Callable[[Array, Array, Array], Array]] = {
    "mean": _mean,
    "cls": _first,
    "max": _max,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last": _last,
}
