import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import B, H, N, R, index_for, make_tensors, normal, row
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.gathered import c2p_scores_at, take_queries
from deberta_jax.ops.scores import attention_probabilities, c2c_scores, c2p_scores, p2c_scores


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_scores_equal_a_loop_over_queries_and_keys(T, S):
    q, k, rel = (np.asarray(normal(i, *shape)) for i, shape in enumerate([(B, T, N, H), (B, S, N, H), (R, N, H)]))
    c2c, c2p, p2c = np.zeros((3, B, N, T, S), np.float32)
    for t in range(T):
        for s in range(S):
            c2c[:, :, t, s] = (q[:, t] * k[:, s]).sum(-1)
            c2p[:, :, t, s] = (q[:, t] * rel[row(t, s)]).sum(-1)
            p2c[:, :, t, s] = (k[:, s] * rel[row(t, s)]).sum(-1)

    @jax.jit
    def scores(q, k, rel):
        return c2c_scores(q, k), c2p_scores(q, rel, index_for(T, S)), p2c_scores(k, rel, index_for(T, S))

    for ours, expected in zip(scores(q, k, rel), (c2c, c2p, p2c), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("T", "S"), [(64, 64), (65, 65), (130, 70), (63, 129), (128, 192)])
def test_scores_are_correct_across_blocks_of_queries(T, S):
    q, k, rel = normal(0, B, T, N, H), normal(1, B, S, N, H), normal(2, R, N, H)
    index = np.asarray([[row(t, s) for s in range(S)] for t in range(T)])
    c2p, p2c = jax.jit(lambda q, k, rel: (c2p_scores(q, rel, index_for(T, S)), p2c_scores(k, rel, index_for(T, S))))(
        q, k, rel
    )
    rows = np.asarray(rel)[index]
    np.testing.assert_allclose(c2p, np.einsum("BTNH,TSNH->BNTS", q, rows), atol=1e-5)
    np.testing.assert_allclose(p2c, np.einsum("BSNH,TSNH->BNTS", k, rows), atol=1e-5)


def test_gathered_queries_have_the_scores_of_all_queries():
    T, M = 70, 5
    q, rel, positions = normal(0, B, T, N, H), normal(1, R, N, H), jnp.asarray([[3, 69, 0, 64, 3], [1, 2, 3, 4, 5]])
    all_scores = c2p_scores(q, rel, index_for(T, T))
    chosen = jnp.take_along_axis(q, positions[..., None, None], axis=1)
    some = c2p_scores_at(chosen, rel, index_for(T, T), positions)
    assert some.shape == (B, N, M, T)
    np.testing.assert_allclose(some, take_queries(all_scores, positions), atol=1e-6)


@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True), (False, False)])
def test_attention_is_the_softmax_of_the_active_terms(terms):
    (q, k, v, rel_k, rel_q), index = make_tensors()
    rel_k, rel_q = (rel if active else None for rel, active in zip((rel_k, rel_q), terms, strict=True))
    scores = c2c_scores(q, k)
    scores = scores if rel_k is None else scores + c2p_scores(q, rel_k, index)
    scores = scores if rel_q is None else scores + p2c_scores(k, rel_q, index)
    probabilities = jax.nn.softmax(scores / math.sqrt(H * (1 + sum(terms))))
    np.testing.assert_allclose(attention_probabilities(q, k, rel_k, rel_q, index=index), probabilities, atol=1e-6)
    context = jnp.einsum("BNTS,BSNH->BTNH", probabilities, v)
    np.testing.assert_allclose(disentangled_attention(q, k, v, rel_k, rel_q, index=index), context, atol=1e-6)
