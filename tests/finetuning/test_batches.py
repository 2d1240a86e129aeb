"""Batches by number: every unit once an epoch, little padding, the same wherever a run begins, parts for each host."""

import numpy as np
import pytest

from deberta_jax.finetuning.batches import Batches, batches_in_epoch, epoch_order
from deberta_jax.finetuning.features import Feature

LIMIT = 64


@pytest.fixture(scope="module")
def units():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.geometric(0.08, 1003) + 2, 3, LIMIT)
    return [
        Feature(
            (np.full(length, 5 + number % 90, np.int32),),
            (length,),
            {"labels": np.int32(number), "weights": np.float32(1)},
        )
        for number, length in enumerate(lengths.tolist())
    ]


def batches_of(units, start=0, **more):
    options = {"batch_size": 32, "seed": 3, "limit": LIMIT, "pad_id": 0} | more
    return Batches("single_label", units, start=start, **options)


def test_an_epoch_holds_every_unit_once_and_padding_weighs_nothing(units):
    batches = batches_of(units)
    for _ in range(2):
        its = [next(batches) for _ in range(batches_in_epoch(len(units), 32))]
        labels = np.concatenate([batch["labels"][batch["weights"] > 0] for batch in its])
        assert sorted(labels.tolist()) == list(range(len(units)))
        for batch in its:
            assert batch["input_ids"].shape[0] == 32
            assert not batch["attention_mask"][batch["weights"] == 0].any()


def test_batch_k_is_the_same_wherever_one_begins_and_epochs_differ(units):
    whole = batches_of(units)
    its = [next(whole) for _ in range(70)]
    for start in (1, 31, 32, 50):
        other = next(batches_of(units, start))
        assert all((other[name] == its[start][name]).all() for name in other)
    assert its[0]["labels"].tolist() != its[32]["labels"].tolist()


def test_units_of_like_length_go_together(units):
    batches = batches_of(units)
    its = [next(batches) for _ in range(batches_in_epoch(len(units), 32))]
    sizes = sum(batch["input_ids"].size for batch in its)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in its)
    rng = np.random.default_rng(0)
    lengths = rng.permutation([unit.length for unit in units])
    mixed = sum(32 * max(lengths[k : k + 32]) for k in range(0, len(lengths), 32))
    assert tokens / sizes > 0.65
    assert sizes < mixed / 2


def test_short_batches_do_not_come_first(units):
    order = epoch_order(np.asarray([unit.length for unit in units]), 32, 0, 0)
    means = [np.mean([units[number].length for number in its if number >= 0]) for its in order]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5


def test_hosts_share_a_batch_of_one_shape(units):
    whole = next(batches_of(units, 7))
    parts = [next(batches_of(units, 7, host_index=index, host_count=4)) for index in range(4)]
    for name, values in whole.items():
        assert (np.concatenate([part[name] for part in parts]) == values).all()


def test_choices_and_entities_are_padded_to_one_shape():
    choice = [
        Feature(
            tuple(np.full(4 + row, 7, np.int32) for row in range(number)),
            (2,) * number,
            {"labels": np.int32(0), "weights": np.float32(1)},
        )
        for number in (2, 4)
    ]
    batch = next(Batches("multiple_choice", choice, batch_size=2, seed=0, limit=16, pad_id=0))
    assert batch["input_ids"].shape == (2, 4, 8)
    assert sorted(batch["attention_mask"].any(-1).sum(-1).tolist()) == [2, 4]
    entities = [
        Feature(
            (np.full(9, 7, np.int32),),
            (5,),
            {
                "entity_positions": np.ones((number, 3), np.int32),
                "labels": np.ones(number, np.float32),
                "weights": np.ones(number, np.float32),
            },
        )
        for number in (1, 3)
    ]
    batch = next(Batches("entity_ranking", entities, batch_size=2, seed=0, limit=16, pad_id=0))
    assert batch["entity_positions"].shape == (2, 4, 4)
    assert batch["labels"].shape == batch["weights"].shape == (2, 4)
    assert batch["weights"].sum() == 4
