"""Fixtures of several folders of tests that train: standard dtype promotion, and one run that never stopped."""

import jax
import pytest
from train_stub import config, train_stub


@pytest.fixture(scope="package", autouse=True)
def standard_promotion():
    """Optax's arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="package")
def uninterrupted(standard_promotion, tmp_path_factory):
    """The folder of a run that never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_stub(folder, config())
    return folder
