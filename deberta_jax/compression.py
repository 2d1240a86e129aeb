"""Binary streams of plain, gzip, bzip2, xz and zstandard files."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from deberta_jax.errors import InputError

# A kilobyte of a zstandard file contains at most 32 MiB of text: 256 blocks of 128 KiB.
_BLOCK_BYTES = 1 << 10
_OPEN: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# The suffixes of compressed files.
SUFFIXES = *_OPEN, ".zst"
# How the content of each kind begins.
_MAGIC = {".gz": b"\x1f\x8b\x08", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
# What reading a damaged file raises.
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def compression_of(path: Path) -> str:
    """The suffix of a compressed file, by its name or, for a name without extension, by its content; else ""."""
    if path.suffix in SUFFIXES:
        return path.suffix
    if path.suffix or not path.is_file():  # not a pipe, which can be read only once
        return ""
    try:
        with path.open("rb") as file:
            begin = file.read(max(map(len, _MAGIC.values())))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return next((suffix for suffix, magic in _MAGIC.items() if begin.startswith(magic)), "")


def open_decompressed(path: Path, start: int = 0) -> io.BufferedIOBase:
    """The decompressed content of a file, from byte `start` of a plain file; raises InputError if opening fails."""
    suffix = compression_of(path)
    try:
        if suffix in _OPEN:
            return _OPEN[suffix](path)
        if suffix == ".zst":
            return io.BufferedReader(_ZstandardReader(path, _zstandard(path)))
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    file.seek(start)
    return file


def _zstandard(path: Path) -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{path}: .zst files require zstandard; pip install 'deberta-jax[prep]'") from None
    return zstandard


class _ZstandardReader(io.RawIOBase):
    """All frames of a file; raises OSError for a damaged or truncated frame, at which zstandard's reader just ends."""

    def __init__(self, path: Path, zstandard: ModuleType):
        self._file = path.open("rb")
        self._new_frame = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._error = zstandard.ZstdError
        self._frame = self._new_frame()
        self._in_frame = False
        self._buffer, self._position = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._position == len(self._buffer):
            compressed = self._frame.unused_data if self._frame.eof else b""
            compressed = compressed or self._file.read(_BLOCK_BYTES)
            if not compressed and self._in_frame:
                raise OSError("the last frame is truncated")
            if not compressed:
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            try:
                self._buffer, self._position = self._frame.decompress(compressed), 0
            except self._error as error:
                raise OSError(str(error)) from None
            self._in_frame = not self._frame.eof
        count = min(len(buffer), len(self._buffer) - self._position)
        end = self._position + count
        buffer[:count], self._position = self._buffer[self._position : end], end
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
