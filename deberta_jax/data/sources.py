"""Text files as a stream of documents: `.txt`, `.jsonl`, each also `.gz` or `.zst`, and `.parquet`."""

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from deberta_jax.errors import InputError

SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_SPLITTABLE = (".txt", ".jsonl")
# A text without blank lines is handed on in pieces of this many bytes, so that it is never all in memory.
_LARGEST_DOCUMENT = 1 << 20
_COMPRESSION = 3


@dataclass(frozen=True)
class Piece:
    """A file, or of a plain one the bytes from `start` up to `end`."""

    path: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Part:
    """A share of the text, in order; what one worker reads."""

    pieces: tuple[Piece, ...]

    def documents(self) -> Iterator[str]:
        """Its documents, none of them empty; raises as `sources.documents` does."""
        for piece in self.pieces:
            yield from _documents(piece)


def documents(files: Sequence[str]) -> Iterator[str]:
    """Documents of all files that the paths and patterns name, in order of file name.

    In a `.txt` a blank line or the end of the file ends a document, in a `.jsonl` (field `text`) and a parquet file
    (column `text`) each line or row is one. Raises InputError for a pattern that matches nothing, a file of another
    kind, an empty one, and bytes or lines that cannot be read (file, byte or line).
    """
    for path in find(files):
        yield from _documents(Piece(path))


def parts(files: Sequence[str], number: int) -> list[Part]:
    """The text cut in at most `number` parts of about equal size: together, and in order, they are `documents(files)`.

    Plain `.txt` and `.jsonl` files are cut at the ends of documents (of lines, where no document ends nearby). The cut
    depends on nothing but the files' sizes, their content and `number`.
    """
    paths = find(files)
    sizes = [_size(path) for path in paths]
    total = sum(sizes)
    bins: list[list[Piece]] = [[] for _ in range(number)]
    before = 0
    for path, size in zip(paths, sizes, strict=True):
        cuts = [0, size]
        if path.endswith(_SPLITTABLE):
            inner = (total * i // number - before for i in range(1, number))
            cuts = sorted({0, size, *(_cut(path, at) for at in inner if 0 < at < size)})
        for start, end in pairwise(cuts):
            middle = before + (start + end) / 2
            whole = len(cuts) == 2
            bins[min(number - 1, int(middle * number / total))].append(
                Piece(path) if whole else Piece(path, start, end)
            )
        before += size
    return [Part(tuple(pieces)) for pieces in bins if pieces]


def total_size(files: Sequence[str]) -> int:
    """About how many bytes of text there are: compressed files count three times their size."""
    return sum(map(_size, find(files)))


def find(files: Sequence[str]) -> list[str]:
    """The files that paths and patterns name, each once and sorted; each is there, of a known kind, and not empty."""
    found: set[str] = set()
    for pattern in files:
        matches = [pattern] if os.path.isfile(pattern) else glob.glob(os.path.expanduser(pattern), recursive=True)
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise InputError(
                f"{pattern}: no such file, and as a pattern it matches none; check the path and quote patterns"
            )
        found.update(matches)
    if not found:
        raise InputError("no text files are named; give at least one path or pattern")
    for path in sorted(found):
        if not path.endswith(SUFFIXES):
            raise InputError(f"{path}: not a kind of file that is read here; give one of {', '.join(SUFFIXES)}")
        if not os.path.getsize(path):
            raise _empty(path)
    return sorted(found)


def _size(path: str) -> int:
    return os.path.getsize(path) * (1 if path.endswith(_SPLITTABLE) else _COMPRESSION)


def _empty(path: str) -> InputError:
    return InputError(f"{path}: holds no text; remove it or fill it")


def _cut(path: str, at: int) -> int:
    """Where a document begins soon after `at`; where a line does, if no document ends within 1 MiB."""
    with open(path, "rb") as file:
        file.seek(at - 1)
        file.readline()
        line = file.tell()
        if path.endswith(".jsonl"):
            return line
        while file.tell() - line < _LARGEST_DOCUMENT:
            if not file.readline().strip():
                return file.tell()
        return line


def _documents(piece: Piece) -> Iterator[str]:
    path, some = piece.path, False
    if path.endswith(".parquet"):
        found = _of_parquet(path)
    else:
        found = (
            _of_jsonl(piece) if path.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl") else _of_text(piece)
        )
    for document in found:
        some = True
        yield document
    if not some and piece.end is None:
        raise _empty(path)


def _of_text(piece: Piece) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in _lines(piece):
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= _LARGEST_DOCUMENT):
            yield "".join(lines).strip()
            lines, size = [], 0
    if lines:
        yield "".join(lines).strip()


