"""The lines of a text file, or of a part of it, with their positions, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deberta_jax.compression import DAMAGE, open_decompressed
from deberta_jax.errors import InputError


@dataclass(frozen=True)
class FileRange:
    """A file, or the bytes of an uncompressed file from `start` up to `end`."""

    path: str
    start: int = 0
    end: int | None = None


# A line with its end, or a part of a long line; its number, from 1 at the start of the range; and its first byte in the
# decompressed file.
Line = tuple[str, int, int]


def read_lines(source: FileRange, limit: int, block: int | None = None) -> Iterator[Line]:
    """The lines that start in a range; with `block`, a longer line is split into parts of at most so many bytes.

    Raises InputError for a line of more than `limit` bytes without reading all of it, for bytes that are not UTF-8, and
    for a damaged compressed file.
    """
    size = limit + 1 if block is None else min(block, limit + 1)
    with open_decompressed(Path(source.path), source.start) as file:
        offset, rest = source.start, b""
        number, line_offset = 1, offset
        while True:
            try:
                content = file.readline(size)
            except DAMAGE as error:
                raise InputError(
                    f"{source.path}: cannot be decompressed ({error}); the file is damaged, download it again"
                ) from None
            if not content and not rest:
                return
            part, rest = (rest + content if rest else content), b""
            if source.end is not None and offset >= source.end:
                return
            end = offset + len(part)
            if end - line_offset > limit:
                raise too_long(source, number, line_offset, "line", limit)
            try:
                text = part.decode()
            except UnicodeDecodeError as error:
                text, rest = _decode_start(source, part, offset, error, is_last=not content)
                end -= len(rest)
            yield (text.removeprefix("\ufeff") if offset == 0 else text), number, offset
            offset = end
            if text.endswith("\n"):
                number, line_offset = number + 1, offset


def _decode_start(
    source: FileRange, part: bytes, offset: int, error: UnicodeDecodeError, *, is_last: bool
) -> tuple[str, bytes]:
    """The text of a part of a line, and the bytes of a character that ends in the next part."""
    if is_last or part.endswith(b"\n") or error.reason != "unexpected end of data":
        raise InputError(
            f"{source.path} byte {offset + error.start}: not UTF-8 ({error.reason}); convert the file, for example "
            "with iconv"
        ) from None
    return part[: error.start].decode(), part[error.start :]


def too_long(source: FileRange, number: int, offset: int, name: str, limit: int) -> InputError:
    """The error for a line or an article that is longer than the limit, with its line in the file and its byte."""
    return InputError(
        f"{source.path} line {line_in_file(source, number)}, byte {offset}: a {name} of more than {limit:,} bytes; fix "
        "the file, or increase max-document-bytes"
    )


def line_in_file(source: FileRange, number: int) -> int:
    """The number of a line in its file, from its number in a range; both count from 1."""
    count, left = number, source.start
    if left:
        with open(source.path, "rb") as file:
            while left and (block := file.read(min(left, 1 << 20))):
                count, left = count + block.count(b"\n"), left - len(block)
    return count
