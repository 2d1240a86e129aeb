import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching, bucket_lengths, bucket_width, plan


@given(st.lists(st.integers(1, 100), max_size=80), st.integers(1, 2000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_plan_has_each_row_once_in_a_batch_that_is_long_enough(lengths, batch_tokens, multiple):
    plans = list(plan(lengths, 100, batch_tokens, multiple))
    indices = [index for batch in plans for index in batch.indices.tolist()]
    assert sorted(indices) == list(range(len(lengths)))
    for batch in plans:
        assert len(batch.indices) <= batch.rows
        assert batch.rows % multiple == 0
        assert max(lengths[index] for index in batch.indices) <= batch.length
        assert batch.length in bucket_lengths(100)
    assert len({(batch.rows, batch.length) for batch in plans}) == len({batch.length for batch in plans})
    assert all(len(batch.indices) == batch.rows for batch in plans[:-1])


def test_a_single_text_is_computed_in_a_small_batch():
    [batch] = plan([12], 512, BATCHING.batch_tokens)
    assert batch.rows * batch.length <= 256


def test_buckets_and_widths_are_the_next_of_a_few_sizes():
    assert bucket_lengths(100) == [16, 24, 32, 48, 64, 96, 100]
    assert bucket_lengths(512)[-3:] == [256, 384, 512]
    assert bucket_lengths(10) == [10]
    assert [bucket_width(size) for size in (0, 1, 2, 4, 5, 17)] == [1, 1, 4, 4, 16, 64]


@pytest.mark.parametrize(("field", "value"), [("batch_tokens", 0), ("max_length", 2), ("chunk", 0)])
def test_sizes_that_are_too_small_are_rejected(field, value):
    with pytest.raises(InputError, match=f"{field} is {value}; it must be at least"):
        Batching(**{field: value})
