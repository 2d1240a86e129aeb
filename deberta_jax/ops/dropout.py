"""Dropout by a hash of each entry's position: no state, no memory, the same on every device and for every sharding."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from deberta_jax.ops.hashing import Start, flat_index, mix_bits

Words = tuple[UInt32[Array, ""], UInt32[Array, ""]]


def dropout(x: Float[Array, "*shape"], rate: float, *, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Set entries to zero with probability `rate` and scale the others by 1 / (1 - rate); `x` itself without a key."""
    if key is None or rate == 0.0:
        return x
    return drop(x, rate, keep_mask(x.shape, rate, seed=dropout_seed(key)))


def drop(x: Float[Array, "*shape"], rate: float, keep: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Set entries to zero where `keep` is False and scale the others by 1 / (1 - rate)."""
    return x * jnp.where(keep, jnp.asarray(1 / (1 - rate), x.dtype), 0)


def dropout_seed(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """The seed that `keep_mask` takes, from a key."""
    return jax.random.bits(key, (2,), jnp.uint32)


def keep_mask(
    shape: tuple[int, ...],
    rate: float,
    *,
    seed: UInt32[Array, "2"] | Words,
    full_shape: tuple[int, ...] | None = None,
    start: tuple[Start, ...] | None = None,
    transposed: bool = False,
) -> Bool[Array, "..."]:
    """True with probability 1 - `rate`, a function of seed and position; other arguments as in `flat_index`.

    About 20 integer operations, which XLA fuses into the consumer. JAX's default generator takes about a hundred and
    writes its bits to memory on CPU.
    """
    # The seed enters on each axis: XLA computes what depends on shapes alone before a scan and keeps it in memory.
    start = tuple(jnp.asarray(first).astype(jnp.uint32) + seed[0] for first in start or (0,) * len(shape))
    return keep_at(flat_index(shape, full_shape, start, transposed), rate, seed[1])


def keep_at(index: UInt32[Array, "*shape"], rate: float, word: UInt32[Array, ""]) -> Bool[Array, "*shape"]:
    """True with probability 1 - `rate`, a function of a flat index and of the second word of a seed."""
    return mix_bits(mix_bits(index) ^ word) >= np.uint32(round(rate * 2**32))
