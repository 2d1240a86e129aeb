"""Packing keeps every token, in order, and gives each piece of a document its own segment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.data.packing import pack, position_ids
from deberta_jax.errors import InputError

PAD, CLS, SEP = 0, 1, 2
documents_of_ids = st.lists(st.integers(0, 60).map(lambda n: np.arange(3, 3 + n, dtype=np.int32)), max_size=8)


def packed(documents, length):
    return list(pack(documents, length, cls_id=CLS, sep_id=SEP, pad_id=PAD))


@settings(deadline=None)
@given(documents_of_ids, st.integers(3, 40))
def test_packing_keeps_the_tokens_in_order_and_separates_documents(documents, length):
    sequences = packed(documents, length)
    pieces = [
        sequence.input_ids[sequence.segment_ids == segment]
        for sequence in sequences
        for segment in range(1, sequence.segment_ids.max() + 1)
    ]
    assert all(piece[0] == CLS and piece[-1] == SEP and len(piece) >= 3 for piece in pieces)
    joined = np.concatenate([np.zeros(0, np.int32), *(piece[1:-1] for piece in pieces)])
    np.testing.assert_array_equal(joined, np.concatenate([np.zeros(0, np.int32), *documents]))
    # The ids of a document are consecutive: no piece contains two documents.
    assert all((np.diff(piece[1:-1]) == 1).all() for piece in pieces)


@settings(deadline=None)
@given(documents_of_ids, st.integers(3, 40))
def test_segments_count_from_one_positions_restart_and_padding_is_last(documents, length):
    for input_ids, segment_ids in packed(documents, length):
        assert segment_ids[0] == 1
        real = segment_ids > 0
        assert (np.diff(real.astype(int)) <= 0).all()
        assert (np.diff(segment_ids[real]) >= 0).all()
        assert (input_ids[~real] == PAD).all()
        expected, counts = [], {0: 0}
        for segment in segment_ids:
            expected.append(0 if segment == 0 else counts.get(segment, 0))
            counts[segment] = counts.get(segment, 0) + 1
        np.testing.assert_array_equal(position_ids(segment_ids), expected)


def test_little_of_a_sequence_is_padding():
    documents = [np.full(n, 7, np.int32) for n in np.random.default_rng(0).integers(1, 600, 1000)]
    assert np.mean([sequence.segment_ids > 0 for sequence in packed(documents, 128)]) > 0.97


def test_a_length_without_room_for_a_token_is_refused():
    with pytest.raises(InputError, match="length is 2; it must be at least 3"):
        next(pack([np.arange(4)], 2, cls_id=1, sep_id=2, pad_id=0))


def test_a_packed_sequence_gives_its_position_ids():
    [sequence] = pack([np.arange(2), np.arange(1)], 9, cls_id=1, sep_id=2, pad_id=0)
    assert sequence.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0]
