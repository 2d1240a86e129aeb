"""A small run, and its target: the local devices."""

import dataclasses

import jax
import pytest

from deberta_jax.planning.plan import Target
from deberta_jax.planning.topologies import LOCAL, find_topology
from deberta_jax.pretraining.config import DataConfig, PretrainConfig
from deberta_jax.pretraining.program import model_to_train
from deberta_jax.training.config import MeshConfig, TrainingConfig


@pytest.fixture(scope="package", autouse=True)
def standard_promotion():
    """Optax's arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="package")
def config() -> PretrainConfig:
    training = TrainingConfig(steps=100, batch_size=32, mesh=MeshConfig(2, 4, 1))
    return PretrainConfig("tiny", vocabulary=400, dtype="float32", data=DataConfig(length=("16",)), training=training)


@pytest.fixture(scope="package")
def target(config) -> Target:
    """A model that compiles fast, on eight devices."""
    model = dataclasses.replace(model_to_train(config), relative_attention=False)
    return Target.of(model, find_topology(LOCAL))
