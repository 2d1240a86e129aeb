"""Masking: what may be masked, how much, where; the original's way, token for token."""

import collections
import json
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.data.masking import Masking, Vocabulary, mask_tokens, tail_biased
from deberta_jax.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "g01_ngram_mask" / "stats.json").read_text())
SPECIAL, MASK, SIZE = (0, 1, 2, 3, 99), 99, 100
# Ids 50 to 98 go on with a word.
VOCABULARY = Vocabulary(MASK, SIZE, SPECIAL, np.arange(SIZE) < 50)


def golden_vocabulary():
    pieces = GOLDEN["vocab"]
    starts = np.array([piece.startswith(("▁", "[")) or piece in ".,!" for piece in pieces])
    return Vocabulary(4, len(pieces), (0, 1, 2, 3, 4), starts)


def row(length, seed=0, ids=(4, 99), padding=0):
    """Two documents and padding."""
    rng = np.random.default_rng(seed)
    input_ids = rng.integers(*ids, size=length).astype(np.int32)
    segment_ids = np.ones(length, np.int32)
    half = (length - padding) // 2
    input_ids[[0, half]], input_ids[[half - 1, length - padding - 1]] = 1, 2
    segment_ids[half:] = 2
    input_ids[length - padding :] = segment_ids[length - padding :] = 0
    return input_ids, segment_ids


