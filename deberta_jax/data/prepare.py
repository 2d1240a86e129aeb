"""Text to shards of tokenized rows: each shard a pure function of a part of the text, so any engine may map it."""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from deberta_jax.data.packing import Row, pack
from deberta_jax.data.sources import Part, parts, total_size
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder

_SHARD_BYTES = 2 << 20
_MOST_SHARDS = 1024
_ENCODED_TOGETHER = 32
_PATIENCE = 20  # seconds
_FORMAT = 3


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer: token ids of texts, without special tokens, and who it is. It can be pickled."""

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


@dataclass(frozen=True)
class Shard:
    """A file of rows, and what went into it: `bytes` of text; `source` stands for the text and all settings."""

    name: str
    source: str
    rows: int
    tokens: int
    documents: int
    bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds: rows of `length` tokens of one vocabulary, and from which files."""

    length: int
    vocabulary_sha256: str
    vocab_size: int
    sources: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def sha256(self) -> str:
        """A digest of what the rows are made from: text, its cut, vocabulary and length."""
        return hashlib.sha256(json.dumps([shard.source for shard in self.shards]).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Those of the text and the [CLS] and [SEP] of each piece; padding is not counted."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def paths(self, folder: Path) -> list[str]:
        """The shards that hold rows, in order."""
        return [str(folder / shard.name) for shard in self.shards if shard.rows]


@dataclass(frozen=True)
class Report:
    """What preparing made, and how fast: text and tokens of the shards that did not stand there before."""

    manifest: Manifest
    seconds: float
    bytes: int
    tokens: int

    @property
    def megabytes_per_second(self) -> float:
        return self.bytes / 1e6 / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def prepare(
    files: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer,
    *,
    length: int,
    shards: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Tokenize text files into shards of rows of `length`, with a `manifest.json`; go on where it was stopped.

    In this process; by dask.distributed with more than one worker, or on the cluster of a `scheduler`, whose workers
    must see the same files: a worker that dies costs the work it was at. The rows do not depend on the workers.
    `progress(done, all)` is called for each shard. Raises InputError for text that cannot be read, and where the
    folder holds shards of another text, vocabulary or length; where the text's files lie does not matter.
    """
    for name, value, least in (("row length", length, 8), ("shards", shards, 1), ("workers", workers, 1)):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    before = time.perf_counter()
    number = shards or min(_MOST_SHARDS, -(-total_size(files) // _SHARD_BYTES))
    # Absolute: workers elsewhere have another working folder.
    folder = folder.absolute()
    cut = parts([os.path.abspath(os.path.expanduser(name)) for name in files], number)
    names = tuple(sorted({piece.path for part in cut for piece in part.pieces}))
    with lock_folder(folder):
        contents = _contents(names, folder / "sources.json")
        sources = [_source(part, contents, tokenizer, length) for part in cut]
        if former := _parse_manifest(folder):
            _check_same(folder, former, tokenizer, length, sources)
        paths = [folder / f"{i:05d}-of-{len(cut):05d}.arrayrecord" for i in range(len(cut))]
        there = [_standing(path, source) for path, source in zip(paths, sources, strict=True)]
        missing = [
            (part, path, tokenizer, length, source)
            for part, path, source, shard in zip(cut, paths, sources, there, strict=True)
            if shard is None
        ]
        if scheduler or (workers > 1 and len(missing) > 1):
            found = _distributed(missing, workers, scheduler)
        else:
            found = (make_shard(*task) for task in missing)
        made: list[Shard] = []
        with closing(found):
            for shard in found:
                made.append(shard)
                if progress:
                    progress(len(paths) - len(missing) + len(made), len(paths))
        for leftover in folder.glob("*.arrayrecord.*"):
            leftover.unlink(missing_ok=True)  # of processes that were killed

        every = sorted([*filter(None, there), *made], key=lambda shard: shard.name)
        manifest = Manifest(length, tokenizer.sha256, tokenizer.vocab_size, names, tuple(every))
        if not manifest.rows:
            raise InputError(f"{', '.join(files)}: the text gives no token; check the files and the tokenizer")
        write_manifest(folder, manifest)
    bytes_made, tokens_made = sum(shard.bytes for shard in made), sum(shard.tokens for shard in made)
    return Report(manifest, time.perf_counter() - before, bytes_made, tokens_made)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Say what a folder of shards holds, in place of what is said there."""
    _write_json(folder / "manifest.json", {"format": _FORMAT, **dataclasses.asdict(manifest)})


def make_shard(part: Part, path: Path, tokenizer: Tokenizer, length: int, source: str) -> Shard:
    """Write the rows of a part at `path`, and beside it, last, what they are: with both, a shard stands."""
    documents = size = rows = tokens = 0

    def encoded() -> Iterator[np.ndarray]:
        nonlocal documents, size
        texts = part.documents()
        while some := list(islice(texts, _ENCODED_TOGETHER)):
            documents, size = documents + len(some), size + sum(len(text.encode()) for text in some)
            yield from tokenizer.encode_many(some)

    def written(action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: could not be written ({reason}); make room for it") from error

    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with ExitStack() as stack:
            writer = written(ArrayRecordWriter, str(temporary), "group_size:1")
            stack.callback(written, writer.close)
            ids = {"cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id, "pad_id": tokenizer.pad_id}
            for row in pack(encoded(), length, **ids):
                written(writer.write, to_record(row))
                rows, tokens = rows + 1, tokens + int(np.count_nonzero(row.segment_ids))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    shard = Shard(path.name, source, rows, tokens, documents, size, path.stat().st_size)
    _write_json(path.with_suffix(".json"), dataclasses.asdict(shard))
    return shard


def to_record(row: Row) -> bytes:
    """Ids and segments, each T little-endian 32-bit integers."""
    return np.stack(row).astype("<i4").tobytes()


def from_record(record: bytes) -> Row:
    input_ids, segment_ids = np.frombuffer(record, "<i4").astype(np.int32).reshape(2, -1)
    return Row(input_ids, segment_ids)


def read_manifest(folder: Path, vocabulary_sha256: str | None = None) -> Manifest:
    """The manifest of a folder of shards, all there; raises InputError if they are not, or of another vocabulary."""
    manifest = _parse_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: no shards here, or no manifest.json that this version reads; prepare them first")
    if vocabulary_sha256 not in (None, manifest.vocabulary_sha256):
        raise InputError(
            f"{folder}: shards of vocabulary {manifest.vocabulary_sha256[:12]}, the tokenizer's is "
            f"{vocabulary_sha256[:12]}; give the tokenizer they were made with, or prepare them again"
        )
    for name in (shard.name for shard in manifest.shards):
        if not (folder / name).exists():
            raise InputError(f"{folder}: shard {name} of its manifest is gone; bring it back, or prepare them again")
    return manifest


def _parse_manifest(folder: Path) -> Manifest | None:
    """None where there is none, or none that can be read: then each shard's own record says what stands."""
    try:
        fields = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if fields.pop("format") != _FORMAT:
            return None
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        return Manifest(**{**fields, "sources": tuple(fields["sources"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _distributed(calls: Iterable[tuple[Any, ...]], workers: int, scheduler: str | None) -> Generator[Shard, None, None]:
    """`make_shard` of each, as they come, by dask's workers; few are sent at a time, each has the tokenizer in it."""
    try:
        import dask
        from distributed import CancelledError, Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise InputError("several workers need dask.distributed; pip install 'deberta-jax[prep]'") from None
    with ExitStack() as stack:
        log = logging.getLogger("distributed")
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.WARNING)
        quiet = {"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "warning"}
        stack.enter_context(dask.config.set(quiet))
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        else:
            try:
                client = stack.enter_context(Client(scheduler, timeout=_PATIENCE))
                client.wait_for_workers(1, timeout=_PATIENCE)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{scheduler}: no dask scheduler with workers answers there ({error}); check its address"
                ) from None
            workers = max(workers, sum(client.nthreads().values()))

        def submit(call: tuple[Any, ...]) -> Any:
            return client.submit(make_shard, *call, pure=False)

        calls = iter(calls)
        pending = as_completed(submit(call) for call in islice(calls, 2 * workers))
        for future in pending:
            try:
                shard = future.result()
            except KilledWorker as error:
                raise InputError(
                    f"a shard killed every worker that tried it ({error}); give workers more memory, or use one worker"
                ) from None
            except CancelledError:
                raise InputError(
                    f"{scheduler or 'dask'}: the scheduler is gone; shards made so far stay, the same command goes on"
                ) from None
            yield shard
            for call in islice(calls, 1):
                pending.add(submit(call))


def _contents(paths: Sequence[str], known: Path) -> dict[str, str]:
    """A digest of each file's content; those of files as big and as old as in `known` are taken from there."""
    try:
        kept = dict(json.loads(known.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        kept = {}
    for path in paths:
        stat = os.stat(path)
        age = [stat.st_size, stat.st_mtime_ns]
        entry = kept.get(path)
        if not (isinstance(entry, list) and entry[:-1] == age):
            with open(path, "rb") as file:
                kept[path] = [*age, hashlib.file_digest(file, "sha256").hexdigest()]
            _write_json(known, kept)
    return {path: kept[path][-1] for path in paths}


def _source(part: Part, contents: Mapping[str, str], tokenizer: Tokenizer, length: int) -> str:
    """A digest of the text, its cut, the vocabulary and the length."""
    files = [[contents[piece.path], piece.start, piece.end] for piece in part.pieces]
    return hashlib.sha256(json.dumps([_FORMAT, files, tokenizer.sha256, length]).encode()).hexdigest()[:16]


def _standing(path: Path, source: str) -> Shard | None:
    try:
        shard = Shard(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return shard if shard.source == source and path.exists() and path.stat().st_size == shard.file_bytes else None


def _check_same(folder: Path, manifest: Manifest, tokenizer: Tokenizer, length: int, sources: list[str]) -> None:
    theirs = [manifest.vocabulary_sha256[:12], manifest.length, [shard.source for shard in manifest.shards]]
    ours = [tokenizer.sha256[:12], length, sources]
    for name, there, here in zip(("vocabulary", "row length", "text"), theirs, ours, strict=True):
        if there != here:
            said = "another" if name == "text" else f"{there} there, {here} here"
            raise InputError(f"{folder}: holds shards of another {name} ({said}); name another folder, or remove it")


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(temporary, path)
