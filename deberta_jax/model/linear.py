"""The two parameterised maps that everything is made of: affine projection and layer normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.ops.precision import accumulation_dtype


class Linear(nnx.Module):
    """Affine map of the trailing axes of x; computes in the dtype of x.

    `shape` is that of the kernel, its first `inputs` axes are contracted; `axes` names its logical axes for sharding.
    Kernel normal with `stddev`, bias zero (spec 2.7).
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
        # One axis of rows: with several, XLA forms the kernel's gradient transposed on CPU, at half the speed.
        batch, inputs = x.shape[: x.ndim - self.inputs], x.shape[x.ndim - self.inputs :]
        y = jnp.tensordot(x.reshape(-1, *inputs), self.kernel[...].astype(x.dtype), self.inputs)
        y = y.reshape(*batch, *y.shape[1:])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalise over the last axis in float32 or wider, then scale and shift; the result has the dtype of x."""

    def __init__(self, size: int, *, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(size), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(size), axes=("embed",))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x_wide = x.astype(accumulation_dtype(x.dtype))
        centred = x_wide - x_wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        scale, bias = (parameter[...].astype(x_wide.dtype) for parameter in (self.scale, self.bias))
        return (normed * scale + bias).astype(x.dtype)
