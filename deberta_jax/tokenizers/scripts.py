"""Which tokens are of scripts that are written without spaces between words."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int8

from deberta_jax.tokenizers.unigram_pipeline import WORD_START

# What a token is: of other scripts, the beginning of text without spaces, or the rest of a character.
OTHER, UNSPACED, CONTINUES = 0, 1, 2
# First and last code point: Thai, Lao, Tibetan, Burmese, Khmer, Tai scripts, Balinese, Javanese, Chinese characters and
# their radicals, kana, Bopomofo.
_RANGES = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F),
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3041, 0x3096), (0x309D, 0x309F),
    (0x30A1, 0x30FA), (0x30FC, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA980, 0xA9FF), (0xAA60, 0xAADF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip
# First bytes in UTF-8 of kana and of Chinese characters.
_UNSPACED_BYTES = range(0xE3, 0xEA)
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# The space in byte-level vocabularies, which spell each byte as a character (Radford et al. 2019, encoder.py).
_BYTE_SPACE = "\u0120"


def unspaced_codes(tokens: Sequence[str]) -> Int8[np.ndarray, "V"]:
    """For each token, `UNSPACED` if it begins with a letter of such a script, `CONTINUES` if with a mark or the rest of
    a character, else `OTHER`. White space and signs that begin or continue a word are skipped.
    """
    if any(token.startswith(_BYTE_SPACE) for token in tokens):
        alphabet = _byte_alphabet()
        spelled = [bytes(alphabet[sign] for sign in token if sign in alphabet) for token in tokens]
        return np.array([_code_of_bytes(each.removeprefix(b" ")) for each in spelled], np.int8)
    return np.array([_code(token) for token in tokens], np.int8)


def _code(token: str) -> int:
    if match := _BYTE.fullmatch(token):
        return _code_of_bytes(bytes([int(match[1], 16)]))
    text = token.removeprefix("##").lstrip(WORD_START)
    return _code_of_character(text[0]) if text else OTHER


def _code_of_character(character: str) -> int:
    if unicodedata.category(character)[0] == "M":
        return CONTINUES
    point = ord(character)
    is_unspaced = any(first <= point <= last for first, last in _RANGES)
    # Punctuation begins a word in any script.
    return UNSPACED if is_unspaced and unicodedata.category(character)[0] in "LN" else OTHER


def _code_of_bytes(text: bytes) -> int:
    if not text:
        return OTHER
    if 0x80 <= text[0] < 0xC0:
        return CONTINUES
    character = text[:4].decode("utf-8", "ignore")[:1]
    if character and text.startswith(character.encode()):
        return _code_of_character(character)
    # The first byte of a character whose other bytes are in the next tokens.
    return UNSPACED if text[0] in _UNSPACED_BYTES else OTHER


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character of a byte-level vocabulary: visible bytes as they are, others from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(others)}
