import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.sampling import next_token, sample


@pytest.mark.parametrize("classes", [5, 128, 300])
def test_samples_follow_the_probabilities(classes):
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, classes), jnp.float32)
    number = 60_000
    draws = jax.random.uniform(jax.random.key(1), (number, 2))
    drawn = np.asarray(sample(jnp.broadcast_to(logits, (number, classes)), draws))
    expected = number * np.asarray(jax.nn.softmax(logits), np.float64)
    seen = np.bincount(drawn, minlength=classes)
    assert len(seen) == classes
    # Chi-square over what is expected five times or more: its mean is the number of those, its variance twice that.
    common = expected >= 5
    statistic = np.sum((seen - expected)[common] ** 2 / expected[common])
    assert abs(statistic - common.sum()) < 5 * np.sqrt(2 * common.sum())


def test_a_class_with_probability_0_is_never_sampled():
    logits = jnp.full((4096, 200), -jnp.inf).at[:, jnp.array([3, 130, 199])].set(0.0)
    ends = jnp.array([0.0, 1 - 2**-23])
    draws = (
        jax.random.uniform(jax.random.key(0), (4096, 2))
        .at[:4]
        .set(jnp.stack(jnp.meshgrid(ends, ends), -1).reshape(4, 2))
    )
    assert set(np.asarray(sample(logits, draws)).tolist()) == {3, 130, 199}


def test_a_sharp_softmax_returns_its_peak_in_any_precision():
    logits = jnp.zeros((3, 7, 1000), jnp.bfloat16).at[..., 517].set(100)
    drawn = sample(logits, jax.random.uniform(jax.random.key(0), (3, 7, 2)))
    assert drawn.shape == (3, 7) and drawn.dtype == jnp.int32
    assert np.all(np.asarray(drawn) == 517)


def test_samples_have_no_gradient():
    draws = jnp.full((2,), 0.5)
    gradient = jax.grad(lambda logits: jnp.sum(logits) + sample(logits, draws).astype(jnp.float32))(jnp.arange(9.0))
    np.testing.assert_array_equal(gradient, np.ones(9))


def test_samples_come_from_the_most_likely_tokens():
    probabilities = np.asarray([0.5, 0.25, 0.15, 0.1])
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probabilities, jnp.float32)), (4000, 4))
    keys = jax.random.split(jax.random.key(0), 4000)

    def shares(**options):
        ids = next_token(logits, keys, **{"temperature": 0.0} | options)
        return np.bincount(np.asarray(ids), minlength=4) / 4000

    np.testing.assert_allclose(shares(temperature=1.0), probabilities, atol=0.03)
    np.testing.assert_allclose(shares(temperature=1.0, top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    # 0.5 + 0.25 is the smallest set that reaches 0.6.
    np.testing.assert_allclose(shares(temperature=1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(temperature=1.0, top_p=0.01), [1, 0, 0, 0])
    squared = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(shares(temperature=0.5), squared, atol=0.03)
    assert shares().tolist() == [1, 0, 0, 0]
