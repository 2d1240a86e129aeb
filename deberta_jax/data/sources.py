"""Text files as a stream of documents, and how the files are split among workers."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deberta_jax.data import readers
from deberta_jax.data.readers import SUFFIXES, FileRange, no_text, read_range
from deberta_jax.errors import InputError

_SPLITTABLE = (".txt", ".jsonl")
# Typical size of text relative to its compressed size.
_COMPRESSION = 3


@dataclass(frozen=True)
class Part:
    """A share of the text for one shard: consecutive files or ranges of files."""

    ranges: tuple[FileRange, ...]

    def documents(self) -> Iterator[str]:
        """The documents, none of them empty; raises InputError as `read_range` does."""
        for source in self.ranges:
            yield from read_range(source)


def documents(files: Sequence[str]) -> Iterator[str]:
    """The documents in all files that the paths and patterns match, in order of file name.

    In a `.txt` file blank lines separate documents; in a `.jsonl` file each line is a document (field `text`), in a
    parquet file each row (column `text`). Raises InputError for a pattern without matches, an unknown file type, a file
    without text, and content that cannot be read, with the file and the byte or line.
    """
    for path in find_files(files):
        yield from read_range(FileRange(path))


def split_files(files: Sequence[str], number: int) -> list[Part]:
    """Split the text into at most `number` parts of similar size; in order they contain exactly `documents(files)`.

    Uncompressed `.txt` and `.jsonl` files are split between documents, or between lines where a document is very long.
    The result depends only on the sizes and the content of the files, and on `number`.
    """
    paths = find_files(files)
    sizes = [_estimated_size(path) for path in paths]
    total = sum(sizes)
    bins: list[list[FileRange]] = [[] for _ in range(number)]
    before = 0
    for path, size in zip(paths, sizes, strict=True):
        bounds = [0, size]
        if path.endswith(_SPLITTABLE):
            targets = (total * index // number - before for index in range(1, number))
            bounds = sorted({0, size, *(_document_start(path, target) for target in targets if 0 < target < size)})
        for start, end in pairwise(bounds):
            center = before + (start + end) / 2
            is_whole = len(bounds) == 2
            bins[min(number - 1, int(center * number / total))].append(
                FileRange(path) if is_whole else FileRange(path, start, end)
            )
        before += size
    return [Part(tuple(ranges)) for ranges in bins if ranges]


def total_size(files: Sequence[str]) -> int:
    """Estimated bytes of text; compressed files count three times their size."""
    return sum(map(_estimated_size, find_files(files)))


def find_files(files: Sequence[str]) -> list[str]:
    """The files that paths and patterns match, sorted and unique; raises InputError for missing or unusable files."""
    paths: set[str] = set()
    for pattern in files:
        matches = [pattern] if os.path.isfile(pattern) else glob.glob(os.path.expanduser(pattern), recursive=True)
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise InputError(
                f"{pattern}: no such file, and no file matches it as a pattern; check the path, and quote patterns"
            )
        paths.update(matches)
    if not paths:
        raise InputError("no text files given; name at least one path or pattern")
    for path in sorted(paths):
        if not path.endswith(SUFFIXES):
            raise InputError(f"{path}: unknown file type; expected one of {', '.join(SUFFIXES)}")
        if not os.path.getsize(path):
            raise no_text(path)
    return sorted(paths)


def _estimated_size(path: str) -> int:
    return os.path.getsize(path) * (1 if path.endswith(_SPLITTABLE) else _COMPRESSION)


def _document_start(path: str, target: int) -> int:
    """The first start of a document after `target`, or of a line if no document starts within 1 MiB."""
    with open(path, "rb") as file:
        file.seek(target - 1)
        file.readline()
        line = file.tell()
        if path.endswith(".jsonl"):
            return line
        while file.tell() - line < readers.MAX_DOCUMENT_BYTES:
            if not file.readline().strip():
                return file.tell()
        return line
