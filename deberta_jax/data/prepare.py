"""Text files to a folder of shards of packed token sequences."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from deberta_jax.data.cluster import map_on_workers
from deberta_jax.data.manifest import (
    FORMAT_VERSION,
    Manifest,
    Shard,
    find_manifest,
    find_shard,
    write_manifest,
)
from deberta_jax.data.shards import CorpusTokenizer, ShardJob, make_shard
from deberta_jax.data.sources import Part, split_files, total_size
from deberta_jax.errors import InputError, check_at_least, list_names
from deberta_jax.files import lock_folder, read_json, write_json

_SHARD_BYTES = 2 << 20
_MAX_SHARDS = 1024


@dataclass(frozen=True)
class PrepareReport:
    """The manifest, and the text and tokens of the shards made by this call."""

    manifest: Manifest
    seconds: float
    bytes: int
    tokens: int

    @property
    def megabytes_per_second(self) -> float:
        """Text throughput."""
        return self.bytes / 1e6 / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Token throughput."""
        return self.tokens / self.seconds


def prepare(
    files: Sequence[str],
    folder: Path,
    tokenizer: CorpusTokenizer,
    *,
    length: int,
    shards: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Tokenize text files into shards of sequences of `length` tokens, and write a `manifest.json`.

    Shards that exist are kept, so the same call resumes an interrupted one. With several `workers`, or the address of a
    dask `scheduler` whose workers see the same files, the work is distributed; the sequences do not depend on it.
    `progress(done, total)` is called after each shard. Raises InputError for invalid options, for text that cannot be
    read, and for a folder with shards of another text, vocabulary or length; paths of the text files may change.
    """
    for name, value, minimum in (("length", length, 8), ("shards", shards, 1), ("workers", workers, 1)):
        check_at_least(name, value, minimum)
    started = time.perf_counter()
    number = shards or min(_MAX_SHARDS, -(-total_size(files) // _SHARD_BYTES))
    # Paths are absolute because a worker may have another working folder.
    folder = folder.absolute()
    parts = split_files([os.path.abspath(os.path.expanduser(name)) for name in files], number)
    text_files = tuple(sorted({source.path for part in parts for source in part.ranges}))
    with lock_folder(folder):
        jobs = _jobs(parts, folder, tokenizer, length, _file_digests(text_files, folder / "sources.json"))
        if existing := find_manifest(folder):
            _check_same(folder, existing, tokenizer, length, [job.source for job in jobs])
        complete = {job.path: find_shard(job.path, job.source) for job in jobs}
        missing = [job for job in jobs if complete[job.path] is None]
        created = []
        with closing(_run_jobs(missing, workers, scheduler)) as results:
            for shard in results:
                created.append(shard)
                progress(len(jobs) - len(missing) + len(created), len(jobs))
        for leftover in folder.glob("*.partial"):
            leftover.unlink(missing_ok=True)  # by a process that was killed

        all_shards = sorted([*filter(None, complete.values()), *created], key=lambda shard: shard.name)
        manifest = Manifest(length, tokenizer.sha256, tokenizer.vocab_size, text_files, tuple(all_shards))
        if not manifest.sequences:
            raise InputError(f"{list_names(files)}: the text has no tokens; check the files and the tokenizer")
        write_manifest(folder, manifest)
    seconds = time.perf_counter() - started
    return PrepareReport(
        manifest, seconds, sum(shard.bytes for shard in created), sum(shard.tokens for shard in created)
    )


def _jobs(
    parts: Sequence[Part], folder: Path, tokenizer: CorpusTokenizer, length: int, digests: Mapping[str, str]
) -> list[ShardJob]:
    """One job for each part. `source` is a digest of the text, how it is split, the vocabulary and the length."""
    jobs = []
    for index, part in enumerate(parts):
        ranges = [[digests[source.path], source.start, source.end] for source in part.ranges]
        content = json.dumps([FORMAT_VERSION, ranges, tokenizer.sha256, length])
        source = hashlib.sha256(content.encode()).hexdigest()[:16]
        path = folder / f"{index:05d}-of-{len(parts):05d}.arrayrecord"
        jobs.append(ShardJob(part, path, tokenizer, length, source))
    return jobs


def _run_jobs(jobs: Sequence[ShardJob], workers: int, scheduler: str | None) -> Generator[Shard, None, None]:
    """Shards in order of completion."""
    if scheduler or (workers > 1 and len(jobs) > 1):
        yield from map_on_workers(make_shard, jobs, workers, scheduler)
    else:
        yield from map(make_shard, jobs)


def _file_digests(paths: Sequence[str], cache: Path) -> dict[str, str]:
    """A digest of the content of each file; digests in `cache` are used for files of the same size and time."""
    try:
        known = read_json(cache)
    except InputError:
        known = {}
    for path in paths:
        stat = os.stat(path)
        state = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(path)
        if not (isinstance(entry, list) and entry[:-1] == state):
            with open(path, "rb") as file:
                known[path] = [*state, hashlib.file_digest(file, "sha256").hexdigest()]
            write_json(cache, known)
    return {path: known[path][-1] for path in paths}


def _check_same(
    folder: Path, manifest: Manifest, tokenizer: CorpusTokenizer, length: int, sources: Sequence[str]
) -> None:
    """Raise InputError if the folder contains shards of another vocabulary, length or text."""
    existing_sources = [shard.source for shard in manifest.shards]
    for name, existing, requested in (
        ("vocabulary", manifest.vocabulary_sha256[:12], tokenizer.sha256[:12]),
        ("sequence length", manifest.length, length),
        ("text", existing_sources, sources),
    ):
        if existing != requested:
            detail = "" if name == "text" else f" ({existing} in the folder, {requested} requested)"
            raise InputError(
                f"{folder}: contains shards of another {name}{detail}; use another folder, or remove this one"
            )
