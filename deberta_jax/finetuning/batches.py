"""Batches of features of similar length; batch k is a function of (seed, k), so that a run resumes exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from deberta_jax.data.batch_share import WHOLE_BATCH, BatchShare
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.inference.buckets import bucket_lengths

HostBatch = dict[str, np.ndarray]
# The features of this many batches are sorted by length together: little padding, and the order is nearly random.
_SORTED_TOGETHER = 50
# Training texts may be phrases, shorter than the shortest bucket of inference.
_SHORTEST = 8


class Batches:
    """An infinite iterator over batches `start`, `start` + 1, ...; each yields the rows of this process.

    Every epoch contains each feature once, in a new order. Features of similar length are padded to the bucket of the
    longest one. The last batch of an epoch is filled with padding of weight 0.
    """

    def __init__(
        self,
        kind: Kind,
        features: Sequence[Feature],
        *,
        batch_size: int,
        seed: int,
        max_length: int,
        pad_id: int,
        start: int = 0,
        share: BatchShare = WHOLE_BATCH,
    ):
        self._kind, self._features, self._size, self._seed, self._pad_id = kind, features, batch_size, seed, pad_id
        self._lengths = np.asarray([feature.length for feature in features])
        # Features of few sequences are batched together, too.
        counts = np.asarray([len(feature.sequences) for feature in features])
        self._sizes = counts * (max_length + 1) + self._lengths
        buckets = (_SHORTEST, *bucket_lengths(max_length))
        self._buckets = np.asarray([length for length in buckets if length <= max_length])
        self._next = start
        self._host_rows = share.rows(batch_size).tolist()
        self._epoch, self._order = -1, np.zeros((0, batch_size), np.int64)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> HostBatch:
        epoch, index = divmod(self._next, batches_in_epoch(len(self._features), self._size))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._sizes, self._size, self._seed, epoch)
        self._next += 1
        numbers = self._order[index]
        longest = self._lengths[numbers[numbers >= 0]].max()
        length = int(self._buckets[np.searchsorted(self._buckets, longest)])
        features = [self._features[number] if number >= 0 else None for number in numbers.tolist()]
        return stack(self._kind, features, length, self._pad_id, self._host_rows)

    def close(self) -> None:
        """Release nothing: there are no workers or files."""


def batches_in_epoch(features: int, batch_size: int) -> int:
    """The number of batches that contain each feature once."""
    return -(-features // batch_size)


def epoch_order(sizes: Int[np.ndarray, "F"], batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "batches B"]:
    """The indices of the features of each batch of an epoch, those of similar size together; -1 is padding."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    pool = _SORTED_TOGETHER * batch_size
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        order[start : start + pool] = chunk[np.argsort(sizes[chunk], kind="stable")]
    count = batches_in_epoch(len(order), batch_size)
    batches = np.concatenate([order, np.full(count * batch_size - len(order), -1)]).reshape(count, batch_size)
    return batches[rng.permutation(count)]


def stack(
    kind: Kind, features: Sequence[Feature | None], length: int, pad_id: int, host_rows: Sequence[int]
) -> HostBatch:
    """The arrays of a batch; None is padding. Shapes depend on all features, the rows are `host_rows`.

    Token ids are [B, T], or [B, M, T] if an example of this kind is several sequences.
    """
    real = [feature for feature in features if feature is not None]
    rows = [features[row] for row in host_rows]
    count = max(len(feature.sequences) for feature in real)
    shape = (len(rows), kind.encoding.padded_count(count), length)
    input_ids = np.full(shape, pad_id, np.int32)
    attention_mask, token_type_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for b, feature in enumerate(rows):
        if feature is not None:
            for m, (ids, second_start) in enumerate(zip(feature.sequences, feature.second_starts, strict=True)):
                input_ids[b, m, : len(ids)] = ids
                attention_mask[b, m, : len(ids)] = 1
                token_type_ids[b, m, second_start : len(ids)] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    if not kind.encoding.several_sequences:
        batch = {name: values[:, 0] for name, values in batch.items()}
    for name, sample in real[0].targets.items():
        largest = np.max([np.shape(feature.targets[name]) for feature in real], axis=0).astype(int).tolist()
        values = np.zeros((len(rows), *kind.encoding.padded_shape(largest, length)), np.asarray(sample).dtype)
        for b, feature in enumerate(rows):
            if feature is not None:
                target = feature.targets[name]
                index: tuple[Any, ...] = (b, *map(slice, np.shape(target)))
                values[index] = target
        batch[name] = values
    return batch
