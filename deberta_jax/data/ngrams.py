"""N-grams of words: how long they are, and which words they contain."""

import functools

import numpy as np
from jaxtyping import Float


@functools.cache
def ngram_shares(max_ngram: int) -> Float[np.ndarray, "N"]:
    """The probability of each length from 1 to `max_ngram`."""
    shares = 1 / np.arange(1, max_ngram + 1)
    return shares / shares.sum()


def ngram_words(order: list[int], sizes: list[int], bounds: list[int], budget: int) -> list[int]:
    """The words of the n-grams that start with a word that is not chosen yet, until they have `budget` tokens."""
    count = len(bounds) - 1
    chosen: dict[int, None] = {}
    tokens = 0
    for start, size in zip(order, sizes, strict=True):
        if start in chosen:
            continue
        for index in range(start, start + size):
            word = index % count
            if word not in chosen:
                chosen[word] = None
                tokens += bounds[word + 1] - bounds[word]
                if tokens >= budget:
                    return list(chosen)
    return list(chosen)
