"""Batches: each feature once per epoch, little padding, a function of (seed, k), and equal parts for each host."""

import numpy as np
import pytest

from deberta_jax.data.batch_share import BatchShare
from deberta_jax.finetuning.batches import Batches, batches_in_epoch, epoch_order
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.kinds import KINDS

MAX_LENGTH = 64


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.geometric(0.08, 1003) + 2, 3, MAX_LENGTH)
    return [
        Feature(
            (np.full(length, 5 + number % 90, np.int32),),
            (length,),
            {"labels": np.int32(number), "weights": np.float32(1)},
        )
        for number, length in enumerate(lengths.tolist())
    ]


def batches_of(features, start=0, **more):
    options = {"batch_size": 32, "seed": 3, "max_length": MAX_LENGTH, "pad_id": 0} | more
    return Batches(KINDS["single_label"], features, start=start, **options)


def test_an_epoch_contains_every_feature_once_and_padding_has_no_weight(features):
    batches = batches_of(features)
    for _ in range(2):
        epoch = [next(batches) for _ in range(batches_in_epoch(len(features), 32))]
        labels = np.concatenate([batch["labels"][batch["weights"] > 0] for batch in epoch])
        assert sorted(labels.tolist()) == list(range(len(features)))
        for batch in epoch:
            assert batch["input_ids"].shape[0] == 32
            assert not batch["attention_mask"][batch["weights"] == 0].any()


def test_batch_k_does_not_depend_on_the_start_and_epochs_differ(features):
    iterator = batches_of(features)
    batches = [next(iterator) for _ in range(70)]
    for start in (1, 31, 32, 50):
        other = next(batches_of(features, start))
        assert all((other[name] == batches[start][name]).all() for name in other)
    assert batches[0]["labels"].tolist() != batches[32]["labels"].tolist()


def test_features_of_similar_length_are_batched_together(features):
    iterator = batches_of(features)
    batches = [next(iterator) for _ in range(batches_in_epoch(len(features), 32))]
    sizes = sum(batch["input_ids"].size for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    lengths = np.random.default_rng(0).permutation([feature.length for feature in features])
    unsorted = sum(32 * max(lengths[k : k + 32]) for k in range(0, len(lengths), 32))
    assert tokens / sizes > 0.65
    assert sizes < unsorted / 2


def test_the_order_of_batches_does_not_depend_on_length(features):
    order = epoch_order(np.asarray([feature.length for feature in features]), 32, 0, 0)
    means = [np.mean([features[number].length for number in numbers if number >= 0]) for numbers in order]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5


def test_hosts_have_equal_parts_of_a_batch_of_one_shape(features):
    batch = next(batches_of(features, 7))
    parts = [next(batches_of(features, 7, share=BatchShare((index,), 4))) for index in range(4)]
    for name, values in batch.items():
        assert (np.concatenate([part[name] for part in parts]) == values).all()


def test_choices_and_entities_are_padded_to_one_shape():
    choices = [
        Feature(
            tuple(np.full(4 + row, 7, np.int32) for row in range(count)),
            (2,) * count,
            {"labels": np.int32(0), "weights": np.float32(1)},
        )
        for count in (2, 4)
    ]
    options = {"batch_size": 2, "seed": 0, "max_length": 16, "pad_id": 0}
    batch = next(Batches(KINDS["multiple_choice"], choices, **options))
    assert batch["input_ids"].shape == (2, 4, 8)
    assert sorted(batch["attention_mask"].any(-1).sum(-1).tolist()) == [2, 4]
    entities = [
        Feature(
            (np.full(9, 7, np.int32),),
            (5,),
            {
                "entity_positions": np.ones((count, 3), np.int32),
                "labels": np.ones(count, np.float32),
                "weights": np.ones(count, np.float32),
            },
        )
        for count in (1, 3)
    ]
    batch = next(Batches(KINDS["entity_ranking"], entities, **options))
    assert batch["entity_positions"].shape == (2, 4, 4)
    assert batch["labels"].shape == batch["weights"].shape == (2, 4)
    assert batch["weights"].sum() == 4
