"""The losses of the heads, for each example, token or entity; what is left out has weight 0 and is for the caller."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.precision import accumulation_dtype


def cross_entropy(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Minus the logarithm of the label's probability, in float32 or wider.

    The label's logit is picked by comparison, not by a gather, so that a vocabulary split over devices stays split. A
    label that is no class picks nothing.
    """
    logits = logits.astype(accumulation_dtype(logits.dtype))
    is_label: Bool[Array, "*B V"] = labels.astype(jnp.int32)[..., None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_label, logits, 0), axis=-1)


def soft_cross_entropy(logits: Float[Array, "*B C"], targets: Float[Array, "*B C"]) -> Float[Array, "*B"]:
    """Cross entropy against a distribution (spec 2.5)."""
    logits = logits.astype(accumulation_dtype(logits.dtype))
    return -jnp.sum(targets.astype(logits.dtype) * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def binary_cross_entropy(logits: Float[Array, "*B"], targets: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Cross entropy of a yes or no against its probability, of any logit without overflow."""
    logits = logits.astype(accumulation_dtype(logits.dtype))
    return jax.nn.softplus(logits) - targets.astype(logits.dtype) * logits


def squared_error(predicted: Float[Array, "*B"], targets: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The square of the difference, for regression (spec 2.5)."""
    predicted = predicted.astype(accumulation_dtype(predicted.dtype))
    return jnp.square(predicted - targets.astype(predicted.dtype))
