"""The parameterized maps that every module is made of: linear maps, embeddings and layer normalization."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.ops.precision import product_precision, upcast
from deberta_jax.sharding import constrain, current_mesh, partition_spec


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
        # Parameters that are sharded over devices of the same batch are gathered, not the states.
        self.inputs, self.gathered = inputs, tuple(None if axis == "embed" else axis for axis in axes)
        self.kernel = nnx.Param(stddev * jax.random.normal(key, shape), axes=axes)
        self.bias = nnx.Param(jnp.zeros(shape[inputs:]), axes=axes[inputs:]) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # One axis of rows: with several, XLA on CPU forms the kernel's gradient transposed, at half the speed.
        batch, inputs = x.shape[: x.ndim - self.inputs], x.shape[x.ndim - self.inputs :]
        kernel = constrain(self.kernel[...].astype(x.dtype), *self.gathered)
        y = jnp.tensordot(x.reshape(-1, *inputs), kernel, self.inputs, precision=product_precision(x))
        y = y.reshape(*batch, *y.shape[1:])
        return y if self.bias is None else y + over_rows(self.bias[...].astype(x.dtype), y)


class Embedding(nnx.Module):
    """A table of rows that are looked up by index; initialized from a normal distribution with `stddev`."""

    def __init__(self, rows: int, width: int, axes: tuple[str | None, str], *, stddev: float, key: PRNGKeyArray):
        self.axes = axes
        self.embedding = nnx.Param(stddev * jax.random.normal(key, (rows, width)), axes=axes)

    def __call__(self, index: Int[Array, "*shape"]) -> Float[Array, "*shape E"]:
        table, mesh = self.embedding[...], current_mesh()
        rows = width = batch = None
        if mesh is not None and index.ndim == 2:
            spec = partition_spec(self.axes, table.shape, mesh)
            rows, width = (axis if axis and mesh.shape[axis] > 1 else None for axis in spec)
            batch = partition_spec(("batch", None), index.shape, mesh)
        # Devices that share the columns must have different sequences.
        is_split = rows is not None or width is not None
        if batch is None or not is_split or (width is not None and width not in (batch[0] or ())):
            # A row that does not exist is NaN; -1 is not the last row.
            return table.at[index].get(mode="fill", wrap_negative_indices=False)
        exists = (index >= 0) & (index < table.shape[0])
        specs = jax.P(rows, width), batch
        look_up = jax.shard_map(
            partial(_look_up, rows=rows, width=width), in_specs=specs, out_specs=jax.P(*batch, None)
        )
        return jnp.where(exists[..., None], look_up(table, index), jnp.nan)


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


def _look_up(
    table: Float[Array, "_ _"], index: Int[Array, "_ _"], *, rows: str | None, width: str | None
) -> Float[Array, "_ _ _"]:
    """Rows of a table on each device, which has the part `rows` of the rows and the part `width` of the columns.

    Devices that share the columns send each other what they look up for the sequences of all: states of a few
    sequences, where XLA would gather those of all sequences.
    """
    if width is not None:
        index = jax.lax.all_gather(index, width, tiled=True)
    first = 0 if rows is None else jax.lax.axis_index(rows) * table.shape[0]
    x = table.at[index - first].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    if width is not None:
        x = jax.lax.all_to_all(x, width, split_axis=0, concat_axis=2, tiled=True)
    return x if rows is None else jax.lax.psum(x, rows)


def over_rows(parameter: Float[Array, "*features"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A parameter of the trailing axes of x with the rank of x: users may forbid implicit rank promotion."""
    return jnp.expand_dims(parameter, tuple(range(x.ndim - parameter.ndim)))


def normalize(x: Float[Array, "*batch D"], epsilon: float) -> Float[Array, "*batch D"]:
    """Mean 0 and variance 1 over the last axis, in float32 or wider."""
    x = upcast(x)
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon)
