"""Duplicates among many documents, from their fingerprints.

About 60 bytes of memory per document are held, for hashes or the keys of one band, and to sort them. Signatures stay on
disk: those of one part at a time are mapped into memory.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt32, UInt64

from deberta_jax.data.fingerprints import PERMUTATIONS

# Signatures that are read at once.
_BLOCK = 1 << 12
# In a band, documents are compared with the first ones of their bucket: this many that are not similar to each other.
_LEADERS = 8


class Signatures:
    """The signatures of all documents, by number; `parts` are the numbers of documents in consecutive parts.

    `read(i)` maps the signatures of part i into memory, until the array is no longer used.
    """

    def __init__(self, parts: Sequence[int], read: Callable[[int], UInt32[np.ndarray, "_ P"]]):
        self._ends = np.cumsum(parts)
        self._starts = self._ends - np.asarray(parts)
        self._read = read

    def __getitem__(self, indices: Int64[np.ndarray, "N"]) -> UInt32[np.ndarray, "N P"]:
        signatures = np.empty((len(indices), PERMUTATIONS), np.uint32)
        part_of = np.searchsorted(self._ends, indices, "right")
        for number in np.unique(part_of).tolist():
            rows = part_of == number
            signatures[rows] = self._read(number)[indices[rows] - self._starts[number]]
        return signatures


def exact_duplicates(hashes: UInt64[np.ndarray, "A"], candidates: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "D"]:
    """The candidates whose hash is that of an earlier candidate."""
    _, first = np.unique(hashes[candidates], return_index=True)
    is_duplicate = np.ones(len(candidates), bool)
    is_duplicate[first] = False
    return candidates[is_duplicate]


def near_duplicates(
    signatures: Signatures, candidates: Int64[np.ndarray, "N"], similarity: float, bands: int, rows: int
) -> Int64[np.ndarray, "D"]:
    """The candidates, in ascending order, that are similar to an earlier one.

    Two documents are compared if `rows` consecutive entries of their signatures agree in one of the bands; documents of
    the same band are compared with the first ones only. A document is also dropped if the earlier one is dropped.
    """
    dropped = np.zeros(len(candidates), bool)
    for band in range(bands):
        keys = _band_keys(signatures, candidates, slice(band * rows, (band + 1) * rows))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for _ in range(_LEADERS):
            if not len(order):
                break
            is_leader = np.append(True, keys[1:] != keys[:-1])
            leaders = order[np.maximum.accumulate(np.where(is_leader, np.arange(len(order)), 0))]
            rest = np.flatnonzero(~is_leader)
            similar = _shares(signatures, candidates[order[rest]], candidates[leaders[rest]]) >= similarity
            dropped[order[rest[similar]]] = True
            order, keys = order[rest[~similar]], keys[rest[~similar]]
    return candidates[dropped]


def _band_keys(signatures: Signatures, candidates: Int64[np.ndarray, "N"], band: slice) -> UInt64[np.ndarray, "N"]:
    """A hash of the entries of a band, for each candidate."""
    keys = np.empty(len(candidates), np.uint64)
    for start in range(0, len(candidates), _BLOCK):
        entries = signatures[candidates[start : start + _BLOCK]][:, band]
        key = np.zeros(len(entries), np.uint64)
        for column in entries.T:
            key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        keys[start : start + _BLOCK] = key
    return keys


def _shares(
    signatures: Signatures, first: Int64[np.ndarray, "N"], second: Int64[np.ndarray, "N"]
) -> Float64[np.ndarray, "N"]:
    """The share of entries at which two signatures agree, for each pair."""
    shares = np.empty(len(first))
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        shares[block] = (signatures[first[block]] == signatures[second[block]]).mean(axis=1)
    return shares
