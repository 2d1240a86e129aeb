import jax.numpy as jnp
import numpy as np
from attention_tensors import normal

from deberta_jax.ops.masks import make_attention_mask, masked_softmax


def test_scores_of_hidden_keys_may_have_any_value():
    mask = jnp.asarray([[[[False, True, True], [False, False, False]]]])
    for odd in (jnp.nan, jnp.inf, -jnp.inf):
        scores = jnp.asarray([[[[odd, 1.0, 1.0], [odd, odd, odd]]]])
        assert masked_softmax(scores, mask).tolist() == [[[[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]]]


def test_which_keys_a_query_may_attend_to():
    real, segments = jnp.asarray([[True, True, True, False]]), jnp.asarray([[1, 1, 2, 0]])
    assert make_attention_mask(real)[0, 0].astype(int).tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    both = make_attention_mask(real, segments)[0, 0].astype(int).tolist()
    assert both == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    causal = jnp.tril(jnp.ones((1, 1, 4, 4), bool))
    assert (make_attention_mask(real, segments, causal) == (make_attention_mask(real, segments) & causal)).all()
    at = jnp.asarray([[2, 0]])
    assert make_attention_mask(real, segments, causal, at)[0, 0].astype(int).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert make_attention_mask() is None


def test_softmax_over_visible_keys_sums_to_one():
    scores, mask = normal(0, 1, 1, 3, 4) * 100, jnp.asarray([[[[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]]], bool)
    np.testing.assert_allclose(masked_softmax(scores, mask).sum(-1)[0, 0], [1, 0, 1], atol=1e-6)
