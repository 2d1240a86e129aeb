"""Which documents become shards: a quality filter, and the removal of exact and near duplicates.

Workers examine each part of the text: the filter, and the fingerprints of the documents that pass. One process then
compares the fingerprints and writes, for each part, which documents are dropped and why.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deberta_jax.data.duplicates import Signatures, exact_duplicates, near_duplicates
from deberta_jax.data.fingerprints import PERMUTATIONS, bands, exact_hash, minhash, signature
from deberta_jax.data.quality import FilterName, reasons, rejection
from deberta_jax.data.sources import Part
from deberta_jax.errors import InputError, check_at_least
from deberta_jax.files import make_folder, read_json, replace_file, write_bytes, write_json

Deduplication = Literal["none", "exact", "near"]

# Part of the digest of an examination: those of another version are made again.
_VERSION = 1
_BLOCK = 256
# Reasons to drop a document, by number; the rules of the filter follow.
_KEEP, _EXACT, _NEAR, _FILTER = 0, 1, 2, 3
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact duplicate", "near duplicate"


@dataclass(frozen=True)
class Selection:
    """The documents to keep; by default all."""

    filter: FilterName = "none"
    """Drop documents of low quality: gopher has rules for any language with spaces between words, english adds more."""
    deduplicate: Deduplication = "none"
    """Drop documents that equal an earlier one (exact), or that are also similar to an earlier one (near)."""
    similarity: float = 0.8
    """Jaccard similarity from which documents are near duplicates, of their sets of shingles."""
    shingle: int = 5
    """Consecutive words in a shingle."""

    def __post_init__(self) -> None:
        check_at_least("shingle", self.shingle, 1)
        if not 0.5 <= self.similarity <= 1:
            raise InputError(f"similarity is {self.similarity}; it must be from 0.5 to 1")

    @property
    def is_active(self) -> bool:
        """Whether any document can be dropped."""
        return self.filter != "none" or self.deduplicate != "none"

    @property
    def document_type(self) -> np.dtype:
        """What is stored of each document: the reason to drop it, and its fingerprints."""
        fields: list[tuple] = [("reason", "u1")]
        fields += [("hash", "<u8")] * (self.deduplicate != "none")
        fields += [("signature", "<u4", (PERMUTATIONS,))] * (self.deduplicate == "near")
        return np.dtype(fields)


class ExamineJob(NamedTuple):
    """Everything that a worker needs to examine the documents of a part."""

    part: Part
    path: Path
    selection: Selection
    digest: str
    """Identifies the text and the selection."""


def examine(job: ExamineJob) -> None:
    """Write the reason and the fingerprints of each document of a part, and then a record of the file."""
    kind = job.selection.document_type

    def blocks() -> Iterator[bytes]:
        documents = job.part.documents()
        while block := [_examined(document, job.selection, kind) for document in islice(documents, _BLOCK)]:
            yield np.concatenate(block).tobytes()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(blocks())

    size = replace_file(job.path, write).stat().st_size
    write_json(job.path.with_suffix(".json"), {"digest": job.digest, "documents": size // kind.itemsize})


def _examined(document: str, selection: Selection, kind: np.dtype) -> np.ndarray:
    row = np.zeros(1, kind)
    if reason := rejection(document, selection.filter):
        row["reason"] = _FILTER + reasons(selection.filter).index(reason)
    elif selection.deduplicate != "none":
        row["hash"] = exact_hash(document)
        if selection.deduplicate == "near":
            row["signature"] = signature(document, selection.shingle)
    return row


def select_documents(
    parts: Sequence[Part],
    ranges: Sequence[object],
    folder: Path,
    selection: Selection,
    examine_all: Callable[[Sequence[ExamineJob]], Iterator[None]],
    progress: Callable[[int], None],
) -> list[Path | None]:
    """For each part, the path of a file with a byte for each document, 0 to keep it; None if all are kept.

    A document is dropped if the filter rejects it, or if an earlier document is a duplicate. `ranges` (JSON)
    identify the text of the parts. `examine_all` calls `examine` with each job, and yields after each; examinations
    that exist in `folder` are not repeated. The result does not depend on the order of the jobs. `progress` is called
    with the number of examined parts.
    """
    if selection.deduplicate == "near":
        minhash()  # reports a missing library before any text is read
    make_folder(folder)
    jobs = []
    for index, (part, text) in enumerate(zip(parts, ranges, strict=True)):
        options = [selection.filter, selection.deduplicate, selection.shingle * (selection.deduplicate == "near")]
        content = hashlib.sha256(json.dumps([_VERSION, text, *options]).encode()).hexdigest()[:16]
        jobs.append(ExamineJob(part, folder / f"{index:05d}-of-{len(parts):05d}.documents", selection, content))
    missing = [job for job in jobs if not _is_complete(job)]
    for number, _ in enumerate(examine_all(missing), 1):
        progress(len(jobs) - len(missing) + number)
    return _write_masks(jobs, _drop(jobs, selection))


def dropped_counts(paths: Sequence[Path | None], selection: Selection) -> dict[str, int]:
    """The number of dropped documents by reason, in the order of the rules."""
    names = ["", EXACT_DUPLICATE, NEAR_DUPLICATE, *reasons(selection.filter)]
    counts = Counter(byte for path in paths if path for byte in path.read_bytes())
    order = [*range(_FILTER, len(names)), _EXACT, _NEAR]
    return {names[reason]: counts[reason] for reason in order if counts[reason]}


def _is_complete(job: ExamineJob) -> bool:
    try:
        record = read_json(job.path.with_suffix(".json"))
    except InputError:
        return False
    size = record.get("documents", -1) * job.selection.document_type.itemsize
    return record.get("digest") == job.digest and job.path.exists() and job.path.stat().st_size == size


def _drop(jobs: Sequence[ExamineJob], selection: Selection) -> list[np.ndarray]:
    """The reason to drop each document, an array for each part."""

    def read(number: int) -> np.ndarray:
        path = jobs[number].path
        return np.memmap(path, selection.document_type, "r") if path.stat().st_size else no_documents

    def column(name: str) -> np.ndarray:
        # Copies, so that only one part is mapped into memory at a time.
        return np.concatenate([np.array(read(number)[name]) for number in range(len(jobs))])

    no_documents = np.zeros(0, selection.document_type)
    reason = column("reason")
    counts = [len(read(number)) for number in range(len(jobs))]
    if selection.deduplicate != "none":
        hashes = column("hash")
        reason[exact_duplicates(hashes, np.flatnonzero(reason == _KEEP))] = _EXACT
        del hashes
    if selection.deduplicate == "near":
        signatures = Signatures(counts, lambda number: read(number)["signature"])
        candidates = np.flatnonzero(reason == _KEEP)
        duplicates = near_duplicates(signatures, candidates, selection.similarity, *bands(selection.similarity))
        reason[duplicates] = _NEAR
    return np.split(reason, np.cumsum(counts)[:-1])


def _write_masks(jobs: Sequence[ExamineJob], reasons_of_parts: Sequence[np.ndarray]) -> list[Path | None]:
    paths: list[Path | None] = []
    for job, reason in zip(jobs, reasons_of_parts, strict=True):
        path = job.path.with_suffix(".dropped")
        paths.append(path if reason.any() else None)
        if not reason.any():
            path.unlink(missing_ok=True)
        elif not (path.exists() and path.read_bytes() == reason.tobytes()):
            write_bytes(path, reason.tobytes())
    return paths


def selection_settings(selection: Selection) -> dict[str, object]:
    """The options that are in effect, for the manifest; none if all documents are kept."""
    if not selection.is_active:
        return {}
    options = dataclasses.asdict(selection)
    if selection.deduplicate != "near":
        del options["similarity"], options["shingle"]
    return options
