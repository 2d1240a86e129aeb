"""What is hidden for pretraining: words, n-grams of words or single tokens, and what stands in their place.

A pure function of a row and a generator. Two ways to choose, by name: "uniform" spreads the masks over the whole row;
"tail_biased" is the original's, which spends its budget from the left and rarely reaches the end of a row
(spec 5.1; mlm_task.py, `NGramMaskGenerator`).
"""

import math
import random
from bisect import bisect
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from deberta_jax.errors import InputError


@dataclass(frozen=True)
class Masking:
    """How much is masked, and what stands in its place: what the two shares leave becomes a random token.

    `max_ngram` counts words, or single tokens without `whole_words`; P(n) is proportional to 1/n. (In mode
    "tail_biased" with `max_ngram` 1 it counts tokens at all events: the original groups words for longer n-grams only.)
    """

    rate: float = 0.15
    max_ngram: int = 3
    whole_words: bool = True
    mask_share: float = 0.8
    keep_share: float = 0.1
    mode: Literal["uniform", "tail_biased"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"masking rate is {self.rate}; it must lie between 0 and 1")
        if self.max_ngram < 1:
            raise InputError(f"max_ngram is {self.max_ngram}; it must be at least 1")
        if min(self.mask_share, self.keep_share) < 0 or self.mask_share + self.keep_share > 1 + 1e-9:
            raise InputError(
                f"mask_share is {self.mask_share}, keep_share {self.keep_share}; "
                "neither may be negative, and their sum not over 1"
            )
        if self.mode not in ("uniform", "tail_biased"):
            raise InputError(f"masking mode is {self.mode!r}; it is either 'uniform' or 'tail_biased'")

    def predictions(self, length: int) -> int:
        """M, the masked positions that a row has room for: its budget, and slack to finish the last word."""
        return min(length, 8 * math.ceil((self.rate * length + 4) / 8))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What masking knows of a vocabulary: its size, [MASK] counted, and which ids begin a word."""

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    word_starts: Bool[np.ndarray, "V"]

    def __post_init__(self) -> None:
        if len(self.word_starts) != self.vocab_size:
            raise InputError(f"word_starts has {len(self.word_starts)} entries, the vocabulary {self.vocab_size}")


def mask_tokens(
    input_ids: Int[np.ndarray, "T"],
    segment_ids: Int[np.ndarray, "T"],
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    masking: Masking,
) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "M"], Int32[np.ndarray, "M"], Float32[np.ndarray, "M"]]:
    """Mask a row: its new ids, and the masked positions in ascending order, the ids that stood there, their weights.

    Padding (segment 0) and special tokens are never masked. There are `masking.predictions(T)` slots; those not used
    have position 0, label 0, weight 0. A word that would overflow them is masked in part.
    """
    slots = masking.predictions(len(input_ids))
    if masking.mode == "uniform":
        positions = _choose_uniform(input_ids, segment_ids, rng, vocabulary, masking)[:slots]
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
    vocabulary: Vocabulary,
    masking: Masking,
    max_predictions: int,
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """The original's masked positions and what it writes there, drawn in its order from its kind of generator.

    One n-gram in each window of n int(1 / rate) words, then from the left until the budget is spent; the last word is
    finished, so there may be more than `max_predictions`. Packed documents count as one row, which no word crosses.
    """
    candidates = np.flatnonzero(_maskable(input_ids, segment_ids, vocabulary))
    starts = vocabulary.word_starts[input_ids[candidates]]
    if masking.max_ngram == 1 or not masking.whole_words:
        starts = np.ones_like(starts)
    starts[1:] |= np.diff(segment_ids[candidates]) != 0
    starts[:1] = True
    bounds = [*np.flatnonzero(starts).tolist(), len(candidates)]
    units = [candidates[a:b].tolist() for a, b in pairwise(bounds)]
    cumulative = np.cumsum(_ngram_shares(masking.max_ngram)).tolist()
    window = int(1 / masking.rate)
    chosen = [False] * len(units)
    offset = 0
    while offset < len(units):
        n = 1 + bisect(cumulative, rng.random() * cumulative[-1])
        context = min(n * window, len(units) - offset)
        start = offset + rng.randint(0, context - 1)
        end = min(start + n, len(units))
        chosen[start:end] = [True] * (end - start)
        offset = max(offset + context, end)

    budget = min(max_predictions, max(1, round(int(np.count_nonzero(segment_ids)) * masking.rate)))
    positions, replacements = [], []
    for unit in (unit for unit, is_chosen in zip(units, chosen, strict=True) if is_chosen):
        for position in unit:
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


def _choose_uniform(
    input_ids: Int[np.ndarray, "T"],
    segment_ids: Int[np.ndarray, "T"],
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    masking: Masking,
) -> Int[np.ndarray, "P"]:
    """Positions of n-grams at random places until `rate` of the maskable tokens is reached, the last word finished.

    The words of a row form a ring, so an n-gram that starts with the last goes on with the first: without it the first
    words, which fewer n-grams reach, would be masked less often than others.
    """
    maskable = _maskable(input_ids, segment_ids, vocabulary)
    candidates = np.flatnonzero(maskable)
    if not len(candidates):
        return candidates
    # A piece right after a special token begins a word, whatever it is: its document may be cut there.
    starts = vocabulary.word_starts[input_ids[candidates]] | ~maskable[candidates - 1] | (candidates == 0)
    starts[0] = True
    if not masking.whole_words:
        starts = np.ones_like(starts)
    bounds = [*np.flatnonzero(starts).tolist(), len(candidates)]
    count = len(bounds) - 1
    budget = max(1, round(len(candidates) * masking.rate))
    cumulative = np.cumsum(_ngram_shares(masking.max_ngram))
    order = rng.permutation(count).tolist()
    sizes = (1 + np.searchsorted(cumulative[:-1], rng.random(count), side="right")).tolist()

    chosen: set[int] = set()
    positions: list[int] = []
    for start, size in zip(order, sizes, strict=True):
        if start in chosen:
            continue
        for unit in range(start, start + size):
            unit = unit % count
            if unit not in chosen:
                chosen.add(unit)
                positions.extend(range(bounds[unit], bounds[unit + 1]))
                if len(positions) >= budget:
                    return candidates[positions]
    return candidates[positions]


def _replace(
    ids: Int[np.ndarray, "P"], rng: np.random.Generator, vocabulary: Vocabulary, masking: Masking
) -> Int[np.ndarray, "P"]:
    """[MASK], the id itself, or an ordinary one of the vocabulary, each token by its own draw."""
    draws = rng.random(len(ids))
    randoms = rng.integers(vocabulary.vocab_size - len(set(vocabulary.special_ids)), size=len(ids))
    for special in sorted(set(vocabulary.special_ids)):
        randoms += randoms >= special
    kept = np.where(draws < masking.mask_share + masking.keep_share, ids, randoms)
    return np.where(draws < masking.mask_share, vocabulary.mask_id, kept)


def _maskable(
    input_ids: Int[np.ndarray, "T"], segment_ids: Int[np.ndarray, "T"], vocabulary: Vocabulary
) -> Bool[np.ndarray, "T"]:
    maskable = segment_ids > 0
    for special in vocabulary.special_ids:
        maskable &= input_ids != special
    return maskable


def _ngram_shares(max_ngram: int) -> Float[np.ndarray, "N"]:
    shares = 1 / np.arange(1, max_ngram + 1)
    return shares / shares.sum()
