"""Relative positions as integers, computed on the host: log buckets and rows of the relative table."""

import numpy as np
from jaxtyping import Int


def log_bucket(
    distance: Int[np.ndarray, "*shape"], buckets: int, max_distance: int, *, clamp: bool = True
) -> Int[np.ndarray, "*shape"]:
    """The bucket of a distance: exact up to `buckets // 2`, then logarithmic (He et al. 2021, DeBERTa v2).

    Computed in float64 on the host: in jitted float32 some sizes are off by one bucket. A `max_distance` up to
    `buckets // 2 + 1` leaves no distance for logarithmic buckets: each distance has its own, and further ones share the
    last (docs/numerics.md, "Relative positions and buckets").

    Args:
        distance: distances t - s in tokens, integers of any shape [...].
        buckets: the number of buckets; below 1, distances are returned unchanged.
        max_distance: M, the distance in tokens at which buckets end.
        clamp: limit distances to +-(M - 1) first, as Microsoft's code does; without it buckets keep growing, as in
            Hugging Face.

    Returns:
        Buckets [...], negative for keys to the right of the query, as a numpy array of the shape of `distance`.

    Raises:
        ValueError: 1 bucket, or a `max_distance` below 1.

    Example:
        >>> import numpy as np
        >>> import deberta_jax as dj
        >>> dj.log_bucket(np.array([-100, -2, 0, 2, 6, 12, 100]), buckets=8, max_distance=32).tolist()
        [-7, -2, 0, 2, 5, 6, 7]
    """
    distance = np.asarray(distance, np.int64)
    if buckets < 1:
        return distance
    if buckets == 1:
        raise ValueError("buckets is 1, which cannot represent a sign: use at least 2, or 0 for no buckets")
    if max_distance < 1:
        raise ValueError(f"max_distance is {max_distance}, expected at least 1")
    if clamp:
        distance = np.clip(distance, 1 - max_distance, max_distance - 1)
    middle = buckets // 2
    if max_distance <= middle + 1:
        # The logarithm of the maximum distance over `middle` would be the denominator: 0 or negative.
        return np.clip(distance, -middle, middle)
    size = np.abs(distance)
    far = np.maximum(size, middle).astype(np.float64)
    quotient = np.log(far / middle) / np.log((max_distance - 1) / middle)
    far_bucket = (np.ceil(quotient * (middle - 1)) + middle).astype(np.int64)
    return np.where(size <= middle, distance, np.sign(distance) * far_bucket)


def relative_index(
    query_length: int, key_length: int, *, buckets: int, max_distance: int, clamp: bool = True
) -> Int[np.ndarray, "W"]:
    """The row of the relative table for each distance between a query and a key, the largest distance first.

    Entry w is the distance t - s = query_length - 1 - w, so query t and key s meet at w = query_length - 1 - t + s. Row
    k (half the rows) is distance 0; larger rows are keys to the left of the query (docs/numerics.md, "Relative
    positions and buckets").

    Args:
        query_length: the number of queries T.
        key_length: the number of keys S.
        buckets: the number of buckets, `position_buckets` of a config; below 1, each distance has a row.
        max_distance: M, in tokens.
        clamp: as for `log_bucket`.

    Returns:
        Rows of a table with R = 2 x buckets rows (2 M without buckets), a numpy array [T + S - 1].

    Raises:
        ValueError: 1 bucket, or a `max_distance` below 1.

    Example:
        >>> import deberta_jax as dj
        >>> dj.relative_index(3, 4, buckets=4, max_distance=16).tolist()
        [6, 5, 4, 3, 2, 1]
    """
    if buckets < 1 and max_distance < 1:
        raise ValueError(f"max_distance is {max_distance}, expected at least 1 without buckets")
    span = buckets if buckets > 0 else max_distance
    distance = np.arange(query_length - 1, -key_length, -1)
    bucket = log_bucket(distance, buckets, max_distance, clamp=clamp)
    return np.clip(bucket + span, 0, 2 * span - 1).astype(np.int32)
