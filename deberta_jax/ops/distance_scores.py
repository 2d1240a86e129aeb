"""Scores of tokens with distances instead of keys: matrix products whose memory grows linearly with the length.

A kernel reads the score of query i and key j at row i, in the column of the distance i - j. Keys are treated the same
way with the roles exchanged, so both sides share one layout. "Own" is the token whose rows these are.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Rows of scores by distance begin at multiples of so many entries.
ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class DistanceLayout:
    """Where the score of a pair of tokens is stored.

    Short sequences store every distance: blocks of `block` rows share a window of `tokens` + `block` distances, and no
    tile is far. Long sequences store distances from `band` down to -`band`, in one block of all rows, and the first and
    the last of these columns stand for all distances beyond.
    """

    tokens: int
    block: int
    band: int
    has_windows: bool

    @property
    def blocks(self) -> int:
        return self.tokens // self.block

    @property
    def width(self) -> int:
        """The number of columns."""
        if self.has_windows:
            return self.tokens + self.block
        return -(-(2 * self.band + 1) // ALIGNMENT) * ALIGNMENT

    def column(self, own: Any, other: Any) -> Any:
        """The column of a pair, largest distance own - other first; outside [0, `width`) for a token `other` outside."""
        if self.has_windows:
            return other + (self.block - 1 - (own & (self.block - 1)))
        return jnp.minimum(jnp.maximum(self.band - own + other, 0), 2 * self.band)

    def entry(self, own: Any, other: Any) -> tuple[Any, Any, Any]:
        """The block, the row within it and the column of a pair."""
        block, row = (own // self.block, own & (self.block - 1)) if self.has_windows else (jnp.zeros_like(own), own)
        return tuple(jnp.broadcast_arrays(block, row, self.column(own, other)))

    def tile_range(self, start: Any, own_tile: int, other_tile: int) -> tuple[Any, Any]:
        """The first and one past the last tile of other tokens within the columns of the tile of own tokens at `start`.

        Counted from `start` of the sequence; the range goes beyond the sequence where columns do.
        """
        if self.has_windows:
            beyond = -(-self.block // other_tile)
            return -beyond, self.tokens // other_tile + beyond
        # Shifted by whole tiles: division rounds towards zero.
        shift = -(-self.band // other_tile) + 1
        first = (start - self.band + 1 + shift * other_tile) // other_tile - shift
        return first, (start + own_tile - 2 + self.band) // other_tile + 1


def distance_layout(tokens: int, block: int, band: int, reach: int) -> DistanceLayout:
    """The layout that stores fewer columns, for `tokens` a multiple of `block`; `band`, `reach` as `KernelSettings`."""
    band = min(max(band, 1), tokens - 1)
    windows = DistanceLayout(tokens, block, band, has_windows=True)
    banded = DistanceLayout(tokens, tokens, band, has_windows=False)
    # Windows contain distances up to the number of tokens.
    return windows if reach == tokens and windows.width <= banded.width else banded


def distance_scores(
    layout: DistanceLayout,
    x: Float[Array, "B T N H"],
    table: Float[Array, "N D H"],
    precision: jax.lax.Precision | None,
) -> Float[Array, "N A B M W"]:
    """Scores of each token with each column of the layout, in A blocks of M rows, in the dtype of `x`.

    `table` has a row for each of 2 reach distances, from reach - 1 down to -reach.
    """
    B, _, N, H = x.shape
    x = x.reshape(B, layout.blocks, layout.block, N, H)
    return jnp.einsum(
        "BAMNH,NAWH->NABMW", x, _window_rows(layout, table), precision=precision, preferred_element_type=x.dtype
    )


def _window_rows(layout: DistanceLayout, table: Float[Array, "N D H"]) -> Float[Array, "N A W H"]:
    """The rows of the table for the columns of each block; their gradients are added in float32."""
    reach, upcast = table.shape[1] // 2, table.astype(jnp.float32)
    if not layout.has_windows:
        first, width = reach - 1 - layout.band, 2 * layout.band + 1
        rows = upcast[:, None, first : first + width]
        rows = jnp.pad(rows, ((0, 0), (0, 0), (0, layout.width - width), (0, 0)))
    else:
        starts = [reach - (a + 1) * layout.block for a in range(layout.blocks)]
        rows = jnp.stack([upcast[:, start : start + layout.width] for start in starts], axis=1)
    return rows.astype(table.dtype)


def far_scores(layout: DistanceLayout, scores: Float[Array, "N A B M W"]) -> Float[Array, "N 2 B T"] | None:
    """The scores with distances of at least the band, and of at most -band; None if the layout has windows."""
    if layout.has_windows:
        return None
    return jnp.stack([scores[:, 0, :, :, 0], scores[:, 0, :, :, 2 * layout.band]], axis=1)
