"""Random tensors for tests of attention, and the table row of a distance."""

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.positions import log_bucket, relative_index

B, N, H, BUCKETS, DISTANCE = 2, 2, 4, 8, 24
R = 2 * BUCKETS


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def index_for(T, S):
    return relative_index(T, S, buckets=BUCKETS, max_distance=DISTANCE)


def row(t, s):
    return int(np.clip(log_bucket(np.asarray(t - s), BUCKETS, DISTANCE) + BUCKETS, 0, R - 1))


def make_tensors(T=12, S=None, dtype=jnp.float32):
    S = S or T
    tensors = (
        normal(0, B, T, N, H),
        normal(1, B, S, N, H),
        normal(2, B, S, N, H),
        normal(3, R, N, H),
        normal(4, R, N, H),
    )
    return tuple(x.astype(dtype) for x in tensors), index_for(T, S)
