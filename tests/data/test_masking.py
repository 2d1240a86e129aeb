"""Masking: which tokens are masked, how many and where; the original's mode token for token."""

import collections
import importlib.util
import json
import random
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deberta_jax.data import masking as masking_module
from deberta_jax.data import ngrams as ngrams_module
from deberta_jax.data.masking import Masking, MaskingVocabulary, mask_tokens, tail_biased
from deberta_jax.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "g01_ngram_mask" / "stats.json").read_text())
SPECIAL, MASK, SIZE = (0, 1, 2, 3, 99), 99, 100
# Ids from 50 to 98 continue a word.
VOCABULARY = MaskingVocabulary(MASK, SIZE, SPECIAL, np.arange(SIZE) < 50)


@pytest.fixture(scope="module")
def unchecked_mask_tokens():
    """`mask_tokens` without run-time type checks, for tests with thousands of calls."""
    module = without_checks(masking_module)
    module.ngram_words = without_checks(ngrams_module).ngram_words
    return module.mask_tokens


def without_checks(module):
    """A copy of a module, imported without the hook that checks types."""
    spec = importlib.util.spec_from_file_location(f"unchecked_{module.__name__}", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def golden_vocabulary():
    pieces = GOLDEN["vocab"]
    starts = np.array([piece.startswith(("▁", "[")) or piece in ".,!" for piece in pieces])
    return MaskingVocabulary(4, len(pieces), (0, 1, 2, 3, 4), starts)


def make_sequence(length, seed=0, ids=(4, 99), padding=0):
    """Two documents and padding."""
    rng = np.random.default_rng(seed)
    input_ids = rng.integers(*ids, size=length).astype(np.int32)
    segment_ids = np.ones(length, np.int32)
    half = (length - padding) // 2
    input_ids[[0, half]], input_ids[[half - 1, length - padding - 1]] = 1, 2
    segment_ids[half:] = 2
    input_ids[length - padding :] = segment_ids[length - padding :] = 0
    return input_ids, segment_ids


def words_of(input_ids, segment_ids, longest):
    """The positions of each word: it starts at an id that starts words, or after a special token.

    Each token of a word of more than `longest` tokens is a word.
    """
    words, in_word = [], False
    for position, (token, segment) in enumerate(zip(input_ids, segment_ids, strict=True)):
        if token in SPECIAL or segment == 0:
            in_word = False
        elif in_word and not VOCABULARY.word_starts[token]:
            words[-1].append(position)
        else:
            words.append([position])
            in_word = True
    return [part for word in words for part in ([word] if len(word) <= longest else [[k] for k in word])]


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_tail_biased_equals_the_original(name):
    case = GOLDEN["configs"][name]
    values = case["settings"]
    masking = Masking(
        rate=float(values.get("mask_lm_prob", 0.15)),
        max_ngram=values["max_gram"],
        mask_share=float(values.get("mask_prob", 0.8)),
        keep_share=float(values.get("keep_prob", 0.1)),
        mode="tail_biased",
    )
    sequence = np.array(case["sequence"])
    assert case["exact_samples"]
    for sample in case["exact_samples"]:
        positions, replacements = tail_biased(
            sequence,
            np.ones_like(sequence),
            random.Random(sample["seed"]),
            golden_vocabulary(),
            masking,
            values["max_preds_per_seq_used"],
        )
        tokens, labels = sequence.copy(), np.zeros_like(sequence)
        tokens[positions], labels[positions] = replacements, sequence[positions]
        np.testing.assert_array_equal(tokens, sample["tokens"])
        np.testing.assert_array_equal(labels, sample["labels"])


@settings(deadline=None)
@given(
    length=st.integers(12, 200),
    padding=st.integers(0, 4),
    seed=st.integers(0, 1 << 32),
    mode=st.sampled_from(["uniform", "tail_biased"]),
    rate=st.sampled_from([0.15, 0.3, 0.9]),
    max_ngram=st.integers(1, 5),
)
def test_labels_restore_the_sequence_and_only_words_are_masked(length, padding, seed, mode, rate, max_ngram):
    input_ids, segment_ids = make_sequence(length, seed, padding=padding)
    masking = Masking(rate=rate, max_ngram=max_ngram, mode=mode)
    masked, positions, labels, weights = mask_tokens(
        input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking
    )
    assert len(positions) == len(labels) == len(weights) == masking.slots(length)
    assert (masked.dtype, positions.dtype, labels.dtype, weights.dtype) == (np.int32,) * 3 + (np.float32,)
    used = int(weights.sum())
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < used)
    assert used >= 1
    assert (np.diff(positions[:used]) > 0).all()
    assert not positions[used:].any()
    assert not labels[used:].any()
    assert not np.isin(labels[:used], SPECIAL).any()
    assert (segment_ids[positions[:used]] > 0).all()
    restored = masked.copy()
    restored[positions[:used]] = labels[:used]
    np.testing.assert_array_equal(restored, input_ids)


