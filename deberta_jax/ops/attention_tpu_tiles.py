"""What the forward and the backward kernel on TPU share: layout, visible tiles, and the scores of a pair of tiles.

Scores are computed with keys as rows and queries as lanes. The maximum and the sum of a query's scores are then sums of
whole registers, and all that belongs to a query is one row.
"""

import functools
import math
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


class Tile(NamedTuple):
    """One step of the grid: a tile of queries and a tile of keys of one head and one sequence."""

    settings: KernelSettings
    inputs: KernelInputs
    head: Any
    sequence: Any
    query: Any
    key: Any

    @property
    def distance(self) -> Any:
        """The distance of the first query from the first key."""
        queries, keys = self.settings.tiles
        return self.query * queries - self.key * keys

    def window(self, queries: Any, keys: Any, width: int) -> Any:
        """Distances of a table whose largest comes first, from 127 to the right of query `queries` and key `keys`."""
        start = self.settings.reach - (self.distance + queries - keys) - LANES
        return pl.ds(pl.multiple_of(start, LANES), width)

    def window_of_keys(self, keys: Any, width: int) -> Any:
        """The same for a table whose smallest distance comes first, from 127 to the left."""
        start = self.settings.reach + self.distance - keys - LANES
        return pl.ds(pl.multiple_of(start, LANES), width)


def for_visible(tile: Tile, first: Any, last: Any, attend: Callable[[bool], None]) -> None:
    """Run `attend(near)` for this pair of tiles unless it is hidden.

    `first` and `last` are the tiles of keys that each tile of queries attends to, `near` is whether some of the
    distances are within the band.
    """
    settings = tile.settings
    visible = (first[tile.sequence, tile.query] <= tile.key) & (tile.key <= last[tile.sequence, tile.query])
    has_tables = tile.inputs.rel_k is not None or tile.inputs.rel_q is not None
    queries, keys = settings.tiles
    # The largest distance between two tiles of the padded sequence.
    farthest = settings.shape[-1] + -settings.shape[-1] % math.lcm(queries, keys) - queries - keys + 1
    if not has_tables or farthest < settings.band:
        pl.when(visible)(lambda: attend(True))
        return
    near = (tile.distance - keys + 1 < settings.band) & (tile.distance + queries - 1 > -settings.band)
    pl.when(visible & near)(lambda: attend(True))
    pl.when(visible & ~near)(lambda: attend(False))


