"""The dtype promotion of training steps."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def standard_promotion():
    """Optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
