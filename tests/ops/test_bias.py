"""Biases, causal masks and checked arguments of attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.attention import attention_with_probabilities, disentangled_attention
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.scores import attention_probabilities, c2p_scores

B, T, N, H, R = 2, 10, 3, 4, 8
INDEX = relative_index(T, T, buckets=4, max_distance=8)


@pytest.fixture(scope="module")
def tensors():
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v = (jax.random.normal(key, (B, T, N, H)) for key in keys[:3])
    return (q, k, v, *(jax.random.normal(key, (R, N, H)) for key in keys[3:]))


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
@pytest.mark.parametrize("shape", [(1, 1, 1, T), (1, N, T, T), (B, 1, T, 1), (B, N, T, T)])
def test_a_bias_is_added_to_the_scaled_scores(tensors, shape, implementation):
    bias = jax.random.normal(jax.random.key(1), shape)
    q, k, v, rel_k, rel_q = tensors
    out = disentangled_attention(*tensors, index=INDEX, bias=bias, implementation=implementation)
    logits = jnp.log(attention_probabilities(q, k, rel_k, rel_q, index=INDEX)) + bias
    expected = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(logits), v)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
def test_causal_attention_does_not_depend_on_later_keys(tensors, implementation):
    q, k, v, rel_k, rel_q = tensors
    options = {"index": INDEX, "implementation": implementation}
    out = disentangled_attention(*tensors, is_causal=True, **options)
    later = (x.at[:, 6:].add(1.0) for x in (k, v))
    changed = disentangled_attention(q, *later, rel_k, rel_q, is_causal=True, **options)
    np.testing.assert_array_equal(out[:, :6], changed[:, :6])
    mask = jnp.tri(T, dtype=jnp.int32)[None, None]
    np.testing.assert_array_equal(disentangled_attention(*tensors, mask=mask, **options), out)


def test_plain_attention_with_a_bias_equals_jax(tensors):
    q, k, v, _, _ = tensors
    bias = jax.random.normal(jax.random.key(1), (B, N, T, T))
    expected = jax.nn.dot_product_attention(q, k, v, bias=bias, is_causal=True)
    np.testing.assert_allclose(disentangled_attention(q, k, v, bias=bias, is_causal=True), expected, atol=1e-5)


def test_causal_queries_are_at_their_positions(tensors):
    q, k, v, rel_k, rel_q = tensors
    at = jnp.asarray([[0, 4, 9], [2, 5, 7]])
    chosen = jnp.take_along_axis(q, at[..., None, None], axis=1)
    options = {"index": INDEX, "is_causal": True}
    whole = disentangled_attention(*tensors, **options)
    some = disentangled_attention(chosen, k, v, rel_k, rel_q, query_positions=at, **options)
    np.testing.assert_allclose(some, jnp.take_along_axis(whole, at[..., None, None], axis=1), atol=1e-6)


def test_context_and_probabilities_agree(tensors):
    context, probabilities = attention_with_probabilities(*tensors, index=INDEX)
    np.testing.assert_allclose(context, disentangled_attention(*tensors, index=INDEX), atol=1e-6)
    np.testing.assert_allclose(context, jnp.einsum("BNTS,BSNH->BTNH", probabilities, tensors[2]), atol=1e-6)


def test_arguments_that_do_not_fit_are_refused(tensors):
    q, k, v, rel_k, rel_q = tensors
    mask = jnp.zeros((1, 1, T, T))
    for function in (disentangled_attention, attention_with_probabilities):
        with pytest.raises(ValueError, match=r"mask has dtype float32.*pass an additive mask as bias"):
            function(q, k, v, mask=mask)
        with pytest.raises(ValueError, match=r"index has rows from 1 to 7, but the relative table has 5 rows"):
            function(q, k, v, rel_k[:5], index=INDEX)
        with pytest.raises(ValueError, match=r"index has 18 entries, but 10 queries and 10 keys have 19 distances"):
            function(q, k, v, rel_k, index=INDEX[1:])
    with pytest.raises(ValueError, match="index has rows from 1 to 7"):
        c2p_scores(q, rel_k[:7], INDEX)
    with pytest.raises(ValueError, match="pair_mask has dtype float32"):
        make_attention_mask(pair_mask=mask)
    with pytest.raises(ValueError, match="do not support bias"):
        disentangled_attention(*tensors, index=INDEX, bias=mask, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="expected one of xla, xla_per_head, pallas_tpu"):
        disentangled_attention(*tensors, index=INDEX, implementation="flash")
