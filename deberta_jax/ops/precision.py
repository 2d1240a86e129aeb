"""The dtype of sums and normalizations, and the precision of matrix products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of scores, softmax, norms and losses: float32, or float64 for float64 inputs."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def upcast(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The array in its accumulation dtype."""
    return x.astype(accumulation_dtype(x.dtype))


def product_precision(*operands: Float[Array, "..."]) -> str:
    """The `precision` of a matrix product of these operands, for JAX's functions: "highest" if they are float32.

    JAX's own default rounds float32 operands to tf32 on GPU and to bfloat16 on TPU. Within
    `jax.default_matmul_precision`, float32 products have the precision it names. Other dtypes always have "default".
    See docs/numerics.md, "Precision of matrix products".
    """
    if jnp.result_type(*operands) != jnp.float32:
        return "default"
    return jax.config.jax_default_matmul_precision or "highest"  # type: ignore[attr-defined]


def einsum(
    equation: str, *operands: Float[Array, "..."], preferred_element_type: DTypeLike | None = None
) -> Float[Array, "..."]:
    """`jnp.einsum` with the precision of `product_precision`."""
    precision = product_precision(*operands)
    return jnp.einsum(equation, *operands, precision=precision, preferred_element_type=preferred_element_type)
