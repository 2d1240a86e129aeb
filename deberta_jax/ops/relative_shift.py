"""From scores by distance to scores by key, and back: slices and reshapes, no gather over [T, S]."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.ops.precision import upcast


def table_by_distance(table: Float[Array, "N R H"], index: Int[np.ndarray | Array, "*W"]) -> Float[Array, "N *W H"]:
    """The row of a relative table for each distance, heads first; its gradient is summed in float32 or wider.

    Hundreds of distances share a far bucket, and a sum of so many bfloat16 terms stops growing.
    """
    return upcast(table)[:, jnp.asarray(index)].astype(table.dtype)


@jax.custom_jvp
def relative_shift(scores: Float[Array, "*batch T W"]) -> Float[Array, "*batch T S"]:
    """Scores by distance to scores by key: out[t, s] = scores[t, T - 1 - t + s] with S = W - T + 1.

    Read with rows that are one entry shorter, each row of the flat array starts one entry earlier than the one before.
    """
    *batch, T, W = scores.shape
    if T == 1:
        return scores
    flat = scores.reshape(*batch, T * W)[..., T - 1 : T * W - 1]
    return flat.reshape(*batch, T, W - 1)[..., : W - T + 1]


@relative_shift.defjvp
def _relative_shift_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The tangent is the transpose of `_relative_unshift`, so the backward pass runs `_relative_unshift` itself.
    shifted = relative_shift(*primals)
    (tangent,) = jax.linear_transpose(_relative_unshift, jax.typeof(shifted))(*tangents)
    return shifted, tangent


def _relative_unshift(gradient: Float[Array, "*batch T S"]) -> Float[Array, "*batch T W"]:
    """The transpose of `relative_shift`: one contiguous read of W entries per row.

    On CPU this is four times as fast as pads and reshapes.
    """
    *batch, T, S = gradient.shape
    lead = len(batch)
    padded = jnp.pad(gradient, [(0, 0)] * (lead + 1) + [(T - 1, T - 1)])
    rows = jax.lax.GatherDimensionNumbers(
        offset_dims=(*range(lead), lead + 1), collapsed_slice_dims=(lead,), start_index_map=(lead, lead + 1)
    )
    starts = np.stack([np.arange(T)] * 2, axis=1)
    sizes = (*batch, 1, S + T - 1)
    return jax.lax.gather(padded, starts, rows, sizes, indices_are_sorted=True, unique_indices=True, mode="clip")
