"""What is minimised: sums of losses and weights over the examples of a batch, never means."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.training.losses import cross_entropy

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
