"""Mixtures of several folders of shards: which sequence has number i depends on i, the seed and the weights only."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np
from jaxtyping import Float64, Int64

from deberta_jax.data.packing import PackedSequence
from deberta_jax.data.records import read_sequences
from deberta_jax.errors import InputError

# Weights are multiples of one in this many, and exact in every run of as many sequences.
PERIOD = 1 << 20
# Grain counts batches in floating point, which is exact up to this number.
ENDLESS = 1 << 52


@dataclass(frozen=True)
class Source:
    """A folder of shards with a name, and its share of the sequences; shares need not sum to 1."""

    name: str
    folder: Path
    weight: float


# One folder of shards, or several with shares.
Shards = Path | Sequence[Source]


def temperature_weights(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """The share of each source, in proportion to size^exponent.

    1 keeps the proportions of the text, and lower values raise the shares of small languages: 0.3 in XLM-R (Conneau et
    al. 2020, section 3.1) and in mT5 (Xue et al. 2021).
    """
    weights = {name: float(size) ** exponent for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def training_sequences(shards: Shards, seed: int, vocabulary_sha256: str | None = None) -> grain.MapDataset:
    """The sequences of all shards without end, shuffled in every epoch; of a mixture, each source in its own epochs."""
    if isinstance(shards, Path):
        sequences = read_sequences(shards, vocabulary_sha256).seed(seed).shuffle()
        return sequences.repeat(ENDLESS // len(sequences))
    shuffled = [
        read_sequences(source.folder, vocabulary_sha256).seed(derived_seed(seed, source.name)).shuffle()
        for source in shards
    ]
    mixture = Mixture(shuffled, [source.weight for source in shards], seed)
    return grain.MapDataset.source(mixture).seed(seed)


def held_out_sequences(shards: Shards, limit: int | None, vocabulary_sha256: str | None = None) -> grain.MapDataset:
    """Every sequence once, or the first `limit`; those of a mixture in an order that keeps to its shares."""
    if isinstance(shards, Path):
        sequences = read_sequences(shards, vocabulary_sha256)
        return sequences if limit is None else sequences[:limit]
    sources = [read_sequences(source.folder, vocabulary_sha256) for source in shards]
    return grain.MapDataset.source(_Interleaved(sources, [source.weight for source in shards], limit))


def derived_seed(seed: int, name: str) -> int:
    """A seed for a part of a run, which depends on its name."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


class Mixture:
    """A source for Grain that draws from several: a random order of `PERIOD` numbers of sources, again and again."""

    def __init__(self, sources: Sequence[grain.MapDataset], weights: Sequence[float], seed: int):
        self._sources = sources
        self._counts = _counts(np.asarray(weights, np.float64))
        source_of = np.repeat(np.arange(len(sources)), self._counts)
        self._source_of = np.random.default_rng(seed).permutation(source_of).astype(np.int32)
        self._rank = np.empty(PERIOD, np.int32)
        for number, count in enumerate(self._counts):
            self._rank[self._source_of == number] = np.arange(count)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> PackedSequence:
        period, position = divmod(int(index), PERIOD)
        number = int(self._source_of[position])
        # Grain continues with the next epoch, shuffled again, where an index exceeds the length.
        return self._sources[number][period * int(self._counts[number]) + int(self._rank[position])]


class _Interleaved:
    """A source for Grain with each sequence of several sources once, or the first `limit`."""

    def __init__(self, sources: Sequence[grain.MapDataset], weights: Sequence[float], limit: int | None):
        self._sources = sources
        sizes = [len(source) if limit is None else min(limit, len(source)) for source in sources]
        times = [(np.arange(size) + 0.5) / weight for size, weight in zip(sizes, weights, strict=True)]
        order = np.argsort(np.concatenate(times), kind="stable")[:limit]
        self._source_of = np.repeat(np.arange(len(sources)), sizes)[order]
        self._index = np.concatenate([np.arange(size) for size in sizes])[order]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> PackedSequence:
        return self._sources[int(self._source_of[index])][int(self._index[index])]


def _counts(weights: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
    """`PERIOD` in proportion to the weights, in integers of at least 1: largest remainders first."""
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise InputError(f"the weights of a mixture are {weights.tolist()}; they must be positive")
    exact = weights / weights.sum() * (PERIOD - len(weights))
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - len(weights) - counts.sum()]] += 1
    return counts + 1
