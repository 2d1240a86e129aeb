"""Biases, causal masks and checked arguments of attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import on_device

from deberta_jax.ops.attention import attention_with_probabilities, disentangled_attention
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.scores import attention_probabilities, c2p_scores, p2c_scores

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
    with on_device("TPU v5 lite", "tpu"), pytest.raises(ValueError, match="do not support bias"):
        disentangled_attention(*tensors, index=INDEX, bias=mask, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="expected auto, xla, xla_per_head, cudnn, "):
        disentangled_attention(*tensors, index=INDEX, implementation="flash")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": jnp.ones((B, T, T), bool)}, r"mask has shape \(2, 10, 10\), expected \[B, 1 or N, T, S\]"),
        ({"mask": jnp.ones((B, T), bool)}, r"mask has shape \(2, 10\).*pass a mask of real tokens \[B, S\]"),
        ({"mask": jnp.ones((B, 1, T, T - 1), bool)}, r"mask has shape \(2, 1, 10, 9\), expected \(2, 3, 10, 10\)"),
        ({"bias": jnp.ones((N, T, T))}, r"bias has shape \(3, 10, 10\), expected floats \[B, N, T, S\]"),
        ({"bias": jnp.ones((B, N, 1, T), bool)}, "bias has dtype bool, expected floats.*pass a boolean mask as mask"),
        ({"bias": jnp.ones((B, N, 1, T), int)}, "bias has dtype int32, expected floats"),
        ({"bias": jnp.ones((B, N + 1, 1, T))}, r"bias has shape \(2, 4, 1, 10\), expected \(2, 3, 10, 10\)"),
        ({"query_positions": jnp.full((B, T), T)}, "query_positions contains 10, expected 0 to 9"),
        ({"query_positions": jnp.full((B, T), -1)}, "query_positions contains -1, expected 0 to 9"),
        ({"query_positions": jnp.ones((B, 1), int)}, r"query_positions has shape \(2, 1\), expected \(2, 10\)"),
        ({"index": jnp.asarray(INDEX) + 8}, "index has rows from 9 to 15, but the relative table has 8 rows"),
    ],
)
def test_arguments_of_other_shapes_and_values_are_refused(tensors, options, message, unchecked_shapes):
    q, k, v, rel_k, rel_q = tensors
    options = {"index": INDEX, **options}
    for function in (disentangled_attention, attention_with_probabilities):
        with pytest.raises(ValueError, match=message):
            function(*tensors, **options)
    with pytest.raises(ValueError, match=message):
        attention_probabilities(q, k, rel_k, rel_q, **options)


def test_segments_masks_of_tokens_and_dropout_rates_are_checked(tensors, unchecked_shapes):
    pairs, tokens = jnp.ones((B, 1, T, T), int), jnp.ones((B, T), int)
    with pytest.raises(ValueError, match=r"segment_ids has shape \(2, 1, 10, 10\), expected \[B, T\].*mask"):
        disentangled_attention(*tensors, index=INDEX, segment_ids=pairs)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 1, 10, 10\), expected \[B, T\].*pair_mask"):
        make_attention_mask(pairs)
    with pytest.raises(ValueError, match=r"pair_mask has shape \(2, 10, 10\), expected .*attention_mask \[B, T\]"):
        make_attention_mask(pair_mask=pairs[:, 0])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 1\), but segment_ids has shape \(2, 10\)"):
        make_attention_mask(tokens[:, :1], tokens)
    for masks in ({"attention_mask": tokens}, {"pair_mask": pairs}):
        with pytest.raises(ValueError, match="query_positions contains 12, expected 0 to 9"):
            make_attention_mask(**masks, query_positions=tokens[:, :1] + 11)
    for rate in (1.0, -0.5):
        for function in (disentangled_attention, attention_with_probabilities):
            with pytest.raises(ValueError, match=f"dropout_rate is {rate}, expected a number from 0 to below 1"):
                function(*tensors, index=INDEX, dropout_rate=rate, key=jax.random.key(0))


def test_scores_need_as_many_distances_as_tokens(tensors):
    q, k, _, rel_k, rel_q = tensors
    for function, table in ((c2p_scores, rel_k), (p2c_scores, rel_q)):
        with pytest.raises(ValueError, match="index has 9 entries, but 10 tokens have at least 10 distances"):
            function(q, table, INDEX[:9])


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
def test_a_query_whose_keys_all_have_a_bias_of_minus_infinity_attends_to_nothing(tensors, implementation):
    # The second query has no key, the third only keys that the mask hides.
    bias = jnp.zeros((1, 1, T, T)).at[:, :, 1].set(-jnp.inf).at[:, :, 2, :5].set(-jnp.inf)
    mask = (jnp.arange(T) < 5)[None, None, None]
    options = {"index": INDEX, "bias": bias, "mask": mask}
    out = disentangled_attention(*tensors, **options, implementation=implementation)
    assert jnp.isfinite(out).all()
    assert (out[:, 1:3] == 0).all() and (out[:, 3:] != 0).all()
    gradient = jax.grad(lambda bias: disentangled_attention(*tensors, **options | {"bias": bias}).sum())(bias)
    assert jnp.isfinite(gradient).all()
