"""Training batches of packed sequences with masked positions, as `data.batches` makes them."""

import numpy as np

VOCABULARY, MASK_ID = 352, 4
LENGTH, SLOTS = 18, 5
_FIRST_DOCUMENT = 11


def packed_batch(number, rows):
    """Batch `number`: two documents per sequence, sequences of different lengths, a quarter of the slots unused."""
    rng = np.random.default_rng(number)
    positions = np.arange(LENGTH)
    first = positions < _FIRST_DOCUMENT
    masked = np.tile(np.array([1, 4, 9, 12, 13]), (rows, 1))
    # Different lengths, so that a mean of means would be wrong.
    ends = 14 + np.arange(rows)[:, None] % 4
    ids = rng.integers(5, VOCABULARY, (rows, LENGTH))
    used = rng.random((rows, SLOTS)) < 0.75
    used[:, 0] = True
    originals = np.take_along_axis(ids, masked, 1)
    np.put_along_axis(ids, masked, np.where(used, MASK_ID, originals), 1)
    return {
        "input_ids": ids.astype(np.int32),
        "segment_ids": np.where(first, 1, np.where(positions < ends, 2, 0)).astype(np.int32),
        "position_ids": np.tile(np.where(first, positions, positions - _FIRST_DOCUMENT), (rows, 1)).astype(np.int32),
        "masked_positions": np.where(used, masked, 0).astype(np.int32),
        "labels": np.where(used, originals, 0).astype(np.int32),
        "label_weights": used.astype(np.float32),
    }
