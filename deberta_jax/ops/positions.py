"""Relative positions as integers, computed on the host: log buckets and rows of the relative table."""

import numpy as np
from jaxtyping import Int


def log_bucket(
    distance: Int[np.ndarray, "*shape"], buckets: int, max_distance: int, *, clamp: bool = True
) -> Int[np.ndarray, "*shape"]:
    """Bucket of a distance: itself up to `buckets // 2`, then growing with its logarithm (He et al. 2021, DeBERTa v2).

    `buckets` < 1 leaves distances as they are. `clamp` first holds them to +-(max_distance - 1), as Microsoft's code
    does; without it they grow on beyond, as Hugging Face's do (spec 1.2, 1.9). float64 on the host, quotient first: in
    float32 under jit some sizes come out one bucket off.
    """
    distance = np.asarray(distance, np.int64)
    if buckets < 1:
        return distance
    if clamp:
        distance = np.clip(distance, 1 - max_distance, max_distance - 1)
    middle = buckets // 2
    size = np.abs(distance)
    far = np.maximum(size, middle).astype(np.float64)
    quotient = np.log(far / middle) / np.log((max_distance - 1) / middle)
    grown = (np.ceil(quotient * (middle - 1)) + middle).astype(np.int64)
    return np.where(size <= middle, distance, np.sign(distance) * grown)


def relative_index(
    query_length: int, key_length: int, *, buckets: int, max_distance: int, clamp: bool = True
) -> Int[np.ndarray, "W"]:
    """Row of the relative table for every distance between `query_length` queries and `key_length` keys.

    Entry w is distance `query_length - 1 - w`, so that query t meets key s at `w = query_length - 1 - t + s`: rows
    fall as w grows, W = query_length + key_length - 1. Row k (the span) is distance 0; a larger row is a key to the
    left of its query (spec 1.3).
    """
    span = buckets if buckets > 0 else max_distance
    distance = np.arange(query_length - 1, -key_length, -1)
    bucket = log_bucket(distance, buckets, max_distance, clamp=clamp)
    return np.clip(bucket + span, 0, 2 * span - 1).astype(np.int32)
