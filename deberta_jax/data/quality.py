"""Rules that reject documents of low quality, after Gopher (Rae et al. 2021, appendix A.1) and C4 (Raffel et al. 2020).

Words are separated by white space, so the rules do not suit languages without it, such as Chinese and Japanese.
"""

import re
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Int64

FilterName = Literal["none", "gopher", "english"]

# Rae et al. 2021, table A1: the largest share of characters in the most frequent n-gram, and in repeated n-grams.
_FREQUENT_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_BULLETS = ("-", "*", "•", "‣", "▪", "●", "–")
_ALPHABETIC = re.compile(r"\S*[^\W\d_]\S*")
_ELLIPSES = ("...", "…")
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))


def rejection(document: str, name: FilterName) -> str | None:
    """The first rule of a filter that the document breaks, one of `reasons(name)`; None if it passes."""
    return next((reason for reason, breaks in _FILTERS[name].items() if breaks(document)), None)


def reasons(name: FilterName) -> tuple[str, ...]:
    """The rules of a filter, in order."""
    return tuple(_FILTERS[name])


def _length(document: str) -> bool:
    return not 50 <= len(document.split()) <= 100_000


def _word_length(document: str) -> bool:
    words = document.split()
    return not 3 <= sum(map(len, words)) / len(words) <= 10


def _symbols(document: str) -> bool:
    """More than one hash sign or one ellipsis for ten words."""
    ellipses = document.count("...") + document.count("…")
    return max(document.count("#"), ellipses) > 0.1 * len(document.split())


def _lines(document: str) -> list[str]:
    return [line for line in map(str.strip, document.splitlines()) if line]


def _bullets(document: str) -> bool:
    lines = _lines(document)
    return sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines)


def _ellipses(document: str) -> bool:
    lines = _lines(document)
    return sum(line.endswith(_ELLIPSES) for line in lines) > 0.3 * len(lines)


def _alphabetic(document: str) -> bool:
    return sum(1 for _ in _ALPHABETIC.finditer(document)) < 0.8 * len(document.split())


def _repeated_lines(document: str) -> bool:
    return _has_repetitions(_lines(document))


def _repeated_paragraphs(document: str) -> bool:
    return _has_repetitions([part.strip() for part in document.split("\n\n") if part.strip()])


def _has_repetitions(parts: list[str]) -> bool:
    """Whether 30% of the parts, or 20% of their characters, are repetitions of an earlier part."""
    distinct = set(parts)
    characters, distinct_characters = (sum(map(len, group)) for group in (parts, distinct))
    return len(distinct) < 0.7 * len(parts) or distinct_characters < 0.8 * characters


def _repeated_ngrams(document: str) -> bool:
    words = document.split()
    lengths = np.array([len(word) for word in words], np.int64)
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
    total, number = int(lengths.sum()), len(words)
    ngrams = ids
    for n in range(2, max(_REPEATED_NGRAMS) + 1):
        if n > number:
            return False
        # The n-gram at a position, numbered: its first n - 1 words and its last word.
        pairs = ngrams[: number - n + 1] * (number + 1) + ids[n - 1 :]
        _, first, ngrams, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        if len(first) == len(ngrams):
            return False
        if n in _FREQUENT_NGRAM:
            top = int(np.argmax(counts))
            start = int(first[top])
            share = int(counts[top] * lengths[start : start + n].sum()) / total
            if share > _FREQUENT_NGRAM[n]:
                return True
            continue
        share = _repeated_characters(ngrams, first, lengths, n) / total
        if share > _REPEATED_NGRAMS[n]:
            return True
        # Words in a repeated n-gram are also in a shorter one.
        if share <= min(_REPEATED_NGRAMS.values()):
            return False
    return False


def _repeated_characters(
    ngrams: Int64[np.ndarray, "G"], first: Int64[np.ndarray, "U"], lengths: Int64[np.ndarray, "N"], n: int
) -> int:
    """The characters of the words in n-grams that occur earlier in the document, each word counted once."""
    is_repeated = np.ones(len(ngrams), bool)
    is_repeated[first] = False
    starts = np.zeros(len(lengths) + 1, np.int64)
    starts[:-1][: len(ngrams)] += is_repeated
    starts[n:][: len(ngrams)] -= is_repeated
    return int(lengths[np.cumsum(starts)[:-1] > 0].sum())


def _stop_words(document: str) -> bool:
    """Fewer than two of eight frequent English words."""
    return len(_STOP_WORDS & set(document.lower().split())) < 2


def _placeholder(document: str) -> bool:
    return "lorem ipsum" in document.lower()


def _curly_brackets(document: str) -> bool:
    return "{" in document


# Ordered: the first rule ensures that there are words and lines.
_GOPHER: dict[str, Callable[[str], bool]] = {
    "length": _length,
    "word length": _word_length,
    "symbols": _symbols,
    "bullets": _bullets,
    "ellipses": _ellipses,
    "alphabetic words": _alphabetic,
    "repeated lines": _repeated_lines,
    "repeated paragraphs": _repeated_paragraphs,
    "repeated n-grams": _repeated_ngrams,
}
_FILTERS: dict[FilterName, dict[str, Callable[[str], bool]]] = {
    "none": {},
    "gopher": _GOPHER,
    # The stop words are Gopher's, the other two are rules of C4 (Raffel et al. 2020, section 2.2).
    "english": {
        **_GOPHER,
        "stop words": _stop_words,
        "placeholder text": _placeholder,
        "curly brackets": _curly_brackets,
    },
}
