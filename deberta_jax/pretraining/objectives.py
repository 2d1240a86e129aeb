"""Objectives of pretraining: masked and auto-regressive language modeling."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.training.losses import cross_entropy
from deberta_jax.training.objective import ArrayBatch, Sums

# Positions of a sequence whose logits are in memory together.
CHUNK = 128


def masked_lm_objective(model: nnx.Module, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy and accuracy of a `MaskedLM` at the masked positions (Devlin et al. 2019, 3.1).

    Args:
        model: a `MaskedLM`.
        batch: `input_ids`, `segment_ids` and `position_ids` [B, T], and `masked_positions`, `labels` and
            `label_weights` [B, M], as from `mask_tokens`.
        key: applies dropout; None for none.

    Returns:
        `Sums` of the losses in nats, of the weights, of the tokens, and of "accuracy".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model, mask = dj.MaskedLM(dj.PRESETS["tiny"], key=jax.random.key(0)), jnp.array([[1, 2]])
        >>> batch = {"input_ids": jnp.array([[1, 4, 4, 2]]), "segment_ids": jnp.ones((1, 4), jnp.int32)}
        >>> batch |= {"position_ids": jnp.arange(4)[None], "masked_positions": mask, "labels": jnp.array([[7, 8]])}
        >>> batch |= {"label_weights": jnp.ones((1, 2))}
        >>> gradient = jax.grad(lambda model: dj.masked_lm_objective(model, batch, None).loss)
        >>> jax.eval_shape(gradient, model).head.bias.shape
        (8192,)
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


def causal_lm_objective(model: nnx.Module, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy and accuracy of a `MaskedLM` that predicts the next token (He et al. 2021, appendix A.4).

    The logits [B, T, V] exist for 128 positions at a time.

    Args:
        model: a `MaskedLM`.
        batch: `input_ids`, `segment_ids`, `position_ids`, `order`, `labels` and `label_weights` [B, T]: each position
            predicts its label and attends to the tokens that `order` lets it see.
        key: applies dropout; None for none.

    Returns:
        `Sums` of the losses in nats, of the weights, of the tokens, and of "accuracy".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model, positions = dj.MaskedLM(dj.PRESETS["tiny"], key=jax.random.key(0)), jnp.arange(4)[None]
        >>> batch = {"input_ids": jnp.array([[1, 7, 8, 9]]), "segment_ids": jnp.ones((1, 4), jnp.int32)}
        >>> batch |= {"position_ids": positions, "order": positions, "labels": jnp.array([[7, 8, 9, 2]])}
        >>> batch |= {"label_weights": jnp.ones((1, 4))}
        >>> jax.eval_shape(dj.causal_lm_objective, model, batch, None).loss.shape  # a scalar
        ()
    """
    inputs = {name: batch[name] for name in ("segment_ids", "position_ids", "order")}
    language_model: Any = model
    states = language_model.states(batch["input_ids"], **inputs, key=key)
    sums = predicted_sums(model, states, batch["labels"], batch["label_weights"])
    return sums._replace(tokens=jnp.sum(batch["segment_ids"] > 0))


def predicted_sums(
    model: Any, states: Float[Array, "B T D"], labels: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> Sums:
    """Cross entropy and accuracy of the labels that the states predict."""
    T = states.shape[1]
    chunks = -(-T // CHUNK)
    size = -(-T // chunks)

    def chunked(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, chunks * size - T), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def add(total: tuple[Array, Array], chunk: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        states, labels, weights = chunk
        logits = model.head(states, model.deberta.embeddings.word.embedding[...])
        correct = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
        loss = jnp.sum(weights * cross_entropy(logits, labels))
        return (total[0] + loss, total[1] + jnp.sum(jnp.where(correct, weights, 0))), None

    zero = jnp.zeros((), jnp.float32)
    (loss, correct), _ = jax.lax.scan(add, (zero, zero), tuple(map(chunked, (states, labels, weights))))
    return Sums(loss, jnp.sum(weights), jnp.asarray(weights.size), {"accuracy": correct})
