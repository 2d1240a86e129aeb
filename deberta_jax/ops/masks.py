"""Which keys a query may attend to, and the softmax over them."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from deberta_jax.ops.gathered import take_queries


def as_boolean_mask(name: str, mask: ArrayLike) -> Bool[Array, "..."]:
    """A mask of booleans or integers as booleans, True where it is not 0.

    Raises ValueError for floating-point numbers: as an additive mask, 0 would mean visible. `name` is the argument.
    """
    mask = jnp.asarray(mask)
    if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.integer)):
        raise ValueError(
            f"{name} has dtype {mask.dtype}, expected booleans or integers, 1 for what is visible; pass an additive "
            "mask as bias"
        )
    return mask.astype(bool)


def causal_mask(queries: Int[Array, "*B T"], key_length: int) -> Bool[Array, "*B T S"]:
    """True where the key is not to the right of the query, for queries at these positions."""
    return queries[..., None] >= jnp.arange(key_length)


def make_attention_mask(
    attention_mask: Shaped[ArrayLike, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    pair_mask: Shaped[ArrayLike, "B #N #T S"] | None = None,
    query_positions: Int[Array, "B M"] | None = None,
) -> Bool[Array, "B #N #Q S"] | None:
    """True where a query may attend to a key: both are real tokens of one document, and `pair_mask` allows the pair.

    `attention_mask` marks real tokens, `segment_ids` numbers packed documents. With `query_positions` the queries are
    those at these positions. None if there is no restriction. Raises ValueError for a mask of floating-point numbers.
    """
    mask = None
    real = None if attention_mask is None else as_boolean_mask("attention_mask", attention_mask)
    for tokens, combine in ((real, jnp.logical_and), (segment_ids, jnp.equal)):
        if tokens is not None:
            queries = tokens if query_positions is None else jnp.take_along_axis(tokens, query_positions, axis=1)
            pairs = combine(queries[:, None, :, None], tokens[:, None, None, :])
            mask = pairs if mask is None else mask & pairs
    if pair_mask is not None:
        pair_mask = as_boolean_mask("pair_mask", pair_mask)
        if query_positions is not None and pair_mask.shape[2] > 1:
            pair_mask = take_queries(pair_mask, query_positions)
        mask = pair_mask if mask is None else mask & pair_mask
    return mask


@jax.custom_jvp
def masked_softmax(scores: Float[Array, "B N T S"], mask: Bool[Array, "#B #N #T S"] | None) -> Float[Array, "B N T S"]:
    """Softmax over the keys where `mask` is True; a row without such a key is all zero, with zero gradient.

    docs/numerics.md, "Masks and padding".
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
    return exponentials * weight


@masked_softmax.defjvp
def _masked_softmax_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Only the result is kept for the backward pass: it is zero wherever no gradient flows.
    probabilities = checkpoint_name(masked_softmax(*primals), "probabilities")
    weighted = probabilities * tangents[0]
    return probabilities, weighted - probabilities * weighted.sum(-1, keepdims=True)
