"""Masking of tokens for pretraining: whole words, n-grams of words, or single tokens.

A pure function of a sequence and a random generator, in two modes. "uniform" spreads the masks over the whole
sequence. "tail_biased" follows the original, which spends its budget from the left and rarely reaches the end of a
sequence (docs/numerics.md, "Masking of text"; mlm_task.py, `NGramMaskGenerator`).
"""

import functools
import math
import random
from bisect import bisect
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Int64

from deberta_jax.data.ngrams import ngram_shares, ngram_words
from deberta_jax.data.words import split_unspaced
from deberta_jax.errors import InputError, check_at_least


@dataclass(frozen=True)
class Masking:
    """How many tokens are masked, and what replaces them: [MASK], the token itself, or else a random token.

    With max_ngram 1, the mode tail_biased always masks single tokens, as the original does.

    Raises:
        InputError: a share outside its range, or an unknown mode.

    Example:
        >>> import deberta_jax as dj
        >>> dj.Masking(rate=0.2).slots(128)
        32
    """

    rate: float = 0.15
    """Share of the tokens that is masked."""
    max_ngram: int = 3
    """Longest n-gram that is masked, in words (in tokens without whole_words); P(n) is proportional to 1/n."""
    whole_words: bool = True
    """Mask all tokens of a word."""
    mask_share: float = 0.8
    """Share of the masked tokens that [MASK] replaces."""
    keep_share: float = 0.1
    """Share of the masked tokens that stay as they are; a random token replaces the rest."""
    mode: Literal["uniform", "tail_biased"] = "uniform"
    """Spread the masks over the whole sequence, or choose them from the left as the original does."""
    max_word_tokens: int | None = 16
    """Mask longer words, as in DNA, and text of scripts without spaces by tokens (not if tail_biased); None: never."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"masking rate is {self.rate}; it must be between 0 and 1")
        check_at_least("max_ngram", self.max_ngram, 1)
        check_at_least("max_word_tokens", self.max_word_tokens, 1)
        if min(self.mask_share, self.keep_share) < 0 or self.mask_share + self.keep_share > 1 + 1e-9:
            raise InputError(
                f"mask_share is {self.mask_share} and keep_share is {self.keep_share}; they must not be negative, "
                "and their sum must be at most 1"
            )
        if self.mode not in ("uniform", "tail_biased"):
            raise InputError(f"masking mode is {self.mode!r}; expected 'uniform' or 'tail_biased'")

    def slots(self, length: int) -> int:
        """M, the slots for masked positions of a sequence: its budget, and slack to complete the last word."""
        return min(length, 8 * math.ceil((self.rate * length + 4) / 8))


@dataclass(frozen=True, eq=False)
class MaskingVocabulary:
    """The properties of a vocabulary that masking uses.

    Raises:
        InputError: arrays of another length than the vocabulary.

    Example:
        >>> import deberta_jax as dj
        >>> tokenizer = dj.Tokenizer.from_pretrained("microsoft/deberta-v3-base")
        >>> ids = tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids
        >>> vocabulary = dj.MaskingVocabulary(*ids, tokenizer.word_starts(), tokenizer.unspaced())
    """

    mask_id: int
    """The id of [MASK]."""
    vocab_size: int
    """V, [MASK] included."""
    special_ids: tuple[int, ...]
    """The ids of all special tokens, which are never masked."""
    word_starts: Bool[np.ndarray, "V"]
    """For each id, whether the token begins a word."""
    unspaced: Int8[np.ndarray, "_"] | None = None
    """For each id, 1 if the token is of a script without spaces, 2 if it continues a character, else 0; None: all 0."""

    def __post_init__(self) -> None:
        if len(self.word_starts) != self.vocab_size:
            raise InputError(
                f"word_starts has {len(self.word_starts)} entries, but the vocabulary has {self.vocab_size} tokens"
            )
        if self.unspaced is not None and len(self.unspaced) != self.vocab_size:
            raise InputError(
                f"unspaced has {len(self.unspaced)} entries, but the vocabulary has {self.vocab_size} tokens"
            )

    @functools.cached_property
    def is_ordinary(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether it is an ordinary token."""
        return ~np.isin(np.arange(self.vocab_size), self.special_ids)

    @functools.cached_property
    def unspaced_codes(self) -> Int8[np.ndarray, "_"]:
        """`unspaced`, or zeros."""
        return np.zeros(self.vocab_size, np.int8) if self.unspaced is None else self.unspaced

    @functools.cached_property
    def sorted_special_ids(self) -> Int64[np.ndarray, "S"]:
        """The special ids in ascending order, each once."""
        return np.array(sorted(set(self.special_ids)), np.int64)


