"""The packed sequences of a folder of shards, by index."""

import errno
import os
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from deberta_jax.data.manifest import Manifest, read_manifest
from deberta_jax.data.shards import from_record
from deberta_jax.errors import InputError


def read_sequences(folder: Path, vocabulary_sha256: str | None = None) -> grain.MapDataset:
    """The sequences of all shards in order; raises InputError for a folder without shards, or of another vocabulary."""
    manifest = read_manifest(folder, vocabulary_sha256)
    records = Records(folder, manifest)
    if len(records) != manifest.sequences:
        raise InputError(
            f"{folder}: {len(records)} sequences in the shards, {manifest.sequences} in the manifest; prepare the "
            "shards again"
        )
    return grain.MapDataset.source(records).map(from_record)


class Records:
    """The records of all shards by index, as a source for Grain; raises InputError with the name of a damaged shard."""

    def __init__(self, folder: Path, manifest: Manifest):
        self._paths = manifest.paths(folder)
        self._ends = np.cumsum([shard.sequences for shard in manifest.shards if shard.sequences])
        for path in self._paths:
            try:
                ArrayRecordReader(path).close()
            except RuntimeError as error:
                raise _read_error(path, error) from error
        self._source = grain.sources.ArrayRecordDataSource(self._paths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        try:
            return self._source[index]
        except RuntimeError as error:
            raise _read_error(self._paths[int(np.searchsorted(self._ends, index, "right"))], error) from error


def _read_error(path: str, error: RuntimeError) -> InputError:
    """What to do about a shard that cannot be read: it is damaged, unless the system refuses to open it."""
    if os.strerror(errno.EMFILE) in str(error):
        return InputError(f"{path}: too many open files; raise the limit (ulimit -n), or prepare fewer shards")
    try:
        open(path, "rb").close()
    except OSError as reason:
        return InputError(f"{path}: cannot be read ({reason.strerror})")
    return InputError(f"{path}: damaged; remove this file and prepare the shards again")
