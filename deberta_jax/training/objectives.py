"""What is minimised: sums of losses and weights over the examples of a batch, never means."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Batch = Mapping[str, Array]


class Sums(NamedTuple):
    """Over a batch: the loss, its weight, the tokens read, and what else is reported as a mean over that weight."""

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    tokens: Int[Array, ""]
    metrics: dict[str, Float[Array, ""]]


Objective = Callable[[nnx.Module, Batch, PRNGKeyArray | None], Sums]


def masked_lm(model: nnx.Module, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy and accuracy at the masked positions (Devlin et al. 2019, 3.1); without `key`, without dropout."""
    logits = model(
        batch["input_ids"],
        masked_positions=batch["masked_positions"],
        segment_ids=batch["segment_ids"],
        position_ids=batch["position_ids"],
        key=key,
    )
    labels, weights = batch["labels"], batch["label_weights"]
    correct = jnp.argmax(logits, axis=-1) == labels
    return Sums(
        loss=jnp.sum(weights * cross_entropy(logits, labels)),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["segment_ids"] > 0),
        metrics={"accuracy": jnp.sum(jnp.where(correct, weights, 0))},
    )


def cross_entropy(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Minus the logarithm of the label's probability, in float32.

    The label's logit is picked by comparison, not by a gather, so that a vocabulary split over devices stays split.
    """
    logits = logits.astype(jnp.float32)
    is_label: Bool[Array, "*B V"] = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
