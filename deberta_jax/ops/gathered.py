"""Scores of gathered queries: the enhanced mask decoder asks at the masked positions only."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from deberta_jax.ops.precision import accumulation_dtype, einsum
from deberta_jax.ops.relative_shift import table_by_distance


def c2p_scores_at(
    q: Float[Array, "B M N H"],
    rel_k: Float[Array, "R N H"],
    index: Int[np.ndarray | Array, "W"],
    query_positions: Int[Array, "B M"],
) -> Float[Array, "B N M S"]:
    """`scores.c2p_scores` of queries at `query_positions`; `index` is the one for S queries and S keys.

    The S scores of a query are contiguous among its scores by distance: one slice per query, not one gather per score.
    """
    S = (index.shape[0] + 1) // 2
    by_distance = table_by_distance(rel_k.swapaxes(0, 1), index)
    scores = einsum("BMNH,NWH->BMNW", q, by_distance, preferred_element_type=accumulation_dtype(q.dtype))
    slice_keys = jax.vmap(jax.vmap(lambda scores, start: jax.lax.dynamic_slice_in_dim(scores, start, S, axis=1)))
    return slice_keys(scores, S - 1 - query_positions).swapaxes(1, 2)


def take_queries(x: Shaped[Array, "#B N T S"], query_positions: Int[Array, "B M"]) -> Shaped[Array, "B N M S"]:
    """The scores or mask entries of the queries at `query_positions`."""
    x = jnp.broadcast_to(x, (query_positions.shape[0], *x.shape[1:]))
    return jax.vmap(lambda x, positions: x[:, positions])(x, query_positions)