def _of_jsonl(piece: Piece) -> Iterator[str]:
    for number, text in enumerate(_lines(piece, whole=True), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = _line_number(piece, number)
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{piece.path}, line {where}: not JSON ({reason}); mend the line") from None
        document = record.get("text") if isinstance(record, dict) else None
        if not isinstance(document, str):
            where = _line_number(piece, number)
            raise InputError(
                f'{piece.path}, line {where}: no field "text" that holds a string; rename the field or mend the line'
            )
        if document.strip():
            # A lone surrogate, which JSON can escape, is no text in UTF-8.
            yield document.encode(errors="replace").decode().strip()


def _of_parquet(path: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{path}: reading parquet needs pyarrow; pip install 'deberta-jax[prep]'") from None
    try:
        with closing(parquet.ParquetFile(path)) as file:
            if "text" not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise InputError(f'{path}: no column "text" among {names}; rename the column that holds the text')
            for batch in file.iter_batches(batch_size=256, columns=["text"]):
                for document in batch.column(0).to_pylist():
                    if document is not None and not isinstance(document, str):
                        raise InputError(f'{path}: column "text" holds {batch.column(0).type}; it must hold strings')
                    if document and document.strip():
                        yield document.strip()
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None


def _lines(piece: Piece, whole: bool = False) -> Iterator[str]:
    """Its lines; unless `whole`, a very long one comes in several."""
    limit = -1 if whole else _LARGEST_DOCUMENT
    with _open(piece) as file:
        offset, rest = piece.start, b""
        while True:
            try:
                read = file.readline(limit)
            except (EOFError, OSError, zlib.error) as error:
                raise InputError(f"{piece.path}: cannot be decompressed ({error}); the file is damaged") from None
            if not read and not rest:
                return
            line, rest = rest + read, b""
            if piece.end is not None and offset >= piece.end:
                return
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                # A long line may be cut inside a character: what is left of it belongs to the next.
                if not (read and not line.endswith(b"\n") and error.reason == "unexpected end of data"):
                    at = offset + error.start
                    raise InputError(
                        f"{piece.path}, byte {at}: not UTF-8 ({error.reason}); convert the file, with iconv for example"
                    ) from None
                text, rest = line[: error.start].decode(), line[error.start :]
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line) - len(rest)


def _open(piece: Piece) -> io.BufferedIOBase:
    path = Path(piece.path)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path, _zstandard(path)))
    file = path.open("rb")
    file.seek(piece.start)
    return file


def _zstandard(path: Path) -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{path}: reading .zst needs zstandard; pip install 'deberta-jax[prep]'") from None
    return zstandard


class _Zstandard(io.RawIOBase):
    """Frames decompressed; raises OSError for a damaged or unfinished one, where zstandard's own reader just ends."""

    def __init__(self, path: Path, zstandard: ModuleType):
        self._file = path.open("rb")
        self._new_frame = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._error = zstandard.ZstdError
        self._frame = self._new_frame()
        self._inside = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            compressed = self._frame.unused_data if self._frame.eof else b""
            compressed = compressed or self._file.read(1 << 14)
            if not compressed and self._inside:
                raise OSError("it ends too early")
            if not compressed:
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            try:
                self._ready = self._frame.decompress(compressed)
            except self._error as error:
                raise OSError(str(error)) from None
            self._inside = not self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _line_number(piece: Piece, number: int) -> int:
    """The number in the whole file of a line that is number `number`, from 1, of a piece."""
    if not piece.start:
        return number
    before, left = 0, piece.start
    with open(piece.path, "rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            before, left = before + block.count(b"\n"), left - len(block)
    return before + number