def mask_tokens(
    input_ids: Int[np.ndarray, "T"],
    segment_ids: Int[np.ndarray, "T"],
    rng: np.random.Generator,
    vocabulary: MaskingVocabulary,
    masking: Masking,
) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "M"], Int32[np.ndarray, "M"], Float32[np.ndarray, "M"]]:
    """Mask n-grams of whole words of a sequence (Devlin et al. 2019, 3.1; docs/numerics.md, "Masking of text").

    Args:
        input_ids: the tokens [T]. Padding (segment 0) and special tokens are never masked.
        segment_ids: numbers of packed documents from 1 [T].
        rng: a random generator of numpy.
        vocabulary: that of the tokenizer.
        masking: the rates.

    Returns:
        The masked ids [T], and the masked positions in ascending order, their original ids and their weights [M]:
        `input_ids`, `masked_positions`, `labels` and `label_weights` of `masked_lm_objective`. M is `masking.slots(T)`;
        an unused slot has position 0, label 0 and weight 0. A word that exceeds the slots is masked in part.

    Example:
        >>> import numpy as np
        >>> import deberta_jax as dj
        >>> vocabulary = dj.MaskingVocabulary(4, 100, (0, 1, 2, 3, 4), np.ones(100, bool))
        >>> ids, segments, rng = np.array([1, 7, 8, 9, 2]), np.ones(5, np.int32), np.random.default_rng(0)
        >>> masked, positions, labels, weights = dj.mask_tokens(ids, segments, rng, vocabulary, dj.Masking(rate=0.5))
        >>> masked.shape, positions.shape
        ((5,), (5,))
    """
    slots = masking.slots(len(input_ids))
    if masking.mode == "uniform":
        candidates = maskable(input_ids, segment_ids, vocabulary)
        bounds = word_bounds(input_ids, candidates, vocabulary, masking)
        positions = candidates[_choose_uniform(bounds, rng, masking)][:slots]
        replacements = _replace(input_ids[positions], rng, vocabulary, masking)
    else:
        seed = random.Random(int(rng.integers(1 << 62)))
        positions, replacements = tail_biased(input_ids, segment_ids, seed, vocabulary, masking, slots)
        positions, replacements = positions[:slots], replacements[:slots]
    order = np.argsort(positions)
    count = len(positions)
    masked = input_ids.astype(np.int32)
    masked[positions] = replacements
    masked_positions, labels = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    masked_positions[:count] = positions[order]
    labels[:count] = input_ids[masked_positions[:count]]
    return masked, masked_positions, labels, (np.arange(slots) < count).astype(np.float32)


