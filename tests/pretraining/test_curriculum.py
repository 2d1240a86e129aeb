"""Stages of lengths cover a run exactly, and their batches are those of each stage."""

import dataclasses

import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.pretraining.config import DataConfig, PretrainConfig
from deberta_jax.pretraining.curriculum import Stage, make_stages, parse_lengths, stage_at
from deberta_jax.pretraining.staged_batches import StagedBatches
from deberta_jax.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ("512", [(512, 0, 1000, 32)]),
        ("512:90% 1024:10%", [(512, 0, 900, 32), (1024, 900, 1000, 16)]),
        ("512:90% 1024", [(512, 0, 900, 32), (1024, 900, 1000, 16)]),
        ("512:900 1024", [(512, 0, 900, 32), (1024, 900, 1000, 16)]),
        ("1024:33.3% 128:100 512", [(1024, 0, 333, 32), (128, 333, 433, 256), (512, 433, 1000, 64)]),
        ("512:0.01% 1024", [(1024, 0, 1000, 16)]),
        ("512:1000 1024", [(512, 0, 1000, 32)]),
        ("512:2000 1024", [(512, 0, 1000, 32)]),
    ],
)
def test_stages_cover_the_run_with_the_same_tokens_per_step(words, stages):
    assert [dataclasses.astuple(stage) for stage in make_stages(parse_lengths(words.split()), 1000, 32)] == stages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("512:x", "'512:x' is no length; write LENGTH, LENGTH:PERCENT% or LENGTH:STEPS"),
        ("", "no length given"),
        ("512 1024", "give each length but the last one its share"),
        ("512:90% 1024:100", "the last one lasts to the end of the run"),
        ("512:90% 1024:20%", "sum to 110%; they must sum to 100%"),
        ("512:90% 512:10%", "has a length twice"),
        ("512:90% 700:10%", "32 sequences of 512 tokens are no whole number of sequences of 700"),
    ],
)
def test_invalid_lengths_are_rejected(words, message):
    with pytest.raises(InputError, match=message):
        make_stages(parse_lengths(words.split()), 1000, 32)


def test_the_settings_have_the_first_step_of_each_length():
    def settings(*length, steps=1000):
        data = DataConfig(length=length)
        return PretrainConfig("v3-base", data=data, training=TrainingConfig(steps=steps)).settings()["data"]

    assert settings("512")["length"] == 512
    assert settings("256:90%", "512:10%")["length"] == {"256": 0, "512": 900}
    assert settings("256:90%", "512:10%") == settings("256:900", "512", steps=5000)
    # A run that ends before a stage can be extended.
    assert settings("256:900", "512", steps=800) == settings("256:900", "512", steps=5000)
    assert "mixture" not in settings("512") and settings("512")["shards"] is None


class Numbers:
    """Batches of a stage: the number of the stage and of the batch."""

    def __init__(self, stage, start, log):
        self.stage, self.next, self.log = stage, start, log
        log.append(("open", stage, start))

    def __next__(self):
        self.next += 1
        return {"batch": np.array([self.stage, self.next - 1])}

    def close(self):
        self.log.append(("close", self.stage))


@pytest.mark.parametrize("start", [0, 2, 3, 4, 7, 9])
def test_batches_change_their_stage_at_the_same_step_from_any_start(start):
    stages = [Stage(8, 0, 3, 4), Stage(16, 3, 7, 2), Stage(32, 7, 9, 1)]
    log = []
    batches = StagedBatches(stages, lambda stage, first: Numbers(stage, first, log), start)
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert [tuple(next(batches)["batch"]) for _ in range(11 - start)] == expected[start:]
    batches.close()
    batches.close()
    opened = [stage for action, stage, *_ in log if action == "open"]
    assert opened == list(range(stage_at(stages, start), 3))
    assert [entry[1] for entry in log if entry[0] == "close"] == opened
