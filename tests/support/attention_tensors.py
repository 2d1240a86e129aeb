"""Random tensors for tests of attention, the table row of a distance, and devices that this machine does not have."""

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.positions import log_bucket, relative_index

B, N, H, BUCKETS, DISTANCE = 2, 2, 4, 8, 24
R = 2 * BUCKETS


def normal(seed, *shape, dtype=jnp.float32):
    # Drawn by numpy, so that nothing is compiled.
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype), dtype)


def index_for(T, S):
    return relative_index(T, S, buckets=BUCKETS, max_distance=DISTANCE)


def row(t, s):
    return int(np.clip(log_bucket(np.asarray(t - s), BUCKETS, DISTANCE) + BUCKETS, 0, R - 1))


def make_tensors(T=12, S=None, dtype=jnp.float32):
    S = S or T
    shapes = (B, T, N, H), (B, S, N, H), (B, S, N, H), (R, N, H), (R, N, H)
    return tuple(normal(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes)), index_for(T, S)


def on_device(kind, platform):
    """A context in which programs are traced for one device."""
    device = jax.sharding.AbstractDevice(kind, 1, platform)
    axes = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.sharding.AbstractMesh((1, 1, 1), ("data", "fsdp", "tensor"), axes, abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)
