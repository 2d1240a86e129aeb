"""What a program of the GPU kernels reads: its tensors, its settings, and its own tile of tokens."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jaxtyping import Array, Int

from deberta_jax.ops.distance_scores import DistanceLayout
from deberta_jax.ops.fused import KernelSettings


class Side(NamedTuple):
    """Queries or keys of one sequence and head, as references.

    `content` [T, H] is q or k. `partner` [T, H] is what the gradient of the probabilities is a product of: the gradient
    of the context for queries, v for keys. `near` [A, M W] and `far` [2, T] are scores by distance.
    """

    content: Any
    partner: Any
    near: Any
    far: Any


class KernelTensors(NamedTuple):
    """The references that a kernel reads.

    `tiles` [A, 2] is the range of tiles of other tokens that each tile of own tokens sees. `log_sum` [T] is the
    logarithm to base 2 of the sum of a query's exponentials, `mean` [T] the mean of its probabilities' gradients.
    """

    queries: Side
    keys: Side
    tiles: Any
    segment_ids: Any
    order: Any
    mask: Any
    seed: Any
    offset: Any
    log_sum: Any = None
    mean: Any = None


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """The settings of one kernel: the sizes of its tiles, and who owns a program."""

    settings: KernelSettings
    layout: DistanceLayout
    own_tile: int
    other_tile: int
    owns_queries: bool

    @property
    def has_far_tiles(self) -> bool:
        return not self.layout.has_windows

    @property
    def exponent_scale(self) -> float:
        """Scores times this are exponents to base 2, the only base that the hardware has."""
        return self.settings.scale * math.log2(math.e)

    def sides(self, tensors: KernelTensors) -> tuple[Side, Side]:
        """The side of own and of other tokens."""
        pair = tensors.queries, tensors.keys
        return pair if self.owns_queries else pair[::-1]

    def by_query(self, own: Any, other: Any) -> tuple[Any, Any]:
        """What belongs to queries and to keys."""
        return (own, other) if self.owns_queries else (other, own)


@dataclasses.dataclass(frozen=True)
class Program:
    """What one program knows before its loop.

    `start` is its first own token, `before` and `after` [T] each own token's score with the tokens far before and far
    after it, `words` what dropout adds to the positions of queries and keys.
    """

    plan: KernelPlan
    tensors: KernelTensors
    start: Any
    tiles: tuple[Any, Any]
    before: Any
    after: Any
    words: tuple[Any, Any] | None

    @property
    def own_tokens(self) -> Any:
        return pl.ds(self.start, self.plan.own_tile)

    def other_tokens(self, first: Any) -> Any:
        return pl.ds(first, self.plan.other_tile)

    def other_tiles(self, tiles: tuple[Any, Any]) -> tuple[Any, Any]:
        """A range of the layout's tiles as a range of tiles of other tokens."""
        ratio = self.plan.layout.tile // self.plan.other_tile
        return tiles[0] * ratio, tiles[1] * ratio

    def pairs(self, first: Any) -> tuple[Int[Array, "T 1"], Int[Array, "1 S"]]:
        """The positions of own tokens, and of the tile of other tokens that begins at `first`."""
        own = self.start + jax.lax.broadcasted_iota(jnp.int32, (self.plan.own_tile, 1), 0)
        return own, first + jax.lax.broadcasted_iota(jnp.int32, (1, self.plan.other_tile), 1)


def start_program(plan: KernelPlan, tensors: KernelTensors) -> Program:
    """Read what is the same for all tiles of other tokens."""
    tile, n, b = (pl.program_id(axis) for axis in range(3))
    start, far = tile * plan.own_tile, plan.sides(tensors)[0].far
    before, after = (None if far is None else far[side, pl.ds(start, plan.own_tile)] for side in (0, 1))
    words = None
    if tensors.seed is not None:
        # As `dropout.keep_mask`: the first word of the seed is added to the position on each axis.
        _, N, T, S = plan.settings.shape
        word = tensors.seed[0]
        sequence, head = (
            (offset + position).astype(jnp.uint32) + word
            for offset, position in ((tensors.offset[0], b), (tensors.offset[1], n))
        )
        words = (sequence * np.uint32(N) + head) * np.uint32(T) + word, word
    return Program(plan, tensors, start, (tensors.tiles[tile, 0], tensors.tiles[tile, 1]), before, after, words)