def tail_biased(
    input_ids: Int[np.ndarray, "T"],
    segment_ids: Int[np.ndarray, "T"],
    rng: random.Random,
    vocabulary: MaskingVocabulary,
    masking: Masking,
    max_predictions: int,
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Masked positions and the ids that replace them, drawn exactly as the original draws them.

    Each window of n int(1 / rate) words has one masked n-gram. Positions are taken from the left until the budget is
    spent; the last word is completed, so there may be more than `max_predictions`. Packed documents share one budget,
    and words end with their document.
    """
    candidates = maskable(input_ids, segment_ids, vocabulary)
    starts = vocabulary.word_starts[input_ids[candidates]]
    if masking.max_ngram == 1 or not masking.whole_words:
        starts = np.ones_like(starts)
    starts[1:] |= np.diff(segment_ids[candidates]) != 0
    starts[:1] = True
    bounds = [*np.flatnonzero(starts).tolist(), len(candidates)]
    words = [candidates[start:end].tolist() for start, end in pairwise(bounds)]
    cumulative = np.cumsum(ngram_shares(masking.max_ngram)).tolist()
    window = int(1 / masking.rate)
    chosen = [False] * len(words)
    offset = 0
    while offset < len(words):
        n = 1 + bisect(cumulative, rng.random() * cumulative[-1])
        context = min(n * window, len(words) - offset)
        start = offset + rng.randint(0, context - 1)
        end = min(start + n, len(words))
        chosen[start:end] = [True] * (end - start)
        offset = max(offset + context, end)

    budget = min(max_predictions, max(1, round(int(np.count_nonzero(segment_ids)) * masking.rate)))
    positions, replacements = [], []
    for word in (word for word, is_chosen in zip(words, chosen, strict=True) if is_chosen):
        for position in word:
            draw = rng.random()
            if draw < masking.mask_share:
                replacements.append(vocabulary.mask_id)
            elif draw < masking.mask_share + masking.keep_share:
                replacements.append(int(input_ids[position]))
            else:
                replacements.append(rng.randrange(vocabulary.vocab_size))
            positions.append(position)
        if len(positions) >= budget:
            break
    return np.array(positions, np.int64), np.array(replacements, np.int64)


def word_bounds(
    input_ids: Int[np.ndarray, "T"], candidates: Int64[np.ndarray, "C"], vocabulary: MaskingVocabulary, masking: Masking
) -> Int64[np.ndarray, "_"]:
    """Where each word starts among the maskable tokens, and their number; every token is a word without whole_words."""
    if not masking.whole_words:
        return np.arange(len(candidates) + 1)
    starts = vocabulary.word_starts[input_ids[candidates]]
    # A token right after a special token begins a word, because a document may be split inside a word.
    starts[:1] = True
    starts[1:] |= candidates[1:] != candidates[:-1] + 1
    if masking.max_word_tokens is not None:
        starts = split_unspaced(starts, vocabulary.unspaced_codes[input_ids[candidates]], masking.max_word_tokens)
    return np.append(np.flatnonzero(starts), len(candidates))


def _choose_uniform(
    bounds: Int64[np.ndarray, "_"], rng: np.random.Generator, masking: Masking
) -> Int64[np.ndarray, "P"]:
    """Indices of maskable tokens in random n-grams, until `rate` of them is reached; the last word is completed.

    An n-gram that reaches the end of the sequence continues with its first word. Otherwise the first words, which fewer
    n-grams contain, would be masked less often than the others.
    """
    count = len(bounds) - 1
    budget = max(1, round(int(bounds[-1]) * masking.rate))
    # The budget is reached before this many words are tried: each was chosen before, or adds at least a token.
    tried = 2 * budget
    order = rng.permutation(count)[:tried]
    draws = rng.random(count)[:tried]
    words = order
    if masking.max_ngram > 1:
        cumulative = np.cumsum(ngram_shares(masking.max_ngram))
        sizes = 1 + np.searchsorted(cumulative[:-1], draws, side="right")
        words = np.array(ngram_words(order.tolist(), sizes.tolist(), bounds.tolist(), budget), np.int64)
    starts, lengths = bounds[words], bounds[words + 1] - bounds[words]
    ends = np.cumsum(lengths)
    number = int(np.searchsorted(ends, budget)) + 1
    starts, lengths, ends = starts[:number], lengths[:number], ends[:number]
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _replace(
    ids: Int[np.ndarray, "P"], rng: np.random.Generator, vocabulary: MaskingVocabulary, masking: Masking
) -> Int[np.ndarray, "P"]:
    """For each token, [MASK], the token itself or a random ordinary token, drawn independently."""
    draws = rng.random(len(ids))
    specials = vocabulary.sorted_special_ids
    randoms = rng.integers(vocabulary.vocab_size - len(specials), size=len(ids))
    # The n-th ordinary id follows as many special ids as there are at or below it.
    randoms += np.searchsorted(specials - np.arange(len(specials)), randoms, side="right")
    unmasked = np.where(draws < masking.mask_share + masking.keep_share, ids, randoms)
    return np.where(draws < masking.mask_share, vocabulary.mask_id, unmasked)


def maskable(
    input_ids: Int[np.ndarray, "T"], segment_ids: Int[np.ndarray, "T"], vocabulary: MaskingVocabulary
) -> Int64[np.ndarray, "C"]:
    """The positions of ordinary tokens."""
    return np.flatnonzero((segment_ids > 0) & vocabulary.is_ordinary[input_ids])
