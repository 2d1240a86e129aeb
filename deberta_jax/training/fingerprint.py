"""Fingerprints of arrays: two uint32 sums per array, to detect content that changed since it was saved."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from deberta_jax.ops.hashing import flat_index, mix_bits

Fingerprint = dict[str, list[int]]


def fingerprint(tree: dict[str, Any]) -> Fingerprint:
    """Two sums per array over its 32-bit words, each word mixed with its position.

    Sums modulo 2^32 do not depend on their order, so they do not depend on the sharding or the number of devices. The
    mixing is a bijection of the word, so one flipped bit always changes both sums. Swapped values change them with
    probability 1 - 2^-64.
    """
    # One after the other: XLA's CPU devices share threads, and wait for each other forever if several programs with
    # collectives run at once.
    return {name: [int(word) for word in jax.device_get(_array_sums(array))] for name, array in tree.items()}


# Compiled once per shape: parameters, their averages and their moments have the same shapes.
@jax.jit
def _array_sums(x: Array) -> UInt32[Array, "2"]:
    words = _words(x)
    salted = [words ^ mix_bits(flat_index(words.shape) ^ jnp.uint32(salt)) for salt in (0x9E3779B9, 0x7F4A7C15)]
    return jnp.stack([jnp.sum(mix_bits(word), dtype=jnp.uint32) for word in salted])


def _words(x: Array) -> UInt32[Array, "..."]:
    """The bits of an array as 32-bit words; a 64-bit element becomes two words, in an additional last axis."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32)
