"""Text as arrays of characters."""

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError


def code_points(text: str) -> Int[np.ndarray, "C"]:
    """The code point of each character, at most U+FFFF, so that it can index a table of 65,536 entries."""
    return np.minimum(np.frombuffer(text.encode("utf-32-le"), np.uint32), 0xFFFF).astype(np.int32)


@functools.cache
def whitespace_table(extra: str = "") -> Bool[np.ndarray, "P"]:
    """For each code point below U+10000, whether it is white space or one of the `extra` characters; read-only."""
    table = np.asarray([chr(point).isspace() or chr(point) in extra for point in range(0x10000)])
    table.setflags(write=False)
    return table


def trim_spans(
    blank: Bool[np.ndarray, "C"], starts: Int[np.ndarray, "T"], ends: Int[np.ndarray, "T"]
) -> Int[np.ndarray, "T 2"]:
    """Spans of a text without `blank` characters at both ends; a span of blanks only becomes empty, at its end."""
    positions = np.arange(len(blank) + 1, dtype=np.int32)
    filled = ~blank
    next_filled = np.append(np.where(filled, positions[:-1], len(blank)), len(blank))
    next_filled = np.minimum.accumulate(next_filled[::-1])[::-1]
    last_filled = np.maximum.accumulate(np.append(0, np.where(filled, positions[1:], 0)))
    starts = np.minimum(next_filled[starts], ends)
    return np.stack([starts, np.maximum(last_filled[ends], starts)], axis=1).astype(np.int32)


def is_single_symbol(token: str) -> bool:
    """Whether a token is one character of punctuation or white space, or one control character."""
    return len(token) == 1 and (token.isspace() or unicodedata.category(token)[0] in "PC")


def text_list(name: str, value: object) -> list[Any]:
    """One text or several as a list; raises InputError for what is neither, such as a number."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise InputError(f"{name}: {str(value)[:40]} ({type(value).__name__}); expected a string or a list of strings")
    return list(value)


def check_texts(texts: Sequence[object]) -> None:
    """Raise InputError for the first text that is not a string, or has a lone surrogate, which UTF-8 cannot encode."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number} is {str(text)[:40]!r} ({type(text).__name__}); expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            point = ord(text[error.start])
            raise InputError(
                f"text has a lone surrogate U+{point:04X} at character {error.start}; decode the text again, or "
                "remove the character"
            ) from None
