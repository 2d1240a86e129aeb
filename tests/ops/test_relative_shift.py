import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import normal

from deberta_jax.ops.relative_shift import relative_shift


def test_the_shift_starts_each_row_one_entry_earlier():
    shifted = relative_shift(jnp.arange(12.0).reshape(1, 3, 4))
    assert shifted.tolist() == [[[2.0, 3.0], [5.0, 6.0], [8.0, 9.0]]]


@pytest.mark.parametrize("T", [1, 40, 70])
def test_the_gradient_of_the_shift_is_its_transpose(T):
    scores, gradient = normal(0, 2, T, T + 8), normal(1, 2, T, 9)
    shifted, pull = jax.vjp(relative_shift, scores)
    np.testing.assert_allclose((shifted * gradient).sum(), (scores * pull(gradient)[0]).sum(), rtol=1e-5)
    assert int((pull(jnp.ones_like(gradient))[0] != 0).sum()) == gradient.size
