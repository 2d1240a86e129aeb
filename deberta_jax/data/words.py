"""Where words begin in a sequence of tokens, for whole-word masking."""

import numpy as np
from jaxtyping import Bool, Int8

# What `MaskingVocabulary.unspaced` says of a token.
UNSPACED, CONTINUES = 1, 2


def split_unspaced(starts: Bool[np.ndarray, "C"], unspaced: Int8[np.ndarray, "C"], limit: int) -> Bool[np.ndarray, "C"]:
    """Where words begin if text without spaces is not one word, from where words with spaces begin.

    A token of a script without spaces is a word, and so is each token of a word of more than `limit` tokens. Tokens
    that continue a character stay in the word of the token before them.
    """
    after_unspaced = np.append(False, unspaced[:-1] == UNSPACED)[: len(starts)]
    starts = starts | (unspaced == UNSPACED) | (after_unspaced & (unspaced != CONTINUES))
    word = np.cumsum(starts) - 1
    is_long = np.bincount(word) > limit
    return starts | (is_long[word] & (unspaced != CONTINUES))
