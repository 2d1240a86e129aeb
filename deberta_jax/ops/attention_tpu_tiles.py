"""What the forward and the backward kernel on TPU share: layout, visible tiles, and the scores of a pair of tiles.

Scores are computed with keys as rows and queries as lanes. The maximum and the sum of a query's scores are then sums of
whole registers, and all that belongs to a query is one row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.fused import KernelInputs, KernelSettings, tile_keep_mask
from deberta_jax.ops.relative_shift import relative_shift

# Lanes of a register: keys are processed in chunks of this many, and rows of so many scores are rotated at once.
LANES = 128
# The score of a hidden pair: finite, so that no row has inf - inf.
HIDDEN = float(np.finfo(np.float32).min)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings, and the layout: each block has `heads` heads of `width`, side by side in the lanes."""

    settings: KernelSettings
    heads: int
    width: int

    @property
    def channels(self) -> int:
        """The lanes of a block of queries, keys or values."""
        return self.heads * self.width

    def has_far_tiles(self, tokens: int) -> bool:
        """Whether some pair of tiles is wholly beyond the band, in a sequence of this length."""
        return tokens - sum(self.settings.tiles) + 1 >= self.settings.band


class Tile(NamedTuple):
    """One step of the grid: a tile of queries and a tile of keys of one sequence and one block of heads."""

    plan: Plan
    inputs: KernelInputs
    block: Any
    sequence: Any
    query: Any
    key: Any

    @property
    def distance(self) -> Any:
        """The distance of the first query from the first key."""
        queries, keys = self.plan.settings.tiles
        return self.query * queries - self.key * keys

    def window(self, queries: Any, keys: Any, width: int) -> Any:
        """Distances of a table whose largest comes first, from 127 to the right of query `queries` and key `keys`."""
        start = self.plan.settings.reach - (self.distance + queries - keys) - LANES
        return pl.ds(pl.multiple_of(start, LANES), width)

    def window_of_keys(self, keys: Any, width: int) -> Any:
        """The same for a table whose smallest distance comes first, from 127 to the left."""
        start = self.plan.settings.reach + self.distance - keys - LANES
        return pl.ds(pl.multiple_of(start, LANES), width)


