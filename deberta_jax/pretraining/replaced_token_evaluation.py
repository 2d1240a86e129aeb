"""Evaluation of a generator and a discriminator on held-out text, and the warning about a collapsed discriminator."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deberta_jax.model.pair import ReplacedTokenPair
from deberta_jax.pretraining.binned_metrics import average_precision, bin_counts, roc_auc
from deberta_jax.pretraining.replaced_token_losses import (
    add_draws,
    detection_sums,
    generator_objective,
    replace_tokens,
)
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.objective import ArrayBatch, Sums
from deberta_jax.training.schedules import number_of_steps

# A discriminator below the first ranks tokens by chance; below the second all tokens have nearly the same state.
MIN_AUC, MIN_SPREAD = 0.55, 0.01


class PairSums(NamedTuple):
    """Sums over held-out text.

    Both losses; histograms of the discriminator's logits [K] for replaced and for original tokens; the sum of its last
    hidden states [D] and of their squares.
    """

    generator: Sums
    discriminator: Sums
    replaced_bins: Any
    original_bins: Any
    state_sum: Any
    square_sum: Any


def evaluate_pair(pair: ReplacedTokenPair, batch: ArrayBatch, number: int | Array) -> PairSums:
    """Sums of a held-out batch; the sampled tokens depend on the batch's number only, so evaluations are comparable."""
    batch = add_draws(batch, jax.random.fold_in(jax.random.key(0), number))
    generator_sums = generator_objective(pair.generator, batch, None)
    batch = replace_tokens(batch, generator_sums.rows["sampled"])
    model = pair.detector()
    states = model.deberta(
        batch["input_ids"], segment_ids=batch["segment_ids"], position_ids=batch["position_ids"]
    ).last_hidden_state
    logits = model.head(states, batch["position_ids"])
    real = batch["segment_ids"] > 0
    states = jnp.where(real[..., None], states.astype(jnp.float32), 0)
    return PairSums(
        generator_sums._replace(rows={}),
        detection_sums(logits, batch),
        bin_counts(logits, real & batch["replaced"]),
        bin_counts(logits, real & ~batch["replaced"]),
        jnp.sum(states, axis=(0, 1)),
        jnp.sum(jnp.square(states)),
    )


def summarize(sums: PairSums) -> dict[str, float]:
    """The held-out metrics.

    `gain` is how much lower `discriminator_loss` is than the loss of the best constant prediction, in nats: the entropy
    of `replaced`, the share of replaced tokens. `auc` and `average_precision` rate the ranking of replaced tokens above
    original ones. `spread` is the part of the mean square of the discriminator's last hidden states that differs
    between tokens: 0 if all tokens have the same state.
    """
    generator_loss = float(sums.generator.loss / sums.generator.weight)
    discriminator_loss = float(sums.discriminator.loss / sums.discriminator.weight)
    replaced = float(sums.discriminator.metrics["replaced"] / sums.discriminator.weight)
    tokens = sums.discriminator.weight
    mean_square = float(sums.square_sum / tokens)
    return {
        "generator_loss": generator_loss,
        "generator_perplexity": math.exp(min(generator_loss, 700)),
        "generator_accuracy": float(sums.generator.metrics["accuracy"] / sums.generator.weight),
        "discriminator_loss": discriminator_loss,
        "gain": prior_loss(replaced) - discriminator_loss,
        "replaced": replaced,
        "auc": roc_auc(sums.replaced_bins, sums.original_bins),
        "average_precision": average_precision(sums.replaced_bins, sums.original_bins),
        "spread": 1 - float(np.sum(np.square(sums.state_sum / tokens))) / mean_square if mean_square else 0.0,
    }


def prior_loss(share: float) -> float:
    """Binary cross entropy of predicting `share` for every token, the best constant, in nats."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


def collapse_warning(training: TrainingConfig, step: int, metrics: Mapping[str, float]) -> str | None:
    """One line if the discriminator does not tell tokens apart after the warm-up, else None."""
    if step <= number_of_steps(training.optimizer.warmup, training.steps):
        return None
    signs = []
    # Negated comparisons, so that NaN counts as a failure.
    if not metrics["auc"] >= MIN_AUC:
        signs.append(f"AUC {metrics['auc']:.3f}, chance is 0.5")
    if collapsed := not metrics["spread"] >= MIN_SPREAD:
        signs.append(f"all tokens have nearly the same state (spread {metrics['spread']:.4f})")
    if not signs:
        return None
    verdict = "has collapsed" if collapsed else "has collapsed, or is still untrained"
    return f"the discriminator {verdict}: {', '.join(signs)}; lower the learning rate or lengthen the warm-up"
