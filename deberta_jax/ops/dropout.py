"""Dropout by a hash of each entry's position: no state, no memory, the same on every device and however it is split."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32


def dropout(x: Float[Array, "*shape"], rate: float, *, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Zero entries with probability `rate` and scale the rest up; `x` itself without a key (spec 2.6)."""
    if key is None or rate == 0.0:
        return x
    return drop(x, rate, keep_mask(x.shape, rate, seed=seed(key)))


def drop(x: Float[Array, "*shape"], rate: float, keep: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zero what is not kept and scale the rest up by 1 / (1 - rate)."""
    return x * jnp.where(keep, jnp.asarray(1 / (1 - rate), x.dtype), 0)


def seed(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """What `keep_mask` needs of a key."""
    return jax.random.bits(key, (2,), jnp.uint32)


Words = tuple[UInt32[Array, ""], UInt32[Array, ""]]
Start = int | Int[Array, ""] | UInt32[Array, ""]


def keep_mask(
    shape: tuple[int, ...],
    rate: float,
    *,
    seed: UInt32[Array, "2"] | Words,
    within: tuple[int, ...] | None = None,
    start: tuple[Start, ...] | None = None,
) -> Bool[Array, "..."]:
    """True with probability 1 - `rate`, a function of the position and the seed; `within` and `start` as `positions`.

    Some 20 integer operations that fuse into what uses them, where the default generator of JAX takes a hundred and,
    on CPU, passes through memory.
    """
    # The seed enters on each axis: what hangs on shapes alone is computed before a scan, and then kept whole.
    start = tuple(jnp.asarray(first).astype(jnp.uint32) + seed[0] for first in start or (0,) * len(shape))
    return mix_bits(mix_bits(positions(shape, within, start)) ^ seed[1]) >= np.uint32(round(rate * 2**32))


def positions(
    shape: tuple[int, ...],
    within: tuple[int, ...] | None = None,
    start: tuple[Start, ...] | None = None,
) -> UInt32[Array, "..."]:
    """The number, modulo 2^32, of each entry of an array in row-major order.

    With `within` and `start`, of a block that begins at `start` in an array of shape `within`.
    """
    within, start = within or shape, start or (0,) * len(shape)
    number, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = tuple(size if other == axis else 1 for other, size in enumerate(shape))
        index = jax.lax.broadcasted_iota(jnp.uint32, along, axis) + jnp.asarray(start[axis]).astype(jnp.uint32)
        number = number + index * np.uint32(stride % 2**32)
        stride *= within[axis]
    return number


def mix_bits(word: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A bijection of 32-bit words in which each bit depends on all: Murmur3's finaliser (Appleby, public domain)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
