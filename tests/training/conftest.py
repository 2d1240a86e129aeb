"""Fixtures for tests that train: standard dtype promotion, shared compiled programs, one run that never stopped."""

import os

import jax
import pytest
from train_stub import config, train_stub


@pytest.fixture(scope="package", autouse=True)
def standard_promotion():
    """Optax's arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs compiled by a test or a child process are reused by the next one."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    previous = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
    for name, value in previous.items():
        jax.config.update(name, value)
        del os.environ[name.upper()]


@pytest.fixture(scope="package")
def uninterrupted(standard_promotion, tmp_path_factory):
    """The folder of a run that never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_stub(folder, config())
    return folder
