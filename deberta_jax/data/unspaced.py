"""How much of a corpus is text without spaces between words, and a line about it."""

from pathlib import Path

import numpy as np

from deberta_jax.data.masking import Masking, MaskingVocabulary, maskable, word_bounds
from deberta_jax.data.mixture import Shards
from deberta_jax.data.records import read_sequences

# Sequences that are read, evenly spread over the shards.
_SEQUENCES = 64
# Long words and foreign names are a smaller share of any text.
_REPORTED_SHARE = 0.1
_WITH_SPACES = Masking(max_word_tokens=None)


def unspaced_share(shards: Path, vocabulary: MaskingVocabulary, masking: Masking) -> float:
    """The share of tokens that whole-word masking would mask in long runs without `masking.max_word_tokens`."""
    sequences = read_sequences(shards)
    split = total = 0
    for index in np.unique(np.linspace(0, len(sequences) - 1, _SEQUENCES).astype(int)).tolist():
        input_ids, segment_ids = sequences[index]
        candidates = maskable(input_ids, segment_ids, vocabulary)
        bounds = word_bounds(input_ids, candidates, vocabulary, _WITH_SPACES)
        parts = word_bounds(input_ids, candidates, vocabulary, masking)
        # Words that contain the beginning of another one.
        is_split = np.searchsorted(parts, bounds[1:]) - np.searchsorted(parts, bounds[:-1]) > 1
        split, total = split + int(np.diff(bounds)[is_split].sum()), total + len(candidates)
    return split / max(total, 1)


def unspaced_lines(shards: Shards, vocabulary: MaskingVocabulary, masking: Masking) -> list[str]:
    """A line for each folder of shards with much text without spaces, if words are masked as a whole."""
    if not masking.whole_words:
        return []
    is_split = masking.mode == "uniform" and masking.max_word_tokens is not None
    if not is_split and masking.mode == "tail_biased" and masking.max_ngram == 1:
        return []
    action = (
        "each of them is masked as a word"
        if is_split
        else "runs of them are masked as one word; set data.masking.mode uniform and data.masking.max-word-tokens 16"
    )
    folders = [("", shards)] if isinstance(shards, Path) else [(f"{source.name}: ", source.folder) for source in shards]
    lines = []
    for name, folder in folders:
        limited = masking if is_split else Masking()
        share = unspaced_share(folder, vocabulary, limited)
        if share >= _REPORTED_SHARE:
            lines.append(
                f'text without spaces: {name}{share:.0%} of the tokens; {action} (docs/pretraining.md, "Masking")'
            )
    return lines
