"""Batches of training rows by index: batch k depends only on the seed and k, not on the host or the first batch."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, SupportsIndex

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from deberta_jax.data.batch_share import WHOLE_BATCH, BatchShare
from deberta_jax.data.masking import Masking, MaskingVocabulary, mask_tokens
from deberta_jax.data.mixture import Shards, held_out_sequences, training_sequences
from deberta_jax.data.packing import PackedSequence

# The arrays that an objective reads, such as int32 `input_ids`, `segment_ids` and `position_ids` [B, T],
# `masked_positions` and `labels` [B, M], and float32 `label_weights` [B, M], 0 for an unused slot.
ArrayBatch = Mapping[str, np.ndarray]
# A row of a batch from a packed sequence, such as `MaskSequence`.
MakeRow = Callable[[PackedSequence, np.random.Generator], dict[str, np.ndarray]]

# Held-out text has the same masks in every run.
_HELD_OUT_SEED = 20_060


class TrainingBatches(Iterator[ArrayBatch]):
    """The batches `start`, `start` + 1, ... of shards, without end; of each, the share of this host.

    Sequences are shuffled in every epoch, and `rows` makes each into a row, independently in every visit. Each source
    of a mixture has its own epochs. Threads of this process make the batches, or `workers` processes. Close it, or use
    it as a context manager.
    """

    def __init__(
        self,
        shards: Shards,
        rows: "MakeRow | TwoKinds",
        *,
        batch_size: int,
        seed: int,
        start: int = 0,
        share: BatchShare = WHOLE_BATCH,
        workers: int = 0,
        vocabulary_sha256: str | None = None,
    ):
        sequences = training_sequences(shards, seed, vocabulary_sha256)
        if isinstance(rows, TwoKinds):
            sequences = sequences.map_with_index(Number(batch_size))
        host_rows = HostRows(sequences.random_map(rows), share.rows(batch_size), batch_size)
        stack = stack_each if isinstance(rows, TwoKinds) else None
        host_batches = grain.MapDataset.source(host_rows).batch(len(host_rows.rows), batch_fn=stack)[start:]
        if workers:
            _parse_flags()
            # One thread for each process, because the threads of a process share its interpreter lock.
            batches = host_batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
        else:
            batches = host_batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
        self._batches: grain.DatasetIterator | None = iter(batches)
        self._in_shared_memory = workers > 0

    def __next__(self) -> ArrayBatch:
        if self._batches is None:
            raise StopIteration
        batch = next(self._batches)
        # Copies, because the memory shared with a worker must be freed before this process ends.
        return {name: np.array(value) for name, value in batch.items()} if self._in_shared_memory else batch

    def close(self) -> None:
        """Stop the threads and processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class HostRows:
    """A source for Grain: of every batch of `batch_size` rows, those with the indices `rows`."""

    all_rows: grain.MapDataset
    rows: Int[np.ndarray, "rows"]
    batch_size: int

    def __len__(self) -> int:
        return len(self.all_rows) // self.batch_size * len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Any:
        batch, row = divmod(operator.index(index), len(self.rows))
        return self.all_rows[batch * self.batch_size + int(self.rows[row])]


