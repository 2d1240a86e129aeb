"""Which keys a query may attend to, and the softmax over them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped

from deberta_jax.ops.arguments import check_axes, check_range
from deberta_jax.ops.gathered import take_queries


def as_boolean_mask(name: str, mask: ArrayLike) -> Bool[Array, "..."]:
    """A mask of booleans or integers as booleans, True where it is not 0.

    Raises ValueError for floating-point numbers, because in an additive mask 0 means visible, and for another number of
    axes than the argument `name` has.
    """
    mask = jnp.asarray(mask)
    if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.integer)):
        raise ValueError(
            f"{name} has dtype {mask.dtype}, expected booleans or integers, 1 for what is visible; pass an additive "
            "mask as bias"
        )
    check_axes(name, mask)
    return mask.astype(bool)


def causal_mask(queries: Int[Array, "*B T"], key_length: int) -> Bool[Array, "*B T S"]:
    """True where the key is not to the right of the query, for queries at these positions."""
    return queries[..., None] >= jnp.arange(key_length)


def token_segments(
    attention_mask: Shaped[ArrayLike, "B S"] | None, segment_ids: Int[Array, "B S"] | None
) -> Int[Array, "B S"] | None:
    """The segment of each token, -1 for padding, as `segment_mask` takes it; None if all tokens see each other.

    Raises ValueError for an `attention_mask` of floating-point numbers, and for another number of axes.
    """
    if segment_ids is not None:
        check_axes("segment_ids", segment_ids)
    if attention_mask is None:
        return segment_ids
    real = as_boolean_mask("attention_mask", attention_mask)
    if segment_ids is not None and segment_ids.shape != real.shape:
        raise ValueError(f"attention_mask has shape {real.shape}, but segment_ids has shape {segment_ids.shape}")
    return jnp.where(real, 0 if segment_ids is None else segment_ids, -1)


def segment_mask(
    segment_ids: Int[Array, "B S"], query_positions: Int[Array, "B T"] | None = None
) -> Bool[Array, "B 1 T S"]:
    """True for tokens of the same segment; a token with a negative number attends to nothing, and nothing to it."""
    queries = segment_ids = segment_ids.astype(jnp.int32)
    if query_positions is not None:
        queries = jnp.take_along_axis(segment_ids, query_positions, axis=1)
    queries, keys = queries[:, None, :, None], segment_ids[:, None, None, :]
    return (queries == keys) & (queries >= 0)


def order_mask(order: Int[Array, "B S"], query_positions: Int[Array, "B T"] | None = None) -> Bool[Array, "B 1 T S"]:
    """True where the key's number in `order` is not larger than the query's (docs/attention.md, "Order of tokens").

    Equal numbers are bidirectional attention, 0, 1, 2, ... a language model from left to right, descending numbers one
    from right to left; a source of zeros before a target that counts from 1 is the mask of Dong et al. 2019 (section
    2.2) for sequence-to-sequence models.
    """
    queries = keys = order.astype(jnp.int32)
    if query_positions is not None:
        queries = jnp.take_along_axis(keys, query_positions, axis=1)
    return queries[:, None, :, None] >= keys[:, None, None, :]


def make_attention_mask(
    attention_mask: Shaped[ArrayLike, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    pair_mask: Shaped[ArrayLike, "#B #N #T #S"] | None = None,
    query_positions: Int[Array, "B M"] | None = None,
    order: Int[Array, "B S"] | None = None,
) -> Bool[Array, "#B #N #Q #S"] | None:
    """True where a query may attend to a key: both are real tokens of one document, and `pair_mask` allows the pair.

    Args:
        attention_mask: 1 for real tokens, 0 for padding [B, S].
        segment_ids: numbers of packed documents, negative for padding [B, S].
        pair_mask: 1 where a query may attend to a key [B, N, T, S]; each axis may be 1.
        query_positions: the queries are those at these positions [B, M].
        order: tokens attend to tokens with the same or a smaller number [B, S] (docs/attention.md, "Order of tokens").

    Returns:
        A mask of query-key pairs [B, 1 or N, T, S], with M in place of T for query positions; None if there is no
        restriction.

    Raises:
        ValueError: a mask of floating-point numbers or with another number of axes; positions that do not exist (traced
            positions are not checked).

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> dj.make_attention_mask(jnp.array([[1, 1, 0]]))[0, 0].astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    segments = token_segments(attention_mask, segment_ids)
    if segments is not None and query_positions is not None:
        check_range("query_positions", query_positions, segments.shape[1])
    mask = None if segments is None else segment_mask(segments, query_positions)
    if pair_mask is not None:
        pair_mask = as_boolean_mask("pair_mask", pair_mask)
        if query_positions is not None and pair_mask.shape[2] > 1:
            check_range("query_positions", query_positions, pair_mask.shape[2])
            pair_mask = take_queries(pair_mask, query_positions)
        mask = pair_mask if mask is None else mask & pair_mask
    if order is not None:
        check_axes("order", order)
        ordered = order_mask(order, query_positions)
        mask = ordered if mask is None else mask & ordered
    return mask


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def masked_softmax(
    scores: Float[Array, "B N T S"], mask: Bool[Array, "#B #N #T S"] | None, dtype: DTypeLike | None = None
) -> Float[Array, "B N T S"]:
    """Softmax over the keys where `mask` is True; a row without such a key is all zero, with zero gradient.

    Computed in the dtype of `scores`, returned in `dtype` (default: the same). docs/numerics.md, "Masks and padding".
    """
    if mask is not None:
        # A finite fill avoids inf - inf in a row without a key; in every other row the hidden keys become zero. It
        # depends on the mask because JAX would otherwise compute a constant of this shape before a scan and keep it.
        fill = jnp.where(mask, 0, jnp.finfo(scores.dtype).min).astype(scores.dtype)
        scores = jnp.where(mask, scores, fill)
    exponentials = jnp.exp(scores - scores.max(-1, keepdims=True))
    weight = 1 / exponentials.sum(-1, keepdims=True)
    if mask is not None:
        weight = jnp.where(mask.any(-1, keepdims=True), weight, 0)
    return (exponentials * weight).astype(dtype or scores.dtype)


@masked_softmax.defjvp
def _masked_softmax_jvp(dtype: DTypeLike | None, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Only the result is kept for the backward pass: it is zero wherever no gradient flows.
    probabilities = checkpoint_name(masked_softmax(*primals, dtype), "probabilities")
    wide = probabilities.astype(tangents[0].dtype)
    weighted = wide * tangents[0]
    return probabilities, (weighted - wide * weighted.sum(-1, keepdims=True)).astype(probabilities.dtype)
