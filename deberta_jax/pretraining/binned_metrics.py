"""ROC AUC and average precision from histograms of scores, which can be summed over batches."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt32

BINS = 1 << 20


def bin_counts(scores: Float[Array, "*B"], selected: Bool[Array, "*B"]) -> Int32[Array, "K"]:
    """Number of selected scores in each of 2^20 bins: the upper 20 bits of the score as a float32.

    These bits are the sign, the exponent and 11 bits of the fraction, so scores that differ by less than one part in
    2,048 may share a bin.
    """
    scores = scores.astype(jnp.float32)
    # Maps -0.0 to 0.0, so that both have one bin.
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    # Flipping all bits of negative numbers and the sign of others makes the order of the integers that of the scores.
    negative = bits >> 31
    ascending: UInt32[Array, "*B"] = bits ^ jnp.where(negative == 1, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))
    bins = (ascending >> 12).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[bins.reshape(-1)].add(selected.reshape(-1).astype(jnp.int32))


def roc_auc(positives: Float[np.ndarray, "K"], negatives: Float[np.ndarray, "K"]) -> float:
    """Probability that a positive scores above a negative; ties count half. NaN without positives or negatives."""
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float(np.sum(positives * (below + negatives / 2)) / pairs) if pairs else float("nan")


def average_precision(positives: Float[np.ndarray, "K"], negatives: Float[np.ndarray, "K"]) -> float:
    """Mean of the precision at each bin, weighted by the recall that the bin adds. NaN without positives."""
    true_positives = np.cumsum(positives[::-1])
    predicted = np.cumsum((positives + negatives)[::-1])
    precision = true_positives / np.maximum(predicted, 1)
    total = positives.sum()
    return float(np.sum(precision * positives[::-1]) / total) if total else float("nan")
