import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.ops.dropout import dropout, dropout_seed, keep_mask
from deberta_jax.ops.hashing import flat_index, mix_bits
from deberta_jax.sharding import batch_sharding, make_mesh


def draw(number, rate, *shape):
    return np.asarray(keep_mask(shape, rate, seed=dropout_seed(jax.random.key(number))))


def test_dropout_zeroes_its_rate_and_scales_the_rest():
    dropped = dropout(jnp.ones(10_000), 0.2, key=jax.random.key(0))
    assert set(np.unique(dropped).round(4)) == {0.0, 1.25}
    assert abs(float(dropped.mean()) - 1) < 0.02


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = jnp.ones(8)
    assert dropout(x, 0.5, key=None) is x
    assert dropout(x, 0.0, key=jax.random.key(0)) is x


def test_entries_drop_independently_of_their_neighbors_and_of_other_keys():
    rate, size = 0.3, 512
    masks = np.stack([draw(number, rate, size, size) for number in range(4)]) - (1 - rate)
    variance, error = rate * (1 - rate), 5 / size
    assert abs(masks.mean()) < error
    assert abs(masks.mean(-1)).max() < 5 * np.sqrt(variance / size)
    for shift in ((0, 1), (1, 0), (1, 1), (0, 128), (128, 0)):
        assert abs((masks * np.roll(masks, shift, (1, 2))).mean((1, 2))).max() < error * variance
    assert abs((masks[0] * masks[1]).mean()) < error * variance


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4))
def test_the_index_of_a_block_is_a_slice_of_the_whole(sizes):
    shape, before, after = zip(*sizes, strict=True)
    full_shape = tuple(map(sum, sizes))
    block = flat_index(shape, full_shape, before)
    every = np.arange(np.prod(full_shape), dtype=np.uint32).reshape(full_shape)
    assert (np.asarray(block) == every[tuple(slice(b, b + s) for s, b, _ in sizes)]).all()


def test_the_index_wraps_at_32_bits():
    assert flat_index((1, 2), (2**20, 2**13), (2**19, 0)).tolist() == [[0, 1]]


def test_mixing_is_a_bijection():
    words = jnp.arange(1 << 20, dtype=jnp.uint32)
    assert len(np.unique(mix_bits(words))) == len(words)


def test_the_same_entries_are_dropped_on_any_number_of_devices():
    x = jnp.ones((16, 8))
    split = jax.device_put(x, batch_sharding(make_mesh(4, 2)))
    drop = jax.jit(lambda x: dropout(x, 0.5, key=jax.random.key(1)))
    assert (drop(x) == drop(split)).all()
