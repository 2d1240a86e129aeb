"""Where arithmetic needs more than the compute dtype."""

import jax.numpy as jnp
from jaxtyping import DTypeLike


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of scores, softmax, norms and losses: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
