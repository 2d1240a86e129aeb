"""Scores of tokens with distances instead of keys: matrix products whose memory grows linearly with the length.

A kernel reads the score of query i and key j in row i, at the distance i - j. Keys are treated the same way with the
roles exchanged, so both sides share one layout. "Own" are the tokens that have rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Rows begin at multiples of so many scores.
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True)
class DistanceLayout:
    """Where the score of a pair of tokens is stored.

    Short sequences store all distances: the `block` tokens of a tile share a window of `tokens` + `block` distances.
    Long sequences store the distances from `limit` down to -`limit` in one block of all tokens; tiles that do not touch
    the band are far, and two more columns stand for all distances beyond, before and after the own token.
    """

    tokens: int
    tile: int
    band: int
    has_windows: bool

    @property
    def block(self) -> int:
        """The number of own tokens that share a window."""
        return self.tile if self.has_windows else self.tokens

    @property
    def blocks(self) -> int:
        return self.tokens // self.block

    @property
    def limit(self) -> int:
        """The largest distance in a tile that touches the band."""
        return (self.band + self.tile - 2) // self.tile * self.tile + self.tile - 1

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.tokens + self.block if self.has_windows else -(-(2 * self.limit + 3) // _ALIGNMENT) * _ALIGNMENT

    def far_column(self, is_after: bool) -> int:
        """The column of all distances to tokens far before or far after the own one."""
        return 2 * self.limit + 1 + is_after

    def position(self, start: Any, own: Any, other: Any) -> tuple[Any, Any, Any]:
        """The block of a tile of own tokens that begins at `start`, and for each pair its offset there and its column.

        Columns go from the largest to the smallest distance own - other.
        """
        block = start // self.block
        first = block * self.block
        column = (first + self.block - 1 if self.has_windows else self.limit) - own + other
        return block, (own - first) * self.width + column, column

    def near_tiles(self, start: Any) -> tuple[Any, Any]:
        """The first and one past the last tile that touches the band; the range can go beyond the sequence."""
        if self.has_windows:
            return 0, self.tokens // self.tile
        reach = (self.limit + 1) // self.tile - 1
        return start // self.tile - reach, start // self.tile + reach + 1

    def stored_tiles(self, start: Any) -> tuple[Any, Any]:
        """As `near_tiles`, for the tiles with a distance that has a column of its own: one more on each side."""
        first, last = self.near_tiles(start)
        return first - 1, last + 1

    def is_stored(self, column: Any) -> Any:
        """Whether it is the column of one distance."""
        return (column >= 0) & (column < (self.width if self.has_windows else 2 * self.limit + 1))


def distance_layout(tokens: int, tile: int, band: int, reach: int) -> DistanceLayout:
    """The layout that stores fewer columns, for `tokens` a multiple of `tile`; `band`, `reach` as `KernelSettings`."""
    windows, banded = (DistanceLayout(tokens, tile, max(band, 1), has_windows) for has_windows in (True, False))
    # Windows have distances of up to the number of tokens, columns of up to the limit.
    return windows if reach == tokens and (windows.width <= banded.width or banded.limit >= reach) else banded


def distance_scores(
    layout: DistanceLayout,
    x: Float[Array, "B T N H"],
    table: Float[Array, "N D H"],
    precision: jax.lax.Precision,
) -> Float[Array, "N A B M W"]:
    """Scores of each token with each column of the layout, in A blocks of M tokens, in the dtype of `x`.

    `table` has a row for each of 2 reach distances, from reach - 1 down to -reach.
    """
    B, _, N, H = x.shape
    x = x.reshape(B, layout.blocks, layout.block, N, H)
    return jnp.einsum(
        "BAMNH,NAWH->NABMW", x, _column_rows(layout, table), precision=precision, preferred_element_type=x.dtype
    )


def _column_rows(layout: DistanceLayout, table: Float[Array, "N D H"]) -> Float[Array, "N A W H"]:
    """The rows of the table for the columns of each block; their gradients are added in float32."""
    reach, upcast = table.shape[1] // 2, table.astype(jnp.float32)
    if layout.has_windows:
        starts = [reach - (a + 1) * layout.block for a in range(layout.blocks)]
        rows = jnp.stack([upcast[:, start : start + layout.width] for start in starts], axis=1)
    else:
        # The rows of the largest distances on both sides, and rows that fill up.
        near = upcast[:, reach - 1 - layout.limit : reach + layout.limit]
        rows = jnp.concatenate([near, near[:, :1], near[:, -1:]], axis=1)
        rows = jnp.pad(rows, ((0, 0), (0, layout.width - rows.shape[1]), (0, 0)))[:, None]
    return rows.astype(table.dtype)


def far_scores(layout: DistanceLayout, scores: Float[Array, "N A B M W"]) -> Float[Array, "N 2 B T"] | None:
    """The scores with tokens far before and far after; None if the layout has windows."""
    if layout.has_windows:
        return None
    return jnp.stack([scores[:, 0, :, :, layout.far_column(is_after)] for is_after in (False, True)], axis=1)
