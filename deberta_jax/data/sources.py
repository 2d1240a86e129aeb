"""Text files as a stream of documents, and how the files are split among workers."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deberta_jax.data import readers
from deberta_jax.data.folders import folder_files
from deberta_jax.data.lines import FileRange
from deberta_jax.data.readers import ARTICLE_START, DEFAULT_TEXT, no_text, read_range
from deberta_jax.data.text_kinds import file_kind, is_compressed, is_splittable, reading
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError

# Typical size of text relative to its compressed size.
_COMPRESSION = 3


@dataclass(frozen=True)
class Part:
    """A share of the text for one shard: consecutive files or ranges of files."""

    ranges: tuple[FileRange, ...]
    options: TextOptions = DEFAULT_TEXT

    def documents(self) -> Iterator[str]:
        """The documents, none of them empty; raises InputError as `read_range` does."""
        for source in self.ranges:
            yield from read_range(source, self.options)

    def reading(self, source: FileRange) -> list[str]:
        """What determines the documents of a range besides its content, without defaults."""
        return reading(file_kind(source.path, self.options), self.options)


def documents(files: Sequence[str], options: TextOptions = DEFAULT_TEXT) -> Iterator[str]:
    """The documents in all files that the paths, folders and patterns match, in order of file name.

    By default blank lines separate the documents of a text file; each line of a `.jsonl` file is one (field `text`),
    each row of a parquet or arrow file (column `text`), and each article of WikiExtractor. Raises InputError for a
    pattern without matches, an unknown file type, a file without text, and content that cannot be read, with the file
    and the byte or line.
    """
    for path in find_files(files, options):
        yield from read_range(FileRange(path), options)


def split_files(files: Sequence[str], number: int, options: TextOptions = DEFAULT_TEXT) -> list[Part]:
    """Split the text into at most `number` parts of similar size; together they contain exactly `documents(files)`.

    Uncompressed text and JSON lines are split between documents, or between lines where a document is very long. The
    parts are in the order of the text, and depend only on the sizes and the content of the files, and on `number`.
    """
    paths = find_files(files, options)
    sizes = [_estimated_size(path, options) for path in paths]
    total = sum(sizes)
    bins: list[list[FileRange]] = [[] for _ in range(number)]
    before = 0
    for path, size in zip(paths, sizes, strict=True):
        bounds = [0, size]
        if is_splittable(path, file_kind(path, options), options):
            targets = (total * index // number - before for index in range(1, number))
            starts = (_document_start(path, target, options) for target in targets if 0 < target < size)
            bounds = sorted({0, size, *starts})
        for start, end in pairwise(bounds):
            center = before + (start + end) / 2
            is_whole = len(bounds) == 2
            bins[min(number - 1, int(center * number / total))].append(
                FileRange(path) if is_whole else FileRange(path, start, end)
            )
        before += size
    return [Part(tuple(ranges), options) for ranges in bins if ranges]


def total_size(files: Sequence[str], options: TextOptions = DEFAULT_TEXT) -> int:
    """Estimated bytes of text; compressed files count three times their size."""
    return sum(_estimated_size(path, options) for path in find_files(files, options))


def find_files(files: Sequence[str], options: TextOptions = DEFAULT_TEXT) -> list[str]:
    """The files that paths, folders and patterns match, sorted and unique; raises InputError for unusable files."""
    paths: set[str] = set()
    for pattern in files:
        exists = os.path.isfile(pattern) or os.path.isdir(pattern)
        names = [pattern] if exists else glob.glob(os.path.expanduser(pattern), recursive=True)
        # A pattern such as ** matches folders too, whose files it matches as well.
        matches = [name for name in names if os.path.isfile(name)]
        matches = matches or [file for name in names if os.path.isdir(name) for file in folder_files(name)]
        if not matches:
            raise InputError(
                f"{pattern}: no such file, and no file matches it as a pattern; check the path, and quote patterns"
            )
        paths.update(matches)
    if not paths:
        raise InputError("no text files given; name at least one path or pattern")
    for path in sorted(paths):
        if not os.path.getsize(path):
            raise no_text(path)
        file_kind(path, options)
    return sorted(paths)


def _estimated_size(path: str, options: TextOptions) -> int:
    return os.path.getsize(path) * (_COMPRESSION if is_compressed(path, file_kind(path, options)) else 1)


def _document_start(path: str, target: int, options: TextOptions) -> int:
    """The first start of a document after `target`; in plain text, of a line if no document starts within 1 MiB."""
    kind = file_kind(path, options)
    with open(path, "rb") as file:
        file.seek(target - 1)
        while not (block := file.readline(readers.PARAGRAPH_BYTES)).endswith(b"\n") and block:
            pass
        line = file.tell()
        if kind == "wiki":
            while (start := file.tell()) < os.path.getsize(path):
                if file.readline(readers.PARAGRAPH_BYTES).startswith(ARTICLE_START.encode()):
                    return start
            return start
        if kind == "jsonl" or options.document == "line":
            return line
        while file.tell() - line < readers.PARAGRAPH_BYTES:
            if not file.readline(readers.PARAGRAPH_BYTES).strip():
                return file.tell()
        return line
