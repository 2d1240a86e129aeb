"""Text that a terminal can only show: data must not move the cursor, change colors or hide other text."""

import io
import logging
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

# Control characters except line feed and tab, separators of lines, marks that reorder text, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with unsafe characters as `\\uXXXX`, which inside of JSON strings stand for the same characters."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def print_message(text: object) -> None:
    """Print to standard error, in one line; nothing if it is on a full disk."""
    try:
        _PrintableStream(sys.stderr).write(str(text).replace("\n", "\\n") + "\n")
    except OSError:
        discard(sys.stderr)


def discard(stream: Any) -> None:
    """Discard what is written to a stream from now on, and what Python would flush at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_closed_streams() -> None:
    """Discard what is printed to standard output or error if the shell has closed it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


@contextmanager
def printable_stdout() -> Generator[None, None, None]:
    """While entered, what is printed to standard output is printable."""
    with redirect_stdout(_PrintableStream(sys.stdout)):
        yield


class PrintableFormatter(logging.Formatter):
    """Formats a record of a log as its message."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with unsafe characters escaped."""
        return printable(record.getMessage())


class FirstOfEqualWarnings:
    """A filter of log records: the second warning with the same text is not printed."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is printed."""
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        is_new = text not in self._texts
        self._texts.add(text)
        return is_new


class _PrintableStream(io.TextIOBase):
    def __init__(self, stream: Any):
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        # Not every terminal has every character.
        self._stream.write(printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