class HeldOutBatches:
    """Every sequence of shards once, in order, the same rows in every run; see `held_out_batches`."""

    def __init__(self, sequences: grain.MapDataset, batch_size: int, share: BatchShare):
        self._sequences = sequences
        self._batch_size = batch_size
        self._rows = share.rows(batch_size)

    def __len__(self) -> int:
        return -(-len(self._sequences) // self._batch_size)

    def __iter__(self) -> Iterator[ArrayBatch]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> ArrayBatch:
        if not 0 <= k < len(self):
            raise IndexError(k)
        indices = (k * self._batch_size + self._rows).tolist()
        sequences = [self._sequences[i] for i in indices if i < len(self._sequences)]
        example = sequences[0] if sequences else self._sequences[0]
        padding = {name: np.zeros_like(value) for name, value in example.items()}
        sequences += [padding] * (len(indices) - len(sequences))
        return {name: np.stack([sequence[name] for sequence in sequences]) for name in padding}


def held_out_batches(
    shards: Shards,
    rows: MakeRow,
    *,
    batch_size: int,
    share: BatchShare = WHOLE_BATCH,
    limit: int | None = None,
    vocabulary_sha256: str | None = None,
) -> HeldOutBatches:
    """Batches for evaluation, made when they are read: every sequence once, or the first `limit` batches.

    The rows depend only on the index of the sequence and on `rows`. The last batch is filled with padding: segment
    0 and weight 0.
    """
    sequences = held_out_sequences(shards, None if limit is None else limit * batch_size, vocabulary_sha256)
    return HeldOutBatches(sequences.seed(_HELD_OUT_SEED).random_map(rows), batch_size, share)


@dataclass(frozen=True, eq=False)
class MaskSequence:
    """Masks a packed sequence. A class rather than a closure, because worker processes must unpickle it."""

    vocabulary: MaskingVocabulary
    masking: Masking

    def __call__(self, sequence: PackedSequence, rng: np.random.Generator) -> dict[str, np.ndarray]:
        input_ids, positions, labels, weights = mask_tokens(*sequence, rng, self.vocabulary, self.masking)
        return {
            "input_ids": input_ids,
            "segment_ids": sequence.segment_ids,
            "position_ids": sequence.position_ids,
            "masked_positions": positions,
            "labels": labels,
            "label_weights": weights,
        }


@dataclass(frozen=True)
class Number:
    """Adds to each sequence the number of its row in the batch."""

    batch_size: int

    def __call__(self, index: int, sequence: PackedSequence) -> tuple[int, PackedSequence]:
        return index % self.batch_size, sequence


@dataclass(frozen=True)
class TwoKinds:
    """Makes batches of two kinds of rows: `part` of every `whole` rows are of the first kind, evenly spread.

    The arrays of the kinds have different numbers of rows, and the prefixes of `names`.
    """

    names: tuple[str, str]
    kinds: tuple[MakeRow, MakeRow]
    part: int
    whole: int

    def __call__(self, numbered: tuple[int, PackedSequence], rng: np.random.Generator) -> dict[str, np.ndarray]:
        number, sequence = numbered
        kind = int((number + 1) * self.part // self.whole == number * self.part // self.whole)
        return {self.names[kind] + name: value for name, value in self.kinds[kind](sequence, rng).items()}


@dataclass(frozen=True)
class BothKinds:
    """Makes a row of each kind from every sequence, for evaluation."""

    names: tuple[str, str]
    kinds: tuple[MakeRow, MakeRow]

    def __call__(self, sequence: PackedSequence, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pairs = zip(self.names, self.kinds, strict=True)
        return {prefix + name: value for prefix, kind in pairs for name, value in kind(sequence, rng).items()}


def stack_each(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array for each name, of the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.stack([row[name] for row in rows if name in row]) for name in names}


def batch_shapes(rows: MakeRow | TwoKinds, length: int, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape and the dtype of each array of a batch, for sequences of `length` tokens."""
    sequence = PackedSequence(np.zeros(length, np.int32), np.ones(length, np.int32))
    parts: list[tuple[str, MakeRow, int]] = []
    if isinstance(rows, TwoKinds):
        first = batch_size * rows.part // rows.whole
        parts += zip(rows.names, rows.kinds, (first, batch_size - first), strict=True)
    else:
        parts.append(("", rows, batch_size))
    return {
        prefix + name: ((number, *value.shape), value.dtype)
        for prefix, make_row, number in parts
        for name, value in make_row(sequence, np.random.default_rng(0)).items()
    }


def _parse_flags() -> None:
    """Mark absl's flags as parsed: Grain reads one when it starts workers, and normally `absl.app.run` parses them."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
