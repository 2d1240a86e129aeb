"""The parameterized maps that every module is made of: linear maps, embeddings and layer normalization."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.ops.precision import product_precision, upcast


class Linear(nnx.Module):
    """Linear map of the trailing axes of x, with bias; computes in the dtype of x.

    `shape` is the shape of the kernel, whose first `inputs` axes are contracted with x. `axes` are its logical axes for
    sharding. The kernel is initialized from a normal distribution with `stddev`, the bias with zeros.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        *,
        stddev: float,
        key: PRNGKeyArray,
        inputs: int = 1,
        bias: bool = True,
    ):
        self.inputs = inputs
        self.kernel = nnx.Param(stddev * jax.random.normal(key, shape), axes=axes)
        self.bias = nnx.Param(jnp.zeros(shape[inputs:]), axes=axes[inputs:]) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # One axis of rows: with several, XLA on CPU forms the kernel's gradient transposed, at half the speed.
        batch, inputs = x.shape[: x.ndim - self.inputs], x.shape[x.ndim - self.inputs :]
        kernel, precision = self.kernel[...].astype(x.dtype), product_precision(x)
        y = jnp.tensordot(x.reshape(-1, *inputs), kernel, self.inputs, precision=precision)
        y = y.reshape(*batch, *y.shape[1:])
        return y if self.bias is None else y + over_rows(self.bias[...].astype(x.dtype), y)


class Embedding(nnx.Module):
    """A table of rows that are looked up by index; initialized from a normal distribution with `stddev`."""

    def __init__(self, rows: int, width: int, axes: tuple[str | None, str], *, stddev: float, key: PRNGKeyArray):
        self.embedding = nnx.Param(stddev * jax.random.normal(key, (rows, width)), axes=axes)

    def __call__(self, index: Int[Array, "*shape"]) -> Float[Array, "*shape E"]:
        # A row that does not exist is NaN; -1 is not the last row.
        return self.embedding[...].at[index].get(mode="fill", wrap_negative_indices=False)


class LayerNorm(nnx.Module):
    """Normalize the last axis in float32 or wider, then scale and shift; the result has the dtype of x."""

    def __init__(self, size: int, *, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(size), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(size), axes=("embed",))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        normalized = normalize(x, self.epsilon)
        scale, bias = (over_rows(p[...].astype(normalized.dtype), normalized) for p in (self.scale, self.bias))
        return (normalized * scale + bias).astype(x.dtype)


def over_rows(parameter: Float[Array, "*features"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A parameter of the trailing axes of x with the rank of x: users may forbid implicit rank promotion."""
    return jnp.expand_dims(parameter, tuple(range(x.ndim - parameter.ndim)))


def normalize(x: Float[Array, "*batch D"], epsilon: float) -> Float[Array, "*batch D"]:
    """Mean 0 and variance 1 over the last axis, in float32 or wider."""
    x = upcast(x)
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon)