def visible_keys(settings: KernelSettings, inputs: KernelInputs) -> tuple[Int[Array, "B Q"], Int[Array, "B Q"]]:
    """The first and the last tile of keys that each tile of queries attends to; the last is -1 if there is none.

    Tiles between them may still be hidden: they are computed.
    """
    queries, keys = settings.tiles
    B, T = inputs.q.shape[:2]
    rows, columns = np.arange(T // queries), np.arange(T // keys)
    visible = jnp.ones((B, T // queries, T // keys), bool)
    if inputs.segment_ids is not None:
        low_query, high_query = _segment_range(inputs.segment_ids, queries)
        low_key, high_key = _segment_range(inputs.segment_ids, keys)
        visible &= (low_query[:, :, None] <= high_key[:, None]) & (low_key[:, None] <= high_query[:, :, None])
    if settings.is_causal:
        visible &= (columns * keys)[None] < ((rows + 1) * queries)[:, None]
    if inputs.mask is not None:
        pairs = inputs.mask.reshape(*inputs.mask.shape[:2], T // keys, keys, T // queries, queries)
        visible &= (pairs != 0).any((1, 3, 5)).swapaxes(1, 2)
    first = jnp.argmax(visible, axis=-1)
    last = T // keys - 1 - jnp.argmax(visible[..., ::-1], axis=-1)
    return first.astype(jnp.int32), jnp.where(visible.any(-1), last, -1).astype(jnp.int32)


def _segment_range(segment_ids: Int[Array, "B 1 T"], tile: int) -> tuple[Int[Array, "B I"], Int[Array, "B I"]]:
    """The smallest and the largest segment in each tile, in an order that is never met if there is none."""
    tiles = segment_ids.reshape(segment_ids.shape[0], -1, tile)
    return jnp.where(tiles < 0, np.iinfo(np.int32).max, tiles).min(-1), tiles.max(-1)


def for_visible(tile: Tile, first: Any, last: Any, tokens: int, attend: Callable[[bool], None]) -> None:
    """Run `attend(near)` for this pair of tiles unless it is hidden.

    `near` is whether some of the distances are within the band.
    """
    settings = tile.plan.settings
    visible = (first[tile.sequence, tile.query] <= tile.key) & (tile.key <= last[tile.sequence, tile.query])
    has_tables = tile.inputs.rel_k is not None or tile.inputs.rel_q is not None
    if not has_tables or not tile.plan.has_far_tiles(tokens):
        pl.when(visible)(lambda: attend(True))
        return
    queries, keys = settings.tiles
    near = (tile.distance - keys + 1 < settings.band) & (tile.distance + queries - 1 > -settings.band)
    pl.when(visible & near)(lambda: attend(True))
    pl.when(visible & ~near)(lambda: attend(False))


def score_chunks(
    tile: Tile, head: Any, near: bool, q_transposed: Any, c2p: Any
) -> Callable[[Any], Float[Array, "S T"]]:
    """A function from the number of a chunk of keys to its scores, scaled, and `HIDDEN` for hidden pairs.

    `q_transposed` holds the tile of queries with tokens as lanes; `c2p` is scratch memory for a score per pair.
    """
    inputs, plan = tile.inputs, tile.plan
    settings = plan.settings
    queries = settings.tiles[0]
    lanes = head_lanes(plan, head, inputs.q.dtype)
    q = inputs.q[0] * lanes
    to_key = None
    if inputs.rel_k is not None:
        if near:
            _store_c2p(tile, lanes, c2p)
        else:
            rows = head_rows(plan, head)
            to_key = jnp.sum(
                upcast(q_transposed[rows]) * upcast(far_column(tile, inputs.rel_k, rows)), 0, keepdims=True
            )

    def chunk(c: Any) -> Float[Array, "S T"]:
        keys = chunk_of(c)
        k = inputs.k[0, keys]
        total = product(settings, k, q, transposed=True)
        if inputs.rel_k is not None:
            total += c2p[keys] if near else to_key
        if inputs.rel_q is not None:
            k = k * lanes
            if near:
                window = tile.window_of_keys(c * LANES, queries + LANES)
                total += by_key(settings, product(settings, k, inputs.rel_q[:, window]))
            else:
                # All distances of these columns read the same row of the table.
                far = product(settings, k, inputs.rel_q[:, far_columns(tile, smallest_first=True)])
                total += jnp.tile(far, (1, queries // LANES))
        visible = _visible_pairs(tile, head, c)
        total *= settings.scale
        return total if visible is None else jnp.where(visible, total, HIDDEN)

    return chunk


def _store_c2p(tile: Tile, lanes: Float[Array, "1 C"], c2p: Any) -> None:
    """The content-to-position scores of a pair of tiles, one block of queries after the other."""
    settings = tile.plan.settings
    queries, keys = settings.tiles

    def store_block(number: Any, _: None) -> None:
        rows, window = chunk_of(number), tile.window(number * LANES, 0, keys + LANES)
        q = tile.inputs.q[0, rows] * lanes
        c2p[:, rows] = by_key(settings, product(settings, q, tile.inputs.rel_k[:, window])).T

    jax.lax.fori_loop(0, queries // LANES, store_block, None)


def far_column(tile: Tile, table: Any, rows: Any) -> Float[Array, "H 1"]:
    """The row of rel_k that all distances of a far pair of tiles read, as a column."""
    return table[rows, far_columns(tile, smallest_first=False)][:, :1]


def far_columns(tile: Tile, *, smallest_first: bool) -> Any:
    """128 columns of a table that are all equal to what the distances of a far pair of tiles read."""
    end = 2 * tile.plan.settings.reach - LANES
    is_left = tile.distance < 0
    return pl.ds(pl.multiple_of(jnp.where(is_left != smallest_first, end, 0), LANES), LANES)


def _visible_pairs(tile: Tile, head: Any, c: Any) -> Bool[Array, "S T"] | None:
    """Which scores of a chunk are visible; None if all are."""
    inputs, settings, keys = tile.inputs, tile.plan.settings, chunk_of(c)
    queries = settings.tiles[0]
    visible = None
    if inputs.segment_ids is not None:
        of_queries, of_keys = inputs.segment_ids
        key_segment = jnp.broadcast_to(of_keys[0, :, keys], (LANES, LANES)).T
        visible = (jnp.tile(key_segment, (1, queries // LANES)) == of_queries[0]) & (of_queries[0] >= 0)
    if inputs.mask is not None:
        pairs = inputs.mask[0, head if inputs.mask.shape[1] > 1 else 0, keys].astype(jnp.int32) != 0
        visible = pairs if visible is None else visible & pairs
    if settings.is_causal:
        key, query = (jax.lax.broadcasted_iota(jnp.int32, (LANES, queries), axis) for axis in (0, 1))
        causal = key + c * LANES <= query + tile.distance
        visible = causal if visible is None else visible & causal
    return visible


def keep_chunk(tile: Tile, head: Any, c: Any) -> Bool[Array, "S T"] | None:
    """Which probabilities of a chunk of keys dropout keeps; None without dropout."""
    plan = tile.plan
    queries, keys = plan.settings.tiles
    return tile_keep_mask(
        plan.settings,
        tile.inputs,
        sequence=tile.sequence,
        head=tile.block * plan.heads + head,
        start=(tile.query * queries, tile.key * keys + c * LANES),
        shape=(queries, LANES),
        transposed=True,
    )


def chunk_of(c: Any) -> Any:
    """The keys of chunk `c` of a tile."""
    return pl.ds(pl.multiple_of(c * LANES, LANES), LANES)


def head_rows(plan: Plan, head: Any) -> Any:
    """The rows of a head in a transposed block, and in a table."""
    return pl.ds(pl.multiple_of(head * plan.width, plan.width), plan.width)


def head_lanes(plan: Plan, head: Any, dtype: Any) -> Float[Array, "1 C"]:
    """1 in the lanes of a head, 0 in those of the other heads of a block."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, plan.channels), 1)
    inside = (lane >= head * plan.width) & (lane < (head + 1) * plan.width)
    return jnp.where(inside, 1.0, 0.0).astype(dtype)


def upcast(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x.astype(jnp.float32)


def by_key(settings: KernelSettings, by_distance: Float[Array, "I W"]) -> Float[Array, "I S"]:
    """out[i, s] = by_distance[i, I - 1 - i + s] with I rows, W = S + I."""
    T, W = by_distance.shape
    if settings.interpret:
        # The rotation below as an array of XLA is 128 slices.
        return relative_shift(by_distance)[:, : W - T]
    return pltpu.roll(by_distance, W - T + 1, 1, stride=1, stride_axis=0)[:, : W - T]


def by_distance(settings: KernelSettings, reversed_by_key: Float[Array, "I S"]) -> Float[Array, "I W"]:
    """out[i, w] = reversed_by_key[i, w - i], 0 outside.

    This is the transpose of `by_key` if either the rows or the lanes of the argument are in reverse order: the
    rotation can only grow with the row.
    """
    T, S = reversed_by_key.shape
    if settings.interpret:
        wide = jnp.pad(reversed_by_key, ((0, 0), (0, T + 1)))
        return wide.reshape(-1)[: T * (S + T)].reshape(T, S + T)
    wide = jnp.concatenate([reversed_by_key, jnp.zeros((T, T), jnp.float32)], axis=1)
    return pltpu.roll(wide, 0, 1, stride=1, stride_axis=0)


def reversal(dtype: Any) -> Float[Array, "128 128"]:
    """The permutation that reverses 128 entries: a product with it is exact."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    return jnp.where(row + column == LANES - 1, 1.0, 0.0).astype(dtype)


def product(
    settings: KernelSettings, x: Float[Array, "I J"], y: Float[Array, "..."], *, transposed: bool = False
) -> Float[Array, "I K"]:
    """x y, or x with y transposed, in float32."""
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else settings.precision
    return jax.lax.dot_general(x, y, dimensions, precision=precision, preferred_element_type=jnp.float32)
