"""The dtype of sums and normalizations, and the precision of matrix products."""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, DTypeLike, Float

# The names of `jax.default_matmul_precision` by the precision of a kernel; all others have the default.
_KERNEL_PRECISIONS = {
    jax.lax.Precision.HIGHEST: (
        *("highest", "float32", "F32_F32_F32", "F64_F64_F64"),
        *("BF16_BF16_F32_X6", "BF16_BF16_F32_X9", "TF32_TF32_F32_X3"),
    ),
    jax.lax.Precision.HIGH: ("high", "tensorfloat32", "bfloat16_3x", "TF32_TF32_F32", "BF16_BF16_F32_X3"),
}


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


def kernel_precision(*operands: Float[Array, "..."]) -> jax.lax.Precision:
    """The precision of products in a fused kernel, which has three: `product_precision`, or the next more exact one."""
    name = product_precision(*operands)
    return next((level for level, names in _KERNEL_PRECISIONS.items() if name in names), jax.lax.Precision.DEFAULT)


def einsum(
    equation: str, *operands: Float[Array, "..."], preferred_element_type: DTypeLike | None = None
) -> Float[Array, "..."]:
    """`jnp.einsum` with the precision of `product_precision`.

    If the result is wider than the operands, as scores are in a bfloat16 model, the products of the backward pass are
    still in the dtype of the operands: `jnp.einsum` would convert them to float32, which is twice the memory traffic.
    """
    precision = product_precision(*operands)
    if preferred_element_type is None or jnp.dtype(preferred_element_type) == jnp.result_type(*operands):
        return jnp.einsum(equation, *operands, precision=precision)
    return _widening_einsum(equation, precision, jnp.dtype(preferred_element_type), *operands)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _widening_einsum(equation: str, precision: str, dtype: jnp.dtype, *operands: Array) -> Array:
    return jnp.einsum(equation, *operands, precision=precision, preferred_element_type=dtype)


def _widening_einsum_jvp(
    equation: str, precision: str, dtype: jnp.dtype, primals: tuple[Array, ...], tangents: tuple
) -> tuple[Array, Array]:
    terms = [
        jnp.einsum(equation, *primals[:number], tangent, *primals[number + 1 :], precision=precision).astype(dtype)
        for number, tangent in enumerate(tangents)
        if not isinstance(tangent, SymbolicZero)
    ]
    return _widening_einsum(equation, precision, dtype, *primals), functools.reduce(jnp.add, terms)


_widening_einsum.defjvp(_widening_einsum_jvp, symbolic_zeros=True)


def position_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of position scores before the sum: bfloat16 for bfloat16, which halves their memory traffic."""
    return jnp.dtype(dtype) if dtype == jnp.bfloat16 else accumulation_dtype(dtype)
