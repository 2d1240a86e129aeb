"""Which tiles of queries and keys have a visible pair, so that kernels compute no tile that is wholly masked."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from deberta_jax.ops.fused import KernelInputs, KernelSettings

# More than any segment.
_MAX = np.iinfo(np.int32).max


def visible_tiles(settings: KernelSettings, inputs: KernelInputs, tiles: tuple[int, int]) -> Bool[Array, "#B #N I J"]:
    """False for a tile of `tiles` queries and keys without a visible pair; True for a few others without one too."""
    tokens, (rows, columns) = inputs.q.shape[1], tiles
    visible = jnp.ones((1, 1, tokens // rows, tokens // columns), bool)
    if inputs.segment_ids is not None:
        (row_first, row_last), (column_first, column_last) = (_segments(inputs.segment_ids, size) for size in tiles)
        overlaps = jnp.maximum(row_first[:, :, None], column_first[:, None]) <= jnp.minimum(
            row_last[:, :, None], column_last[:, None]
        )
        visible = visible & overlaps[:, None]
    if inputs.order is not None:
        row_last, column_first = (
            extreme(inputs.order.reshape(-1, tokens // size, size), 2)
            for extreme, size in zip((jnp.max, jnp.min), tiles, strict=True)
        )
        visible = visible & (row_last[:, :, None] >= column_first[:, None])[:, None]
    if inputs.mask is not None:
        sequences, heads = inputs.mask.shape[:2]
        pairs = inputs.mask.reshape(sequences, heads, tokens // rows, rows, tokens // columns, columns)
        visible = visible & (pairs != 0).any((3, 5))
    if settings.is_causal:
        last_query = (np.arange(tokens // rows) + 1) * rows - 1
        visible = visible & (last_query[:, None] >= np.arange(tokens // columns) * columns)
    return visible


def _segments(segment_ids: Int[Array, "B T"], size: int) -> tuple[Int[Array, "B I"], Int[Array, "B I"]]:
    """The smallest and the largest segment in each tile of tokens; of a tile without one, a range that is empty."""
    segments = segment_ids.reshape(segment_ids.shape[0], -1, size)
    return jnp.where(segments < 0, _MAX, segments).min(2), segments.max(2)


def tile_ranges(visible: Bool[Array, "#B #N I J"]) -> Int[Array, "#B #N I 2"]:
    """The first visible tile of each row, and one past the last; both 0 for a row without one."""
    number = jnp.arange(1, visible.shape[-1] + 1, dtype=jnp.int32)
    last = jnp.where(visible, number, 0).max(-1)
    first = jnp.where(visible, number - 1, visible.shape[-1]).min(-1)
    return jnp.stack([jnp.minimum(first, last), last], axis=-1)
