"""Fingerprints estimate the similarity of documents, and the comparison of many agrees with a loop over all pairs."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.data.duplicates import Signatures, exact_duplicates, near_duplicates
from deberta_jax.data.fingerprints import PERMUTATIONS, bands, exact_hash, shingle_hashes, signature


def shingles(document, size):
    words = re.findall(r"\w+", document.lower())
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


@given(st.lists(st.sampled_from(["Ab", "c.", "dé", "f", "g-h"]), min_size=1, max_size=40), st.integers(1, 6))
def test_hashes_are_equal_where_shingles_are(words, size):
    document = " ".join(words)
    hashes = shingle_hashes(document, size)
    assert len(set(hashes.tolist())) == len(shingles(document, size))


def test_case_spaces_and_unicode_forms_do_not_matter():
    assert exact_hash("The  Caf\u00e9\nis ﬁne.") == exact_hash("the cafe\u0301 is fine. ")
    assert exact_hash("the cafe is fine.") != exact_hash("the café is fine.")
    np.testing.assert_array_equal(shingle_hashes("The café, is fine!", 2), shingle_hashes("the CAFÉ is -- fine", 2))
    assert len(shingle_hashes("これは猫です", 2)) == 5
    assert len(shingle_hashes("*** ---", 1)) == 2
    assert len(shingle_hashes("one two", 5)) == 1


def test_signatures_estimate_the_jaccard_similarity():
    rng = np.random.default_rng(0)
    errors = []
    for common in np.linspace(10, 300, 40).astype(int):
        shared = [f"s{i}" for i in rng.integers(10**9, size=common)]
        first, second = (" ".join(shared + [f"{name}{i}" for i in range(100)]) for name in "ab")
        a, b = shingles(first, 5), shingles(second, 5)
        agreement = (signature(first, 5) == signature(second, 5)).mean()
        errors.append(agreement - len(a & b) / len(a | b))
    # The standard error of a share of 128 is at most 0.044.
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.06


def test_a_long_document_has_the_smallest_values_of_its_blocks():
    words = [f"w{i}" for i in range(3000)]
    parts = [signature(" ".join(words[i : i + 1000]), 1) for i in range(0, 3000, 1000)]
    np.testing.assert_array_equal(signature(" ".join(words), 1), np.min(parts, axis=0))


@pytest.fixture
def families():
    """Signatures of 300 documents in random order: 60 families of 5 with more and more changes, in parts of 7 sizes."""
    rng = np.random.default_rng(1)
    signatures = rng.integers(1 << 32, size=(60, 1, PERMUTATIONS), dtype=np.uint32).repeat(5, axis=1)
    for member in range(5):
        changed = rng.random((60, PERMUTATIONS)) < 0.06 * member
        signatures[:, member][changed] = rng.integers(1 << 32, size=changed.sum(), dtype=np.uint32)
    rows = rng.permutation(signatures.reshape(300, PERMUTATIONS))
    parts = np.split(rows, [0, 40, 41, 150, 290])
    return rows, Signatures([len(part) for part in parts], lambda number: parts[number])


def test_near_duplicates_are_those_of_a_loop_over_all_pairs(families):
    rows, signatures = families
    np.testing.assert_array_equal(signatures[np.array([299, 0, 40, 41])], rows[[299, 0, 40, 41]])
    candidates = np.delete(np.arange(300), [3, 77])
    expected = [
        i for i in candidates if any((rows[i] == rows[j]).mean() >= 0.8 for j in candidates[candidates < i].tolist())
    ]
    dropped = near_duplicates(signatures, candidates, 0.8, *bands(0.8))
    assert set(dropped) <= set(expected)
    assert len(dropped) >= 0.97 * len(expected) > 50
    np.testing.assert_array_equal(np.sort(dropped), dropped)


def test_the_bands_make_most_similar_pairs_candidates():
    assert bands(1.0) == (1, 128)
    for similarity in (0.5, 0.7, 0.8, 0.9):
        count, rows = bands(similarity)
        assert count * rows <= PERMUTATIONS
        longer = PERMUTATIONS // (rows + 1)
        assert 1 - (1 - similarity**rows) ** count > 0.95 > 1 - (1 - similarity ** (rows + 1)) ** longer


def test_the_first_of_equal_hashes_stays():
    hashes = np.array([5, 3, 5, 5, 3, 8], np.uint64)
    np.testing.assert_array_equal(exact_duplicates(hashes, np.arange(6)), [2, 3, 4])
    np.testing.assert_array_equal(exact_duplicates(hashes, np.array([2, 3, 4])), [3])