@settings(deadline=None)
@given(length=st.integers(8, 200), seed=st.integers(0, 1 << 32), max_ngram=st.integers(1, 3))
@example(length=60, seed=580297, max_ngram=1)  # has a word of 17 tokens
def test_uniform_masks_the_rate_in_whole_words(length, seed, max_ngram):
    input_ids, segment_ids = make_sequence(length, seed)
    masking = Masking(max_ngram=max_ngram)
    _, positions, _, weights = mask_tokens(input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking)
    chosen = set(positions[weights > 0].tolist())
    words = words_of(input_ids, segment_ids, masking.max_word_tokens)
    budget = max(1, round(0.15 * sum(map(len, words))))
    partial = [word for word in words if 0 < len(chosen & set(word)) < len(word)]
    assert len(partial) <= (len(chosen) == len(weights))
    assert budget <= len(chosen) < budget + max(map(len, words))


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_uniform_masks_all_positions_equally_often(max_ngram, unchecked_mask_tokens):
    length, runs = 66, 8_000
    input_ids, segment_ids = make_sequence(length, ids=(4, 50))
    maskable = np.setdiff1d(np.arange(length), np.flatnonzero(np.isin(input_ids, SPECIAL)))
    rng, counts = np.random.default_rng(0), np.zeros(length)
    masking = Masking(max_ngram=max_ngram)
    for _ in range(runs):
        _, positions, _, weights = unchecked_mask_tokens(input_ids, segment_ids, rng, VOCABULARY, masking)
        counts[positions[weights > 0]] += 1
    rate = round(0.15 * len(maskable)) / len(maskable)
    deviation = (counts[maskable] / runs - rate) / np.sqrt(rate * (1 - rate) / runs)
    assert np.abs(deviation).max() < 4.5
    assert np.abs(counts[maskable][-8:].mean() / runs - rate) < 0.01


def test_long_words_are_masked_about_as_often_as_short_words(unchecked_mask_tokens):
    words = [[10] + [60] * (n - 1) for n in [1, 2, 3] * 15]
    input_ids = np.array([1, *chain(*words), 2], np.int32)
    bounds = 1 + np.cumsum([0, *map(len, words)])[:-1]
    counts, rng = np.zeros(len(input_ids)), np.random.default_rng(0)
    for _ in range(5000):
        _, positions, _, weights = unchecked_mask_tokens(input_ids, np.ones_like(input_ids), rng, VOCABULARY, Masking())
        counts[positions[weights > 0]] += 1
    rates = [counts[bounds[i::3]].mean() / 5000 for i in range(3)]
    assert max(rates) - min(rates) < 0.02


