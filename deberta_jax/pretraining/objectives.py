"""Objectives of pretraining: masked language modeling."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.training.losses import cross_entropy
from deberta_jax.training.objective import ArrayBatch, Sums


def masked_lm_objective(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy and accuracy of a `MaskedLM` at the masked positions (Devlin et al. 2019, 3.1).

    The batch has `input_ids`, `segment_ids` and `position_ids` [B, T], and `masked_positions`, `labels` and
    `label_weights` [B, M]. Dropout is applied if `key` is given. Returns the sums of the losses, of the weights, of the
    tokens, and of "accuracy".
    """
    return masked_sums(masked_logits(model, batch, key), batch)


def masked_logits(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Float[Array, "B M V"]:
    """The logits of a masked language model at the masked positions of packed sequences."""
    return model(
        batch["input_ids"],
        masked_positions=batch["masked_positions"],
        segment_ids=batch["segment_ids"],
        position_ids=batch["position_ids"],
        key=key,
    )


def masked_sums(logits: Float[Array, "B M V"], batch: ArrayBatch) -> Sums:
    """Cross entropy and accuracy of logits at the masked positions."""
    labels, weights = batch["labels"], batch["label_weights"]
    correct = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    return Sums(
        loss=jnp.sum(weights * cross_entropy(logits, labels)),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["segment_ids"] > 0),
        metrics={"accuracy": jnp.sum(jnp.where(correct, weights, 0))},
    )
