"""Hashes of array positions: random bits that depend on where an entry is, not on how the array is split."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

Start = int | Int[Array, ""] | UInt32[Array, ""]


def flat_index(
    shape: tuple[int, ...],
    full_shape: tuple[int, ...] | None = None,
    start: tuple[Start, ...] | None = None,
) -> UInt32[Array, "..."]:
    """The row-major index of each entry of an array, modulo 2^32.

    With `full_shape` and `start`, of a block that begins at `start` in an array of shape `full_shape`.
    """
    full_shape, start = full_shape or shape, start or (0,) * len(shape)
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        axis_shape = tuple(size if other == axis else 1 for other, size in enumerate(shape))
        position = jax.lax.broadcasted_iota(jnp.uint32, axis_shape, axis) + jnp.asarray(start[axis]).astype(jnp.uint32)
        index = index + position * np.uint32(stride % 2**32)
        stride *= full_shape[axis]
    return index


def mix_bits(word: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A bijection of 32-bit words in which each output bit depends on all input bits.

    The finalizer of MurmurHash3 (Austin Appleby, public domain).
    """
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
