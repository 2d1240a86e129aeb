"""The arrays of one call of attention, as every implementation takes them."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt32


class Operands(NamedTuple):
    """Queries, keys and values; projected relative tables (None: no such term); and which pairs are visible or kept.

    With `query_positions` query t is at that position among the keys. `segment_ids` is as in `masks.segment_mask`;
    `order` as in `masks.order_mask`; `mask` restricts pairs further. `seed` is that of dropout (`dropout_seed`), None
    for no dropout. `bias` is added to the scaled scores.
    """

    q: Float[Array, "B T N H"]
    k: Float[Array, "B S N H"]
    v: Float[Array, "B S N H"]
    rel_k: Float[Array, "R N H"] | None = None
    rel_q: Float[Array, "R N H"] | None = None
    query_positions: Int[Array, "B T"] | None = None
    segment_ids: Int[Array, "B S"] | None = None
    mask: Bool[Array, "#B #N #T S"] | None = None
    seed: UInt32[Array, "2"] | None = None
    bias: Float[Array, "#B #N #T S"] | None = None
    order: Int[Array, "B S"] | None = None
