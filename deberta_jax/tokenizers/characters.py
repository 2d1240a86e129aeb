"""Characters of a text as arrays."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError


def code_points(text: str) -> Int[np.ndarray, "C"]:
    """Of each character, those above U+FFFF as U+FFFF, so that a table of 65,536 serves."""
    return np.minimum(np.frombuffer(text.encode("utf-32-le"), np.uint32), 0xFFFF).astype(np.int32)


def blank_signs(more: str = "") -> Bool[np.ndarray, "P"]:
    """For each code point below U+10000, whether it is white space, or one of `more`."""
    return np.asarray([chr(point).isspace() or chr(point) in more for point in range(0x10000)])


def trim(
    blank: Bool[np.ndarray, "C"], starts: Int[np.ndarray, "T"], ends: Int[np.ndarray, "T"]
) -> Int[np.ndarray, "T 2"]:
    """Stretches of a text without the blanks at their ends; one of blanks only is empty, at its end."""
    places = np.arange(len(blank) + 1, dtype=np.int32)
    filled = ~blank
    following = np.append(np.where(filled, places[:-1], len(blank)), len(blank))
    following = np.minimum.accumulate(following[::-1])[::-1]
    preceding = np.maximum.accumulate(np.append(0, np.where(filled, places[1:], 0)))
    starts = np.minimum(following[starts], ends)
    return np.stack([starts, np.maximum(preceding[ends], starts)], axis=1).astype(np.int32)


def one_sign(token: str) -> bool:
    """Whether it is a single mark of punctuation, space or control character."""
    return len(token) == 1 and (token.isspace() or unicodedata.category(token)[0] in "PC")


def check_encodable(texts: Sequence[str]) -> None:
    """Raise InputError for the first lone surrogate, which is no character."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            sign = ord(text[error.start])
            raise InputError(
                f"text has a lone surrogate U+{sign:04X} at character {error.start}, which stands for nothing; "
                "decode the text anew or take it out"
            ) from None
