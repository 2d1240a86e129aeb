"""What is minimised: sums of losses and weights over the examples of a batch, never means."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.training.losses import cross_entropy

Batch = Mapping[str, Array]
ArrayBatch = Batch


class Sums(NamedTuple):
    """Over a batch: the loss, its weight, the tokens read, and what else is reported as a mean over that weight.

    `rows` is what is found for each row of the batch and goes into it for what is computed next.
    """

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    tokens: Int[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    rows: Mapping[str, Array] = {}


Objective = Callable[[Any, Batch, PRNGKeyArray | None], Sums]
# Sums of the batch of a number, without dropout.
Evaluate = Callable[[Any, Batch, Any], Any]


def masked_lm(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy and accuracy at the masked positions (Devlin et al. 2019, 3.1); without `key`, without dropout."""
    return masked_sums(masked_logits(model, batch, key), batch)


def masked_logits(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B M V"]:
    """What a masked language model expects at the masked positions of packed rows."""
    return model(
        batch["input_ids"],
        masked_positions=batch["masked_positions"],
        segment_ids=batch["segment_ids"],
        position_ids=batch["position_ids"],
        key=key,
    )


def masked_sums(logits: Float[Array, "B M V"], batch: Batch) -> Sums:
    """Cross entropy and accuracy of those logits."""
    labels, weights = batch["labels"], batch["label_weights"]
    correct = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    return Sums(
        loss=jnp.sum(weights * cross_entropy(logits, labels)),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["segment_ids"] > 0),
        metrics={"accuracy": jnp.sum(jnp.where(correct, weights, 0))},
    )