def score_chunks(
    tile: Tile, near: bool, query_rows: Any, key_rows: Any, c2p: Any
) -> Callable[[Any], Float[Array, "S T"]]:
    """A function from the number of a chunk of keys to its scores, scaled, and `HIDDEN` for hidden pairs.

    `query_rows` and `key_rows` are the tiles of queries and keys, one token per row; `c2p` is scratch memory for a
    score per pair.
    """
    settings, inputs = tile.settings, tile.inputs
    queries = settings.tiles[0]
    c2p_far: Any = None
    if inputs.rel_k is not None:
        if near:
            _store_c2p(tile, query_rows, c2p)
        else:
            c2p_far = jnp.sum(upcast(inputs.q[...]) * upcast(far_column(tile, inputs.rel_k)), 0, keepdims=True)

    def chunk(c: Any) -> Float[Array, "S T"]:
        keys = chunk_of(c)
        k = key_rows[keys]
        total = product(settings, k, inputs.q[...])
        if inputs.rel_k is not None:
            total += c2p[keys] if near else c2p_far
        if inputs.rel_q is not None and near:
            window = tile.window_of_keys(c * LANES, queries + LANES)
            total += by_key(settings, product(settings, k, inputs.rel_q[:, window]))
        elif inputs.rel_q is not None:
            # All distances of these columns read the same row of the table.
            p2c_far = product(settings, k, inputs.rel_q[:, far_columns(tile, smallest_first=True)])
            total += jnp.tile(p2c_far, (1, queries // LANES))
        visible = _visible_pairs(tile, c)
        total *= settings.scale
        return total if visible is None else jnp.where(visible, total, HIDDEN)

    return chunk


def _store_c2p(tile: Tile, query_rows: Any, c2p: Any) -> None:
    """The content-to-position scores of a pair of tiles, one block of queries after the other."""
    queries, keys = tile.settings.tiles

    def store_block(number: Any, _: None) -> None:
        block, window = chunk_of(number), tile.window(number * LANES, 0, keys + LANES)
        by_distance = product(tile.settings, query_rows[block], tile.inputs.rel_k[:, window])
        c2p[:, block] = by_key(tile.settings, by_distance).T

    jax.lax.fori_loop(0, queries // LANES, store_block, None)


def far_column(tile: Tile, table: Any) -> Float[Array, "H 1"]:
    """The row of a table, largest distance first, that all distances of a far pair of tiles read, as a column."""
    return table[:, far_columns(tile, smallest_first=False)][:, :1]


def far_columns(tile: Tile, *, smallest_first: bool) -> Any:
    """128 columns of a table that are all equal to what the distances of a far pair of tiles read."""
    end = 2 * tile.settings.reach - LANES
    is_left = tile.distance < 0
    return pl.ds(pl.multiple_of(jnp.where(is_left != smallest_first, end, 0), LANES), LANES)


def _visible_pairs(tile: Tile, c: Any) -> Bool[Array, "S T"] | None:
    """Which scores of a chunk are visible; None if all are."""
    settings, inputs, keys = tile.settings, tile.inputs, chunk_of(c)
    queries = settings.tiles[0]
    visible = None
    if inputs.segment_ids is not None:
        of_queries, of_keys = _by_pair(inputs.segment_ids, keys, queries)
        visible = (of_keys == of_queries) & (of_queries >= 0)
    if inputs.order is not None:
        of_queries, of_keys = _by_pair(inputs.order, keys, queries)
        visible = of_keys <= of_queries if visible is None else visible & (of_keys <= of_queries)
    if inputs.mask is not None:
        pairs = inputs.mask[0, 0, keys].astype(jnp.int32) != 0
        visible = pairs if visible is None else visible & pairs
    if settings.is_causal:
        key, query = (jax.lax.broadcasted_iota(jnp.int32, (LANES, queries), axis) for axis in (0, 1))
        causal = key + c * LANES <= query + tile.distance
        visible = causal if visible is None else visible & causal
    return visible


def _by_pair(tokens: Any, keys: Any, queries: int) -> tuple[Int[Array, "1 T"], Int[Array, "S T"]]:
    """A number of each query, and of each key of a chunk, which broadcast to pairs."""
    of_queries, of_keys = tokens
    column = jnp.broadcast_to(of_keys[0, :, keys], (LANES, LANES)).T
    return of_queries[0], jnp.tile(column, (1, queries // LANES))


def keep_chunk(tile: Tile, c: Any) -> Bool[Array, "S T"] | None:
    """Which probabilities of a chunk of keys dropout keeps; None without dropout."""
    queries, keys = tile.settings.tiles
    start = tile.query * queries, tile.key * keys + c * LANES
    options: dict[str, Any] = {"start": start, "shape": (queries, LANES), "transposed": True}
    return tile_keep_mask(tile.settings, tile.inputs, sequence=tile.sequence, head=tile.head, **options)


def chunk_of(c: Any) -> Any:
    """The tokens of chunk `c` of a tile."""
    return pl.ds(pl.multiple_of(c * LANES, LANES), LANES)


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
    """x y, or x with y transposed, in float32, in the precision of the settings."""
    if x.dtype != jnp.float32 or settings.precision != jax.lax.Precision.HIGH:
        return _dot(x, y, transposed, settings.precision)
    # Kernels have no precision between the lowest and the highest: three products of bfloat16, as XLA computes it.
    (x, x_rest), (y, y_rest) = _high_and_low(x), _high_and_low(y)
    dot = functools.partial(_dot, transposed=transposed, precision=jax.lax.Precision.DEFAULT)
    return dot(x, y) + (dot(x, y_rest) + dot(x_rest, y))


def permute(x: Float[Array, "I J"], y: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "I K"]:
    """The product of a matrix and a permutation, in either order, which is exact."""
    return _dot(x, y, transposed, jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT)


def _dot(x: Any, y: Any, transposed: bool, precision: jax.lax.Precision) -> Float[Array, "I K"]:
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _high_and_low(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The bfloat16 next to each number, and that of the remainder."""
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)
