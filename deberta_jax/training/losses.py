"""Losses of the heads, per example, token or entity. The caller weights and sums them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.precision import upcast


def cross_entropy(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Negative log-likelihood of the label, in float32 or wider.

    The label's logit is selected by comparison, not by a gather, so that a sharded vocabulary stays sharded. A label
    outside the classes selects no logit.
    """
    logits = upcast(logits)
    is_label: Bool[Array, "*B V"] = labels.astype(jnp.int32)[..., None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_label, logits, 0), axis=-1)


def soft_cross_entropy(logits: Float[Array, "*B C"], targets: Float[Array, "*B C"]) -> Float[Array, "*B"]:
    """Cross entropy against a distribution over the classes (docs/numerics.md, "Heads and losses")."""
    logits = upcast(logits)
    return -jnp.sum(targets.astype(logits.dtype) * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def binary_cross_entropy(logits: Float[Array, "*B"], targets: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Binary cross entropy of a logit against a target in [0, 1], without overflow for any logit."""
    logits = upcast(logits)
    return jax.nn.softplus(logits) - targets.astype(logits.dtype) * logits


def focal_cross_entropy(
    logits: Float[Array, "*B C"], targets: Float[Array, "*B C"], gamma: float
) -> Float[Array, "*B"]:
    """Cross entropy against a distribution, in which class c counts (1 - p_c)^gamma times (Lin et al. 2017)."""
    log_p = jax.nn.log_softmax(upcast(logits), axis=-1)
    # The power of 0 has no gradient.
    log_rest = jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
    return -jnp.sum(targets.astype(log_p.dtype) * jnp.exp(gamma * log_rest) * log_p, axis=-1)


def binary_focal_cross_entropy(
    logits: Float[Array, "*B"], targets: Float[Array, "*B"], gamma: float
) -> Float[Array, "*B"]:
    """Binary cross entropy in which an outcome of probability p counts (1 - p)^gamma times (Lin et al. 2017)."""
    logits = upcast(logits)
    log_p, log_rest, targets = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits), targets.astype(logits.dtype)
    return -targets * jnp.exp(gamma * log_rest) * log_p - (1 - targets) * jnp.exp(gamma * log_p) * log_rest


def squared_error(predictions: Float[Array, "*B"], targets: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Squared difference, for regression (docs/numerics.md, "Heads and losses")."""
    predictions = upcast(predictions)
    return jnp.square(predictions - targets.astype(predictions.dtype))