def test_mask_keep_and_random_replacements_have_their_shares(unchecked_mask_tokens):
    rng, kinds, randoms = np.random.default_rng(0), collections.Counter(), collections.Counter()
    for seed in range(1000):
        input_ids, segment_ids = make_sequence(128, seed)
        masked, positions, labels, weights = unchecked_mask_tokens(input_ids, segment_ids, rng, VOCABULARY, Masking())
        for position, label in zip(positions[weights > 0], labels[weights > 0], strict=True):
            new = int(masked[position])
            kinds["mask" if new == MASK else "keep" if new == label else "random"] += 1
            if new not in (MASK, label):
                randoms[new] += 1
    total = kinds.total()
    assert abs(kinds["mask"] / total - 0.8) < 0.01
    assert abs(kinds["keep"] / total - 0.101) < 0.01
    assert set(randoms) == set(range(4, 99))


@pytest.mark.parametrize("mode", ["uniform", "tail_biased"])
def test_a_sequence_without_words_is_unchanged(mode):
    zeros = np.zeros(16, np.int32)
    for segment_ids in (zeros, zeros + 1):
        masked, *_, weights = mask_tokens(zeros, segment_ids, np.random.default_rng(0), VOCABULARY, Masking(mode=mode))
        assert not masked.any()
        assert not weights.any()


@pytest.mark.parametrize("mode", ["uniform", "tail_biased"])
def test_a_word_longer_than_the_slots_is_masked_in_part(mode):
    input_ids = np.array([1, 10, *[60] * 61, 2], np.int32)
    masking = Masking(mode=mode, max_word_tokens=None)
    *_, weights = mask_tokens(input_ids, np.ones(64, np.int32), np.random.default_rng(0), VOCABULARY, masking)
    assert weights.sum() == masking.slots(64) == 16


@pytest.mark.parametrize("mode", ["uniform", "tail_biased"])
def test_the_same_generator_gives_the_same_masks(mode):
    results = [mask_tokens(*make_sequence(64), np.random.default_rng(5), VOCABULARY, Masking(mode=mode)) for _ in "ab"]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_whole_words_all_tokens_are_masked_independently_and_equally_often(unchecked_mask_tokens):
    masking = Masking(max_ngram=1, whole_words=False, mask_share=1.0, keep_share=0.0)
    input_ids, segment_ids = make_sequence(128)
    counts = np.zeros(128)
    for seed in range(400):
        masked, positions, labels, weights = unchecked_mask_tokens(
            input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking
        )
        used = positions[weights > 0]
        assert len(used) == round(0.15 * np.sum(~np.isin(input_ids, SPECIAL)))
        assert (masked[used] == MASK).all() and (labels[weights > 0] == input_ids[used]).all()
        counts[used] += 1
    share = counts[~np.isin(input_ids, SPECIAL)] / 400
    # Five standard deviations of 400 draws.
    assert np.abs(share - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 400)


def test_masking_a_sequence_costs_at_most_80_permutations_of_numpy(unchecked_mask_tokens):
    """About 2,000 sequences per second and core where numpy permutes 128 numbers in 6 us; 40 were measured."""
    sequences, rng = [make_sequence(128, seed) for seed in range(200)], np.random.default_rng(0)

    def mask():
        for input_ids, segment_ids in sequences:
            unchecked_mask_tokens(input_ids, segment_ids, rng, VOCABULARY, Masking())

    def permute():
        for _ in range(80 * len(sequences)):
            rng.permutation(128)

    # The best of alternating runs, because other processes slow this one down.
    seconds = [(cpu_seconds(mask), cpu_seconds(permute)) for _ in range(5)]
    masking, permuting = map(min, zip(*seconds, strict=True))
    assert masking < permuting


def cpu_seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": 1.5}, {"max_ngram": 0}, {"mask_share": 0.9, "keep_share": 0.2}]
)
def test_impossible_settings_are_rejected(options):
    with pytest.raises(InputError):
        Masking(**options)


def test_a_vocabulary_of_another_size_is_rejected():
    with pytest.raises(InputError, match="word_starts has 3 entries, but the vocabulary has 100 tokens"):
        MaskingVocabulary(MASK, SIZE, SPECIAL, np.ones(3, bool))