def words_of(input_ids, segment_ids):
    """Lists of positions: a word begins at an id that starts one, and after every special token."""
    words, open_word = [], False
    for position, (token, segment) in enumerate(zip(input_ids, segment_ids, strict=True)):
        if token in SPECIAL or segment == 0:
            open_word = False
        elif open_word and not VOCABULARY.word_starts[token]:
            words[-1].append(position)
        else:
            words.append([position])
            open_word = True
    return words


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_tail_biased_draws_what_the_original_draws(name):
    case = GOLDEN["configs"][name]
    said = case["settings"]
    masking = Masking(
        rate=float(said.get("mask_lm_prob", 0.15)),
        max_ngram=said["max_gram"],
        mask_share=float(said.get("mask_prob", 0.8)),
        keep_share=float(said.get("keep_prob", 0.1)),
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
            said["max_preds_per_seq_used"],
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
def test_a_masked_row_can_be_restored_and_only_words_were_touched(length, padding, seed, mode, rate, max_ngram):
    input_ids, segment_ids = row(length, seed, padding=padding)
    masking = Masking(rate=rate, max_ngram=max_ngram, mode=mode)
    masked, positions, labels, weights = mask_tokens(
        input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking
    )
    assert len(positions) == len(labels) == len(weights) == masking.predictions(length)
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
def test_uniform_masks_the_rate_in_whole_words(length, seed, max_ngram):
    input_ids, segment_ids = row(length, seed)
    masking = Masking(max_ngram=max_ngram)
    _, positions, _, weights = mask_tokens(input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking)
    chosen = set(positions[weights > 0].tolist())
    words = words_of(input_ids, segment_ids)
    budget = max(1, round(0.15 * sum(map(len, words))))
    cut = [word for word in words if 0 < len(chosen & set(word)) < len(word)]
    assert len(cut) <= (len(chosen) == len(weights))
    assert budget <= len(chosen) < budget + max(map(len, words))


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_uniform_masks_no_place_more_often_than_another(max_ngram):
    length, runs = 66, 8_000
    input_ids, segment_ids = row(length, ids=(4, 50))
    places = np.setdiff1d(np.arange(length), np.flatnonzero(np.isin(input_ids, SPECIAL)))
    rng, counts = np.random.default_rng(0), np.zeros(length)
    masking = Masking(max_ngram=max_ngram)
    for _ in range(runs):
        _, positions, _, weights = mask_tokens(input_ids, segment_ids, rng, VOCABULARY, masking)
        counts[positions[weights > 0]] += 1
    rate = round(0.15 * len(places)) / len(places)
    deviation = (counts[places] / runs - rate) / np.sqrt(rate * (1 - rate) / runs)
    assert np.abs(deviation).max() < 4.5
    assert np.abs(counts[places][-8:].mean() / runs - rate) < 0.01


def test_words_that_are_long_are_masked_about_as_often_as_short_ones():
    words = [[10] + [60] * (n - 1) for n in [1, 2, 3] * 15]
    input_ids = np.array([1, *chain(*words), 2], np.int32)
    bounds = 1 + np.cumsum([0, *map(len, words)])[:-1]
    counts, rng = np.zeros(len(input_ids)), np.random.default_rng(0)
    for _ in range(5000):
        _, positions, _, weights = mask_tokens(input_ids, np.ones_like(input_ids), rng, VOCABULARY, Masking())
        counts[positions[weights > 0]] += 1
    rates = [counts[bounds[i::3]].mean() / 5000 for i in range(3)]
    assert max(rates) - min(rates) < 0.02


def test_masks_keeps_and_random_tokens_have_their_shares():
    rng, kinds, randoms = np.random.default_rng(0), collections.Counter(), collections.Counter()
    for seed in range(1000):
        input_ids, segment_ids = row(128, seed)
        masked, positions, labels, weights = mask_tokens(input_ids, segment_ids, rng, VOCABULARY, Masking())
        for position, label in zip(positions[weights > 0], labels[weights > 0], strict=True):
            new = int(masked[position])
            kinds["mask" if new == MASK else "keep" if new == label else "random"] += 1
            if new not in (MASK, label):
                randoms[new] += 1
    total = kinds.total()
    assert abs(kinds["mask"] / total - 0.8) < 0.01
    assert abs(kinds["keep"] / total - 0.101) < 0.01
    assert set(randoms) == set(range(4, 99))


def test_a_row_without_words_is_left_as_it_is():
    nothing = np.zeros(16, np.int32)
    for mode in ("uniform", "tail_biased"):
        for segment_ids in (nothing, nothing + 1):
            masked, *_, weights = mask_tokens(
                nothing, segment_ids, np.random.default_rng(0), VOCABULARY, Masking(mode=mode)
            )
            assert not masked.any()
            assert not weights.any()


def test_one_endless_word_fills_the_slots_and_no_more():
    input_ids = np.array([1, 10, *[60] * 61, 2], np.int32)
    for mode in ("uniform", "tail_biased"):
        masking = Masking(mode=mode)
        *_, weights = mask_tokens(input_ids, np.ones(64, np.int32), np.random.default_rng(0), VOCABULARY, masking)
        assert weights.sum() == masking.predictions(64) == 16


def test_the_same_generator_gives_the_same_masks():
    for mode in ("uniform", "tail_biased"):
        results = [mask_tokens(*row(64), np.random.default_rng(5), VOCABULARY, Masking(mode=mode)) for _ in range(2)]
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_whole_words_every_token_is_masked_alone_and_as_often():
    masking = Masking(max_ngram=1, whole_words=False, mask_share=1.0, keep_share=0.0)
    input_ids, segment_ids = row(128)
    times = np.zeros(128)
    for seed in range(400):
        masked, positions, labels, weights = mask_tokens(
            input_ids, segment_ids, np.random.default_rng(seed), VOCABULARY, masking
        )
        used = positions[weights > 0]
        assert len(used) == round(0.15 * np.sum(~np.isin(input_ids, SPECIAL)))
        assert (masked[used] == MASK).all() and (labels[weights > 0] == input_ids[used]).all()
        times[used] += 1
    share = times[~np.isin(input_ids, SPECIAL)] / 400
    # Five standard deviations of 400 draws.
    assert np.abs(share - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 400)


SPEED = """
import sys, time
import numpy as np
sys.path.append(sys.argv[1])
from test_masking import VOCABULARY, Masking, mask_tokens, row
rows, rng, seconds = [row(128, seed) for seed in range(400)], np.random.default_rng(0), []
for _ in range(5):
    before = time.process_time()
    for input_ids, segment_ids in rows:
        mask_tokens(input_ids, segment_ids, rng, VOCABULARY, Masking())
    seconds.append(time.process_time() - before)
print(len(rows) / min(seconds))
"""


def test_masking_keeps_up_with_a_trainer():
    # In a process of its own, where types are not checked at run time; the best of five, as other work slows it down.
    command = [sys.executable, "-c", SPEED, str(Path(__file__).parent)]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) > 2000


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": 1.5}, {"max_ngram": 0}, {"mask_share": 0.9, "keep_share": 0.2}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Masking(**wrong)
