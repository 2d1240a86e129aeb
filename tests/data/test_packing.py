"""Packing keeps every token, in order, and gives each document piece a segment of its own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.data.packing import pack, position_ids

PAD, CLS, SEP = 0, 1, 2
documents_of_ids = st.lists(st.integers(0, 60).map(lambda n: np.arange(3, 3 + n, dtype=np.int32)), max_size=20)


def rows_of(documents, length):
    return list(pack(documents, length, cls_id=CLS, sep_id=SEP, pad_id=PAD))


def pieces_of(rows):
    return [row.input_ids[row.segment_ids == s] for row in rows for s in range(1, row.segment_ids.max() + 1)]


@given(documents_of_ids, st.integers(3, 40))
def test_the_pieces_joined_are_the_documents_joined(documents, length):
    pieces = pieces_of(rows_of(documents, length))
    assert all(piece[0] == CLS and piece[-1] == SEP and len(piece) >= 3 for piece in pieces)
    joined = np.concatenate([np.zeros(0, np.int32), *(piece[1:-1] for piece in pieces)])
    np.testing.assert_array_equal(joined, np.concatenate([np.zeros(0, np.int32), *documents]))


@given(documents_of_ids, st.integers(3, 40))
def test_no_piece_holds_two_documents(documents, length):
    for piece in pieces_of(rows_of(documents, length)):
        assert (np.diff(piece[1:-1]) == 1).all()


@given(documents_of_ids, st.integers(3, 40))
def test_segments_count_from_one_and_padding_is_last(documents, length):
    for row in rows_of(documents, length):
        assert row.segment_ids[0] == 1
        real = row.segment_ids > 0
        assert (np.diff(real.astype(int)) <= 0).all()
        assert (np.diff(row.segment_ids[real]) >= 0).all()
        assert (row.input_ids[~real] == PAD).all()


def test_little_of_a_row_is_padding():
    documents = [np.full(n, 7, np.int32) for n in np.random.default_rng(0).integers(1, 600, 2000)]
    rows = rows_of(documents, 128)
    assert np.mean([row.segment_ids > 0 for row in rows]) > 0.97


@given(documents_of_ids, st.integers(3, 40))
def test_positions_restart_in_every_segment(documents, length):
    for row in rows_of(documents, length):
        expected, seen = [], {0: 0}
        for segment in row.segment_ids:
            expected.append(0 if segment == 0 else seen.get(segment, 0))
            seen[segment] = seen.get(segment, 0) + 1
        np.testing.assert_array_equal(position_ids(row.segment_ids), expected)
