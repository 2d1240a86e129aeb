"""The dtype in which sums and normalizations are computed."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of scores, softmax, norms and losses: float32, or float64 for float64 inputs."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def position_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of position scores before the sum: bfloat16 for bfloat16, which halves their memory traffic."""
    return jnp.dtype(dtype) if dtype == jnp.bfloat16 else accumulation_dtype(dtype)


def upcast(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The array in its accumulation dtype."""
    return x.astype(accumulation_dtype(x.dtype))
