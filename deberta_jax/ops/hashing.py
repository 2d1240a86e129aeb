"""Hashes of array positions: random bits that depend on where an entry is, not on how the array is split."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

Start = int | Int[Array, ""] | UInt32[Array, ""]


def flat_index(
    shape: tuple[int, ...],
    full_shape: tuple[int, ...] | None = None,
    start: tuple[Start, ...] | None = None,
    transposed: bool = False,
) -> UInt32[Array, "..."]:
    """The row-major index of each entry of an array, modulo 2^32.

    With `full_shape` and `start`, of a block that begins at `start` in an array of shape `full_shape`. `transposed`
    swaps the last two axes of the result.
    """
    full_shape, start = full_shape or shape, start or (0,) * len(shape)
    order = list(range(len(shape)))
    if transposed:
        order[-2:] = reversed(order[-2:])
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    # The widest axis comes last, so that all sums but one are of small arrays.
    for axis in range(len(shape)):
        axis_shape = tuple(shape[axis] if other == axis else 1 for other in order)
        iota = jax.lax.broadcasted_iota(jnp.uint32, axis_shape, order[axis])
        position = iota + jnp.asarray(start[axis]).astype(jnp.uint32)
        index = index + position * np.uint32(math.prod(full_shape[axis + 1 :]) % 2**32)
    return index


def mix_bits(word: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A bijection of 32-bit words in which each output bit depends on all input bits.

    The finalizer of MurmurHash3 (Austin Appleby, public domain).
    """
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
