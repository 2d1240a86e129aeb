"""How well scores tell two kinds apart, from counts of each kind in bins of scores, which add up over batches."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt32

BINS = 1 << 20


def counts(scores: Float[Array, "*B"], chosen: Bool[Array, "*B"]) -> Int32[Array, "K"]:
    """How many chosen scores fall into each bin: 2^20 of them, by the upper 20 bits of the score as a float32.

    Sign, exponent and 11 bits of fraction: scores nearer to each other than one part in 2,048 may share a bin.
    """
    scores = scores.astype(jnp.float32)
    # There are two zeros.
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    # Ascending scores have ascending keys: of a negative number every bit is turned, of others the sign.
    negative = bits >> 31
    ascending: UInt32[Array, "*B"] = bits ^ jnp.where(negative == 1, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))
    bins = (ascending >> 12).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[bins.reshape(-1)].add(chosen.reshape(-1).astype(jnp.int32))


def roc_auc(positives: Float[np.ndarray, "K"], negatives: Float[np.ndarray, "K"]) -> float:
    """The chance that a positive scores above a negative, equal bins counting half; NaN where one kind is absent."""
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float(np.sum(positives * (below + negatives / 2)) / pairs) if pairs else float("nan")


def average_precision(positives: Float[np.ndarray, "K"], negatives: Float[np.ndarray, "K"]) -> float:
    """The mean of the precision down to each bin, weighed by the recall that the bin adds; NaN without positives."""
    found, taken = np.cumsum(positives[::-1]), np.cumsum((positives + negatives)[::-1])
    precision = found / np.maximum(taken, 1)
    total = positives.sum()
    return float(np.sum(precision * positives[::-1]) / total) if total else float("nan")
