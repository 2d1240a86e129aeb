"""Losses of replaced-token detection: the generator's, the discriminator's, and the tokens that pass between them.

See docs/numerics.md, "Replaced-token detection" (He, Gao and Chen 2023, 2.3).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.ops.sampling import sample
from deberta_jax.pretraining.objectives import masked_logits, masked_sums
from deberta_jax.sharding import constrain
from deberta_jax.training.losses import binary_cross_entropy
from deberta_jax.training.objective import ArrayBatch, Sums


def add_draws(batch: ArrayBatch, key: PRNGKeyArray) -> ArrayBatch:
    """Add the random numbers that the generator samples with; they do not depend on how the batch is sharded."""
    draws = jax.random.uniform(key, (*batch["labels"].shape, 2))
    return {**batch, "draws": constrain(draws, "batch", None, None)}


def generator_objective(generator: MaskedLM, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """The masked-LM loss, and in `rows["sampled"]` a token per masked position, sampled at temperature 1."""
    logits = masked_logits(generator, batch, key)
    return masked_sums(logits, batch)._replace(rows={"sampled": sample(logits, batch["draws"])})


def replace_tokens(batch: ArrayBatch, sampled: Int[Array, "B M"]) -> ArrayBatch:
    """The discriminator's input: sampled tokens at the masked positions, and where they are wrong.

    A sampled token that equals the original counts as not replaced (Clark et al. 2020, 2; He, Gao and Chen 2023, 2.3).

    Args:
        batch: `input_ids` [B, T], and `masked_positions`, `labels` and `label_weights` [B, M], as for
            `masked_lm_objective`.
        sampled: ids from the generator [B, M].

    Returns:
        The batch with other `input_ids` [B, T], and with `replaced` [B, T].

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> batch = {"input_ids": jnp.array([[1, 4, 4, 2]]), "masked_positions": jnp.array([[1, 2]])}
        >>> batch |= {"labels": jnp.array([[7, 8]]), "label_weights": jnp.ones((1, 2))}
        >>> batch = dj.replace_tokens(batch, jnp.array([[7, 9]]))
        >>> batch["input_ids"].tolist(), batch["replaced"].tolist()
        ([[1, 7, 9, 2]], [[False, False, True, False]])
    """
    ids = batch["input_ids"]
    used = batch["label_weights"] > 0
    # Unused slots get a position beyond the sequence, which mode "drop" ignores.
    positions = jnp.where(used, batch["masked_positions"], ids.shape[1])
    rows = jnp.arange(ids.shape[0], dtype=positions.dtype)[:, None]
    input_ids = ids.at[rows, positions].set(sampled.astype(ids.dtype), mode="drop")
    replaced = jnp.zeros(ids.shape, bool).at[rows, positions].set(sampled != batch["labels"], mode="drop")
    return {**batch, "input_ids": constrain(input_ids, "batch", None), "replaced": constrain(replaced, "batch", None)}


def discriminator_objective(model: ReplacedTokenDetection, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """Binary cross entropy of a discriminator over all real tokens (He, Gao and Chen 2023, 2.3), [CLS] and [SEP] too.

    Args:
        model: a `ReplacedTokenDetection`, such as `pair.detector()`.
        batch: the result of `replace_tokens`, with `segment_ids` and `position_ids` [B, T].
        key: applies dropout; None for none.

    Returns:
        `Sums` of the losses in nats, of the real tokens, and of the "replaced" ones.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.ReplacedTokenDetection(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> batch = {"input_ids": jnp.array([[1, 7, 9, 2]]), "replaced": jnp.array([[False, False, True, False]])}
        >>> batch |= {"segment_ids": jnp.ones((1, 4), jnp.int32), "position_ids": jnp.arange(4)[None]}
        >>> sorted(jax.eval_shape(dj.discriminator_objective, model, batch, None).metrics)
        ['replaced']
    """
    logits = model(batch["input_ids"], segment_ids=batch["segment_ids"], position_ids=batch["position_ids"], key=key)
    return detection_sums(logits, batch)


def detection_sums(logits: Float[Array, "B T"], batch: ArrayBatch) -> Sums:
    """Sums of the binary cross entropy of logits, and the number of replaced tokens."""
    real = batch["segment_ids"] > 0
    losses = binary_cross_entropy(logits, batch["replaced"].astype(logits.dtype))
    return Sums(
        loss=jnp.sum(jnp.where(real, losses, 0)),
        weight=jnp.sum(real).astype(losses.dtype),
        tokens=jnp.sum(real),
        metrics={"replaced": jnp.sum(jnp.where(real, batch["replaced"], False)).astype(losses.dtype)},
    )
