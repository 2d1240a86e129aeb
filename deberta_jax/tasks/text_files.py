"""Text files in any encoding, plain or compressed; an encoding is never guessed."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deberta_jax.compression import DAMAGE, SUFFIXES, open_decompressed
from deberta_jax.errors import InputError
from deberta_jax.tasks.file_types import HEAD_BYTES, check_text

# Byte-order marks; that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK_CHARACTERS = 1 << 20


class TextFile(NamedTuple):
    """A text file and its encoding; None for UTF-8, or what its byte-order mark says."""

    path: Path
    encoding: str | None = None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each line, without its line end.

        Lines end with LF or CRLF, or with CR in a file without LF. Raises InputError for bytes that the encoding does
        not have, and for a damaged compressed file.
        """
        blocks = self.blocks()
        block = next(blocks, "")
        end = "\r" if "\r" in block and "\n" not in block else "\n"
        number, rest = 0, ""
        while block:
            *lines, rest = (rest + block).split(end)
            for line in lines:
                number += 1
                yield number, line.removesuffix("\r")
            block = next(blocks, "")
        if rest:
            yield number + 1, rest.removesuffix("\r")

    def blocks(self) -> Iterator[str]:
        """Yield the text in blocks."""
        encoding = self.codec()
        decoder = codecs.getincrementaldecoder(encoding)()
        number = 1
        with open_decompressed(self.path) as file:
            while True:
                try:
                    block = file.read(_BLOCK_CHARACTERS)
                except DAMAGE as error:
                    raise InputError(f"{self.path}: cannot be decompressed ({error}); download it again") from None
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    line = number + bytes(error.object[: error.start]).count(b"\n")
                    raise self._wrong_encoding(encoding, line) from None
                number += text.count("\n")
                if text:
                    yield text
                if not block:
                    return

    def codec(self) -> str:
        """The name of the encoding; raises InputError if it is unknown, and for a file that is not text."""
        head = read_start(self.path)
        if self.encoding is not None:
            try:
                return codecs.lookup(self.encoding).name
            except LookupError:
                raise InputError(
                    f"encoding is {self.encoding!r}; Python knows utf-8, utf-16, latin-1, cp1252, shift_jis and others"
                ) from None
        if encoding := next((name for mark, name in _MARKS if head.startswith(mark)), None):
            return encoding
        check_text(self.path, head)
        return "utf-8"

    def _wrong_encoding(self, encoding: str, line: int) -> InputError:
        if self.encoding is None and encoding.startswith("utf-8"):
            return InputError(
                f"{self.path} line {line}: not UTF-8; name the encoding, such as --encoding cp1252, or save the file "
                "as UTF-8"
            )
        return InputError(f"{self.path} line {line}: not {encoding}; name another --encoding")


def open_utf8(file: TextFile) -> io.BufferedIOBase:
    """The decompressed bytes of a file; in memory and in UTF-8 if it has another encoding."""
    if not file.codec().startswith("utf-8"):
        return io.BytesIO("".join(file.blocks()).encode())
    return open_decompressed(file.path)


def plain_name(path: Path) -> Path:
    """The path without the suffix of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def read_start(path: Path) -> bytes:
    """The first bytes of the decompressed content."""
    with open_decompressed(path) as file:
        try:
            return file.read(HEAD_BYTES)
        except DAMAGE as error:
            raise InputError(f"{path}: cannot be decompressed ({error}); download it again") from None
