"""Batches of the toy text, and their comparison."""

import numpy as np
from toy_text import ToyTokenizer

from deberta_jax.data.batches import MaskSequence, TrainingBatches
from deberta_jax.data.masking import Masking

VOCABULARY, MASKING = ToyTokenizer().vocabulary(), Masking()
COMMON = {"rows": MaskSequence(VOCABULARY, MASKING)}


def take(folder, count, **options):
    with TrainingBatches(folder, **{"batch_size": 8, "seed": 3, **COMMON, **options}) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


def join_hosts(parts):
    """The batches of all hosts side by side."""
    return [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for batches in zip(*parts, strict=True)
    ]


def unmasked(batches):
    """The sequences before masking, as bytes."""
    sequences = []
    for batch in batches:
        ids = batch["input_ids"].copy()
        for sequence, positions, labels, weights in zip(
            ids, batch["masked_positions"], batch["labels"], batch["label_weights"], strict=True
        ):
            sequence[positions[weights > 0]] = labels[weights > 0]
            if sequence.any():
                sequences.append(sequence.tobytes())
    return sequences
