"""Text files to a folder of shards of packed token sequences."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deberta_jax.data.cluster import Job, Result, map_on_workers
from deberta_jax.data.manifest import FORMAT_VERSION, Manifest, Shard, find_manifest, find_shard, write_manifest
from deberta_jax.data.readers import DEFAULT_TEXT
from deberta_jax.data.selection import Selection, dropped_counts, examine, select_documents, selection_settings
from deberta_jax.data.shards import CorpusTokenizer, ShardJob, make_shard
from deberta_jax.data.sources import Part, split_files, total_size
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError, check_at_least, list_names
from deberta_jax.files import lock_folder, read_json, write_json

_SHARD_BYTES = 2 << 20
_MAX_SHARDS = 1024
_EVERY_DOCUMENT = Selection()


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

    def speed(self) -> str:
        """Time and throughput as they are printed."""
        if not self.bytes:
            return "already complete"
        rates = f"{self.megabytes_per_second:.1f} MB/s, {self.tokens_per_second:,.0f} tokens/s"
        return f"{self.seconds:.0f} s, {rates}"


def prepare(
    files: Sequence[str],
    folder: Path,
    tokenizer: CorpusTokenizer,
    *,
    length: int,
    text: TextOptions = DEFAULT_TEXT,
    selection: Selection = _EVERY_DOCUMENT,
    shards: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Tokenize text files into shards of sequences of `length` tokens, and write a `manifest.json`.

    `text` says what a document is. `selection` says which documents are kept, by default all; it takes one more pass
    over the text, whose results stay in the folder. Work that is complete is not repeated, so the same call resumes an
    interrupted one. With several `workers`, or the address of a dask `scheduler` whose workers see the same files, the
    work is distributed; the sequences do not depend on it. `progress(done, total)` is called after each part of the
    text in each pass. Raises InputError for invalid options, for text that cannot be read, and for a folder with shards
    of another text, selection, vocabulary or length; paths of the text files may change.
    """
    for name, value, minimum in (("length", length, 8), ("shards", shards, 1), ("workers", workers, 1)):
        check_at_least(name, value, minimum)
    started = time.perf_counter()
    number = shards or min(_MAX_SHARDS, -(-total_size(files, text) // _SHARD_BYTES))
    # Paths are absolute because a worker may have another working folder.
    folder = folder.absolute()
    parts = split_files([os.path.abspath(os.path.expanduser(name)) for name in files], number, text)
    text_files = tuple(sorted({source.path for part in parts for source in part.ranges}))
    with lock_folder(folder):
        existing, settings = find_manifest(folder), selection_settings(selection)
        if existing:
            _check_options(folder, existing, tokenizer, length, settings)
        run = partial(_run_jobs, workers=workers, scheduler=scheduler)
        ranges = _part_ranges(parts, _file_digests(text_files, folder / "sources.json"))
        total = (2 if selection.is_active else 1) * len(parts)
        dropped: list[Path | None] = [None] * len(parts)
        if selection.is_active:
            dropped = select_documents(
                parts,
                ranges,
                folder / "documents",
                selection,
                partial(run, examine),
                lambda done: progress(done, total),
            )
        jobs = _jobs(parts, ranges, dropped, folder, tokenizer, length)
        if existing and [shard.source for shard in existing.shards] != [job.source for job in jobs]:
            raise _other_shards(folder, "text, or of text with other documents")
        all_shards, created = _make_shards(jobs, folder, run, lambda done: progress(total - len(jobs) + done, total))
        counts = dropped_counts(dropped, selection)
        manifest = Manifest(length, tokenizer.sha256, tokenizer.vocab_size, text_files, all_shards, settings, counts)
        if not manifest.sequences:
            raise _no_tokens(files, counts)
        write_manifest(folder, manifest)
    seconds = time.perf_counter() - started
    return PrepareReport(
        manifest, seconds, sum(shard.bytes for shard in created), sum(shard.tokens for shard in created)
    )


def _part_ranges(parts: Sequence[Part], digests: Mapping[str, str]) -> list[list[list[Any]]]:
    """What identifies the text of each part, as JSON: the digest of each file, the range, and how it is read."""
    return [
        [[digests[source.path], source.start, source.end, *part.reading(source)] for source in part.ranges]
        for part in parts
    ]


def _jobs(
    parts: Sequence[Part],
    ranges: Sequence[list[list[Any]]],
    dropped: Sequence[Path | None],
    folder: Path,
    tokenizer: CorpusTokenizer,
    length: int,
) -> list[ShardJob]:
    """One job for each part. `source` is a digest of the text, how it is split, the vocabulary and the length, and of
    the documents that are dropped.
    """
    jobs = []
    for index, (part, mask) in enumerate(zip(parts, dropped, strict=True)):
        content: list[Any] = [FORMAT_VERSION, ranges[index], tokenizer.sha256, length]
        if mask:
            content.append(hashlib.sha256(mask.read_bytes()).hexdigest())
        source = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        path = folder / f"{index:05d}-of-{len(parts):05d}.arrayrecord"
        jobs.append(ShardJob(part, path, tokenizer, length, source, mask))
    return jobs


def _make_shards(
    jobs: Sequence[ShardJob],
    folder: Path,
    run: Callable[[Callable[[ShardJob], Shard], Sequence[ShardJob]], Generator[Shard, None, None]],
    progress: Callable[[int], None],
) -> tuple[tuple[Shard, ...], list[Shard]]:
    """All shards in order, and those that did not exist; `progress` is called with the number of existing shards."""
    complete = {job.path: find_shard(job.path, job.source) for job in jobs}
    missing = [job for job in jobs if complete[job.path] is None]
    created: list[Shard] = []
    with closing(run(make_shard, missing)) as results:
        for shard in results:
            created.append(shard)
            progress(len(jobs) - len(missing) + len(created))
    for leftover in folder.rglob("*.partial"):
        leftover.unlink(missing_ok=True)  # by a process that was killed
    return tuple(sorted([*filter(None, complete.values()), *created], key=lambda shard: shard.name)), created


def _run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, scheduler: str | None
) -> Generator[Result, None, None]:
    """The results in order of completion."""
    if scheduler or (workers > 1 and len(jobs) > 1):
        yield from map_on_workers(function, jobs, workers, scheduler)
    else:
        yield from map(function, jobs)


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


def _check_options(
    folder: Path, manifest: Manifest, tokenizer: CorpusTokenizer, length: int, selection: Mapping[str, object]
) -> None:
    """Raise InputError if the folder contains shards of another vocabulary, length or selection of documents."""
    for name, existing, requested in (
        ("vocabulary", manifest.vocabulary_sha256[:12], tokenizer.sha256[:12]),
        ("sequence length", manifest.length, length),
        ("selection of documents", dict(manifest.selection) or "all", dict(selection) or "all"),
    ):
        if existing != requested:
            raise _other_shards(folder, name, f" ({existing} in the folder, {requested} requested)")


def _other_shards(folder: Path, difference: str, detail: str = "") -> InputError:
    return InputError(
        f"{folder}: contains shards of another {difference}{detail}; use another folder, or remove this one"
    )


def _no_tokens(files: Sequence[str], dropped: Mapping[str, int]) -> InputError:
    if dropped:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        return InputError(f"{list_names(files)}: the selection drops all text ({counts}); use a less strict one")
    return InputError(f"{list_names(files)}: the text has no tokens; check the files and the tokenizer")
