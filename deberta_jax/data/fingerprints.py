"""Fingerprints of documents: an exact hash, and a MinHash signature of overlapping runs of words (shingles)."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt32, UInt64

from deberta_jax.errors import InputError

# P, the permutations of a signature. The standard error of a similarity near 0.8 is 0.035.
PERMUTATIONS = 128
# Words as in `\w+`, but each kana and Han character is a word: Chinese and Japanese do not separate words.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RECALL = 0.95
_SEED = 20_060
# Shingles that are hashed together: their P products fit into the cache, and memory does not grow with the document.
_BLOCK = 512


def exact_hash(document: str) -> int:
    """A 64-bit hash that does not depend on case, on white space, or on the Unicode form of characters."""
    normalized = " ".join(unicodedata.normalize("NFKC", document).lower().split())
    return int.from_bytes(hashlib.blake2b(normalized.encode(), digest_size=8).digest(), "little")


def shingle_hashes(document: str, size: int) -> UInt32[np.ndarray, "N"]:
    """A hash of each run of `size` words, without case and punctuation; shorter documents have one run.

    The hash is a polynomial of the bytes modulo 2^64, so that all runs follow from one cumulative sum.
    """
    lowered = unicodedata.normalize("NFKC", document).lower()
    text = np.frombuffer(" ".join(_WORD.findall(lowered) or lowered.split()).encode(), np.uint8)
    spaces = np.flatnonzero(text == ord(" "))
    starts, ends = np.append(0, spaces + 1), np.append(spaces, len(text))
    runs = max(1, len(starts) - size + 1)
    starts, ends = starts[:runs], ends[-runs:]
    values, powers, inverses = _tables(1 << max(16, len(text).bit_length()))
    sums = np.append(np.uint64(0), np.cumsum(values[text] * powers[: len(text)], dtype=np.uint64))
    return _mix((sums[ends] - sums[starts]) * inverses[starts])


@functools.cache
def minhash() -> Callable[[np.ndarray], np.ndarray]:
    """A function of the hashes of shingles that returns their MinHash; raises InputError without datasketch."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise InputError("near-duplicate removal requires datasketch; pip install 'deberta-jax[prep]'") from None
    empty = MinHash(PERMUTATIONS, seed=_SEED, scheme="affine32", hashfunc=lambda value: value)

    def digest(hashes: np.ndarray) -> np.ndarray:
        minhash = empty.copy()
        for start in range(0, len(hashes), _BLOCK):
            minhash.update_batch(hashes[start : start + _BLOCK].tolist())
        return minhash.hashvalues

    return digest


def signature(document: str, size: int) -> UInt32[np.ndarray, "P"]:
    """The MinHash of the shingles of `size` words; raises InputError without datasketch.

    Two signatures agree at a share of their entries that estimates the Jaccard similarity of the sets of shingles
    (Broder 1997).
    """
    return minhash()(shingle_hashes(document, size))


def bands(similarity: float) -> tuple[int, int]:
    """The number of bands and the entries in each, for locality-sensitive hashing (Leskovec et al. 2020, section 3.4).

    These are the longest bands such that two documents of this similarity agree in one of them with a probability of
    at least 0.95.
    """
    options = ((PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS, 0, -1))
    return next((count, rows) for count, rows in options if 1 - (1 - similarity**rows) ** count >= _RECALL or rows == 1)


@functools.lru_cache(2)
def _tables(
    length: int,
) -> tuple[UInt64[np.ndarray, "256"], UInt64[np.ndarray, "{length}"], UInt64[np.ndarray, "{length}"]]:
    """A random value of each byte, and the powers of a random odd number and of its inverse modulo 2^64."""
    rng = np.random.default_rng(_SEED)
    values = rng.integers(1 << 64, size=256, dtype=np.uint64)
    base = int(rng.integers(1 << 64, dtype=np.uint64)) | 1
    powers, inverses = np.full((2, length), np.array([[base], [pow(base, -1, 1 << 64)]], np.uint64))
    powers[0] = inverses[0] = 1
    return values, np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)


def _mix(x: UInt64[np.ndarray, "N"]) -> UInt32[np.ndarray, "N"]:
    """32 bits of each number that depend on all of its bits (the end of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(32)).astype(np.uint32)
