"""Shards: array-record files of packed sequences. Each shard is a pure function of a part of the text."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from deberta_jax.data.manifest import Shard, write_shard_record
from deberta_jax.data.packing import PackedSequence, pack
from deberta_jax.data.sources import Part
from deberta_jax.errors import InputError
from deberta_jax.files import replace_file

# Documents that are tokenized together: so many, or so many characters.
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 32, 1 << 24


@runtime_checkable
class CorpusTokenizer(Protocol):
    """What shards need of a tokenizer, which must be picklable: token ids of texts, without special tokens."""

    @property
    def sha256(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def cls_id(self) -> int: ...
    @property
    def sep_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    def encode_many(self, texts: list[str]) -> list[np.ndarray]: ...


class ShardJob(NamedTuple):
    """Everything that a worker needs to make one shard."""

    part: Part
    path: Path
    tokenizer: CorpusTokenizer
    length: int
    source: str
    """The digest that identifies the content of the shard."""
    dropped: Path | None = None
    """A file with a byte for each document of the part, 0 to keep it; None if all are kept."""

    def documents(self) -> Iterator[str]:
        """The documents that are kept."""
        if self.dropped is None:
            return self.part.documents()
        reasons = np.frombuffer(self.dropped.read_bytes(), np.uint8)
        pairs = zip(self.part.documents(), reasons, strict=True)
        return (document for document, reason in pairs if not reason)


def make_shard(job: ShardJob) -> Shard:
    """Write a shard and then its record; raises InputError for text that cannot be read, and if writing fails."""
    documents = size = sequences = tokens = 0

    def encoded() -> Iterator[np.ndarray]:
        nonlocal documents, size
        for batch in _batches(job.documents()):
            documents, size = documents + len(batch), size + sum(len(text.encode()) for text in batch)
            yield from job.tokenizer.encode_many(batch)

    def checked(action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].partition(";")[0]
            raise InputError(f"{job.path}: cannot be written ({reason}); free disk space") from error

    def write(temporary: Path) -> None:
        nonlocal sequences, tokens
        with ExitStack() as stack:
            writer = checked(ArrayRecordWriter, str(temporary), "group_size:1")
            stack.callback(checked, writer.close)
            ids = {"cls_id": job.tokenizer.cls_id, "sep_id": job.tokenizer.sep_id, "pad_id": job.tokenizer.pad_id}
            for sequence in pack(encoded(), job.length, **ids):
                checked(writer.write, to_record(sequence))
                sequences, tokens = sequences + 1, tokens + int(np.count_nonzero(sequence.segment_ids))

    file_bytes = replace_file(job.path, write).stat().st_size
    shard = Shard(job.path.name, job.source, sequences, tokens, documents, size, file_bytes)
    write_shard_record(job.path, shard)
    return shard


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def to_record(sequence: PackedSequence) -> bytes:
    """Token ids, then segment ids, as little-endian 32-bit integers."""
    return np.stack(sequence).astype("<i4").tobytes()


def from_record(record: bytes) -> PackedSequence:
    """The sequence of a record that `to_record` made."""
    input_ids, segment_ids = np.frombuffer(record, "<i4").astype(np.int32).reshape(2, -1)
    return PackedSequence(input_ids, segment_ids)
