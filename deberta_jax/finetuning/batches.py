"""Batches of units of like length, by number: batch k is a function of (seed, k), wherever a run begins."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from deberta_jax.finetuning.features import Feature
from deberta_jax.inference.buckets import bucket_lengths, bucket_width
from deberta_jax.tasks.examples import Kind

Batch = dict[str, np.ndarray]
# So many batches' units are sorted by length at a time: enough for little padding, and order stays nearly random.
_SORTED_TOGETHER = 50
# Phrases are trained on, too, which are shorter than what is asked of a model.
_SHORTEST = 8


class Batches:
    """Batches `start`, `start` + 1, ... of units, without end; of each the rows that are this process's.

    In every epoch all units come once, in an order of its own. Units of like length go together, padded to the bucket
    of the longest. What the last batch of an epoch lacks is rows of padding, weight 0.
    """

    def __init__(
        self,
        kind: Kind,
        units: Sequence[Feature],
        *,
        batch_size: int,
        seed: int,
        limit: int,
        pad_id: int,
        start: int = 0,
        host_index: int = 0,
        host_count: int = 1,
    ):
        self._kind, self._units, self._size, self._seed, self._pad_id = kind, units, batch_size, seed, pad_id
        self._lengths = np.asarray([unit.length for unit in units])
        self._buckets = np.asarray([length for length in (_SHORTEST, *bucket_lengths(limit)) if length <= limit])
        self._next = start
        share = batch_size // host_count
        self._mine = slice(host_index * share, (host_index + 1) * share)
        self._epoch, self._order = -1, np.zeros((0, batch_size), np.int64)

    def __next__(self) -> Batch:
        epoch, place = divmod(self._next, batches_in_epoch(len(self._units), self._size))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._lengths, self._size, self._seed, epoch)
        self._next += 1
        its = self._order[place]
        longest = self._lengths[its[its >= 0]].max()
        length = int(self._buckets[np.searchsorted(self._buckets, longest)])
        units = [self._units[number] if number >= 0 else None for number in its.tolist()]
        return stacked(self._kind, units, length, self._pad_id, self._mine)

    def close(self) -> None:
        """Nothing is held."""


def batches_in_epoch(units: int, batch_size: int) -> int:
    """How many batches hold every unit once."""
    return -(-units // batch_size)


def epoch_order(lengths: Int[np.ndarray, "U"], batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "batches B"]:
    """Which units each batch of an epoch holds; -1 for none."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = _SORTED_TOGETHER * batch_size
    for start in range(0, len(order), pool):
        its = order[start : start + pool]
        order[start : start + pool] = its[np.argsort(lengths[its], kind="stable")]
    number = batches_in_epoch(len(order), batch_size)
    batches = np.concatenate([order, np.full(number * batch_size - len(order), -1)]).reshape(number, batch_size)
    return batches[rng.permutation(number)]


def stacked(kind: Kind, units: Sequence[Feature | None], length: int, pad_id: int, mine: slice) -> Batch:
    """Units as arrays, ids [B, T], of choices [B, M, T]; the shape depends on all, the rows are those `mine`."""
    there = [unit for unit in units if unit is not None]
    its = units[mine]
    shape = (len(its), max(len(unit.rows) for unit in there), length)
    input_ids = np.full(shape, pad_id, np.int32)
    attention_mask, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for place, unit in enumerate(its):
        for row, (ids, second) in enumerate(zip(unit.rows, unit.second_starts, strict=True) if unit else ()):
            input_ids[place, row, : len(ids)] = ids
            attention_mask[place, row, : len(ids)] = 1
            types[place, row, second : len(ids)] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": types}
    if kind != "multiple_choice":
        batch = {name: rows[:, 0] for name, rows in batch.items()}
    for name, sample in there[0].targets.items():
        sizes = np.max([np.shape(unit.targets[name]) for unit in there], axis=0).astype(int).tolist()
        if kind == "token":
            sizes = [length]
        elif kind == "entity_ranking":
            sizes = [bucket_width(size) for size in sizes]
        array = np.zeros((len(its), *sizes), np.asarray(sample).dtype)
        for place, unit in enumerate(its):
            if unit is not None:
                value = unit.targets[name]
                whole: tuple[Any, ...] = (place, *map(slice, np.shape(value)))
                array[whole] = value
        batch[name] = array
    return batch
