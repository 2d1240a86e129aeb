import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.ops.positions import log_bucket, relative_index


@pytest.mark.parametrize(
    ("buckets", "distance", "digest"),
    [
        (256, 512, "8a32a2f2502450fa77c691b0d1308ea1a98607507629d281d68be4d27651ef27"),
        (128, 512, "4b81361b3570b3b9d565480dd1d7035ddbbbc0fdd7819bdd12d4ac1c454d74ab"),
        (32, 128, "3992782b756ccae96758ee96d6950352fd90f7ce725c53f3c458e94fab8715ec"),
    ],
)
def test_the_tables_of_the_released_models_are_exact(buckets, distance, digest):
    table = log_bucket(np.arange(1 - distance, distance), buckets, distance).astype("<i2")
    assert hashlib.sha256(table.tobytes()).hexdigest() == digest


def test_known_buckets():
    known = {1: 1, 127: 127, 128: 128, 129: 129, 131: 131, 255: 192, 257: 192, 384: 229, 509: 255, 511: 255, 2000: 255}
    assert {d: int(log_bucket(np.asarray(d), 256, 512)) for d in known} == known
    assert set(log_bucket(np.arange(512), 256, 512)) == set(range(256))


@given(st.integers(2, 256), st.integers(2, 2000), st.booleans())
def test_buckets_are_odd_and_grow_with_the_distance(buckets, more, clamp):
    distances = np.arange(-600, 601)
    table = log_bucket(distances, buckets, buckets // 2 + more, clamp=clamp)
    assert (table == -table[::-1]).all()
    assert (np.diff(table) >= 0).all()


@given(st.integers(2, 256), st.integers(1, 600), st.booleans())
def test_a_short_maximum_distance_gives_each_distance_its_own_bucket(buckets, distance, clamp):
    distance = min(distance, buckets // 2 + 1)
    near = np.arange(1 - distance, distance)
    assert (log_bucket(near, buckets, distance, clamp=clamp) == near).all()
    assert (log_bucket(near, buckets, 4 * buckets, clamp=clamp) == near).all()
    far = log_bucket(np.arange(-2000, 2001), buckets, distance, clamp=clamp)
    assert (np.diff(far) >= 0).all() and abs(far).max() <= buckets // 2


def test_without_buckets_distances_are_unchanged():
    assert (log_bucket(np.arange(-5, 6), -1, 512) == np.arange(-5, 6)).all()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(-1, 16), (8, 24), (16, 512)]), st.booleans())
def test_the_index_of_a_query_and_a_key_is_the_row_of_their_distance(T, S, size, clamp):
    buckets, distance = size
    index = relative_index(T, S, buckets=buckets, max_distance=distance, clamp=clamp)
    span = buckets if buckets > 0 else distance
    for t in range(T):
        for s in range(S):
            bucket = int(log_bucket(np.asarray(t - s), buckets, distance, clamp=clamp))
            assert index[T - 1 - t + s] == min(max(bucket + span, 0), 2 * span - 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 0), "max_distance is 0, expected at least 1 without buckets"),
        ((4, 0), "max_distance is 0, expected at least 1"),
        ((1, 8), "buckets is 1, which cannot represent a sign"),
    ],
)
def test_impossible_buckets_are_refused(sizes, message):
    buckets, max_distance = sizes
    with pytest.raises(ValueError, match=message):
        relative_index(4, 4, buckets=buckets, max_distance=max_distance)
    if buckets:
        with pytest.raises(ValueError, match=message):
            log_bucket(np.arange(4), buckets, max_distance)
