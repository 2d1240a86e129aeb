"""Pooling equals a loop over the tokens of each text, with and without a prompt that is left out."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.config import Pooling
from deberta_jax.ops.pooling import pool

B, T, D = 4, 7, 5
LENGTHS = [7, 4, 2, 0]


def pool_in_a_loop(states, pooling, length, excluded):
    tokens = states[excluded:length]
    if not len(tokens):
        return np.zeros(D, np.float32)
    position = np.arange(excluded, length)[:, None] + 1
    return {
        "mean": tokens.mean(0),
        "mean_sqrt_len": tokens.sum(0) / np.sqrt(len(tokens)),
        "weighted_mean": (tokens * position).sum(0) / position.sum(),
        "max": tokens.max(0),
        "cls": tokens[0],
        "last": tokens[-1],
    }[pooling]


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_pooling_reads_the_tokens_of_a_text_after_its_prompt(pooling):
    states = np.random.default_rng(0).normal(-3, 1, (B, T, D)).astype(np.float32)
    mask = jnp.asarray(np.arange(T) < np.asarray(LENGTHS)[:, None])
    for excluded in (None, [0, 3, 2, 0]):
        counts = None if excluded is None else jnp.asarray(np.asarray(excluded, np.int32))
        pooled = jax.jit(pool, static_argnums=2)(jnp.asarray(states), mask, pooling, counts)
        starts = excluded or [0] * B
        expected = [
            pool_in_a_loop(x, pooling, length, start) for x, length, start in zip(states, LENGTHS, starts, strict=True)
        ]
        np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_padding_does_not_reach_the_vector():
    states = np.random.default_rng(1).normal(size=(1, T, D)).astype(np.float32)
    mask = jnp.asarray(np.arange(T)[None] < 3)
    changed = states.copy()
    changed[:, 3:] = 100
    for pooling in get_args(Pooling):
        np.testing.assert_array_equal(
            pool(jnp.asarray(states), mask, pooling), pool(jnp.asarray(changed), mask, pooling)
        )
