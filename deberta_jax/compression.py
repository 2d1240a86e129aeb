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

_BLOCK_BYTES = 1 << 14
_OPEN: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# The suffixes of compressed files.
SUFFIXES = *_OPEN, ".zst"
# What reading a damaged file raises.
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def open_decompressed(path: Path, start: int = 0) -> io.BufferedIOBase:
    """The decompressed content of a file, from byte `start` of a plain file; raises InputError if opening fails."""
    try:
        if path.suffix in _OPEN:
            return _OPEN[path.suffix](path)
        if path.suffix == ".zst":
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
        self._buffer = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._buffer:
            compressed = self._frame.unused_data if self._frame.eof else b""
            compressed = compressed or self._file.read(_BLOCK_BYTES)
            if not compressed and self._in_frame:
                raise OSError("the last frame is truncated")
            if not compressed:
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            try:
                self._buffer = self._frame.decompress(compressed)
            except self._error as error:
                raise OSError(str(error)) from None
            self._in_frame = not self._frame.eof
        count = min(len(buffer), len(self._buffer))
        buffer[:count], self._buffer = self._buffer[:count], self._buffer[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
