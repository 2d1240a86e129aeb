"""Batches of masked rows, by index: batch k is a function of (seed, k), whoever makes it and wherever they begin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grain
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader

from deberta_jax.data.masking import Masking, Vocabulary, mask_tokens
from deberta_jax.data.packing import Row, position_ids
from deberta_jax.data.prepare import Manifest, from_record, read_manifest
from deberta_jax.errors import InputError

Batch = Mapping[str, np.ndarray]

# The masks of held-out rows: the same in every run, whatever its seed.
_HELD_OUT_SEED = 20_060
_ENDLESS = 1 << 52


class Batches(Iterator[Batch]):
    """Batches `start`, `start` + 1, ... of a folder of shards, without end; of each the rows that are this host's.

    Each is a dict of `input_ids` (masked), `segment_ids` and `position_ids`, int32 [B, T]; `masked_positions` and
    `labels`, int32 [B, M]; `label_weights`, float32 [B, M], 0 where a slot is not used. The rows are shuffled anew in
    every epoch and masked anew at every visit. Made by threads of this process, or by `workers` processes. To be
    closed, or used as a context manager.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_size: int,
        seed: int,
        vocabulary: Vocabulary,
        masking: Masking,
        start: int = 0,
        host_index: int = 0,
        host_count: int = 1,
        workers: int = 0,
        vocabulary_sha256: str | None = None,
    ):
        rows = _rows(folder, vocabulary_sha256).seed(seed).shuffle()
        # Grain counts batches in floating point: exact up to here.
        rows = rows.repeat(_ENDLESS // len(rows))
        size = _rows_of_host(batch_size, host_index, host_count)
        chunks = rows.random_map(MaskRow(vocabulary, masking)).batch(size)
        mine = chunks[host_index + start * host_count :: host_count]
        if workers:
            _parse_flags()
            # One thread a process: several would take turns in it.
            batches = mine.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
        else:
            batches = mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
        self._batches: grain.DatasetIterator | None = iter(batches)
        self._shared = workers > 0

    def __next__(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        batch = next(self._batches)
        # Memory that is shared with a worker is to be freed before this process ends: nobody else may hold it.
        return {name: np.array(value) for name, value in batch.items()} if self._shared else batch

    def close(self) -> None:
        """End its threads and processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class HeldOut:
    """Every row of a folder of shards once, in order, always masked in the same way; see `held_out`."""

    def __init__(self, rows: grain.MapDataset, batch_size: int, host_index: int, host_count: int):
        self._rows = rows
        self._batch_size = batch_size
        self._size = _rows_of_host(batch_size, host_index, host_count)
        self._first = host_index * self._size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Batch:
        if not 0 <= k < len(self):
            raise IndexError(k)
        first = k * self._batch_size + self._first
        rows = [self._rows[i] for i in range(first, min(first + self._size, len(self._rows)))]
        empty = {name: np.zeros_like(value) for name, value in (rows[0] if rows else self._rows[0]).items()}
        rows += [empty] * (self._size - len(rows))
        return {name: np.stack([row[name] for row in rows]) for name in empty}


def held_out(
    folder: Path,
    *,
    batch_size: int,
    vocabulary: Vocabulary,
    masking: Masking,
    host_index: int = 0,
    host_count: int = 1,
    vocabulary_sha256: str | None = None,
    most: int | None = None,
) -> HeldOut:
    """Batches of every row once, as those of `Batches`, made when asked for; at most `most` batches.

    The masks depend on nothing but the row's number and `masking`. What the last batch lacks is rows of padding,
    segment 0 and weight 0.
    """
    rows = _rows(folder, vocabulary_sha256)
    if most is not None:
        rows = rows[: most * batch_size]
    return HeldOut(
        rows.seed(_HELD_OUT_SEED).random_map(MaskRow(vocabulary, masking)), batch_size, host_index, host_count
    )


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A record to a row of a batch. A class, since what goes to worker processes must be picklable."""

    vocabulary: Vocabulary
    masking: Masking

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, np.ndarray]:
        input_ids, positions, labels, weights = mask_tokens(*row, rng, self.vocabulary, self.masking)
        return {
            "input_ids": input_ids,
            "segment_ids": row.segment_ids,
            "position_ids": position_ids(row.segment_ids),
            "masked_positions": positions,
            "labels": labels,
            "label_weights": weights,
        }


class _Records:
    """The records of all shards by number, as Grain reads them; a shard that is damaged is named."""

    def __init__(self, folder: Path, manifest: Manifest):
        self._paths = manifest.paths(folder)
        self._ends = np.cumsum([shard.rows for shard in manifest.shards if shard.rows])
        for path in self._paths:
            try:
                ArrayRecordReader(path).close()
            except RuntimeError as error:
                raise _damaged(path) from error
        self._source = grain.sources.ArrayRecordDataSource(self._paths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        try:
            return self._source[index]
        except RuntimeError as error:
            raise _damaged(self._paths[int(np.searchsorted(self._ends, index, "right"))]) from error


def _damaged(path: str) -> InputError:
    return InputError(f"{path}: damaged; remove it and prepare the shards again")


def _rows(folder: Path, vocabulary_sha256: str | None) -> grain.MapDataset:
    manifest = read_manifest(folder, vocabulary_sha256)
    records = _Records(folder, manifest)
    if len(records) != manifest.rows:
        raise InputError(f"{folder}: {len(records)} rows, {manifest.rows} in its manifest; prepare the shards again")
    return grain.MapDataset.source(records).map(from_record)


def _rows_of_host(batch_size: int, host_index: int, host_count: int) -> int:
    if batch_size < 1 or batch_size % host_count:
        raise InputError(f"batches of {batch_size} rows cannot be shared by {host_count} hosts; take a multiple")
    if not 0 <= host_index < host_count:
        raise InputError(f"host {host_index} of {host_count}; hosts are counted from 0")
    return batch_size // host_count


def _parse_flags() -> None:
    """Grain reads an absl flag as it starts workers, which only `absl.app.run` would have parsed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
