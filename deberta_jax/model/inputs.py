"""The inputs that every model takes: their types, conversion from numpy, and checks of the masks."""

from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from deberta_jax.ops.masks import as_boolean_mask

# One integer per token: its id, type, segment or position.
Tokens = Int[ArrayLike, "B T"]
# 1 or True for what may be attended to; rank and dtype are checked by `as_token_mask` and `as_pair_mask`.
Mask = Shaped[ArrayLike, "..."] | None
Key = PRNGKeyArray | None
DType = DTypeLike | None
# A function of the output of a layer [B, T, D] and the index of the layer, which returns what replaces the output.
Each = Callable[[Array, Array], Array]


class ModelInputs(TypedDict, total=False):
    """The inputs that every model takes beside ids and mask; `Deberta` describes them."""

    token_type_ids: Tokens | None
    segment_ids: Tokens | None
    position_ids: Tokens | None
    pair_mask: Mask
    bias: Float[ArrayLike, "..."] | None
    inputs_embeds: Float[ArrayLike, "..."] | None
    each: Each | None
    output_hidden_states: bool
    output_attentions: bool


def as_arrays(*inputs: ArrayLike | None) -> tuple[Array | None, ...]:
    """Inputs from a tokenizer or a data pipeline (numpy) as JAX arrays; None stays None."""
    return tuple(None if x is None else jnp.asarray(x) for x in inputs)


def as_token_mask(attention_mask: Mask, segment_ids: Int[Array, "B T"] | None = None) -> Bool[Array, "B T"] | None:
    """Which tokens are real; without a mask, the tokens of a packed document. Raises ValueError for another rank."""
    if attention_mask is None:
        return None if segment_ids is None else segment_ids > 0
    problem = "attention_mask has shape {}, expected [B, T] with 1 for real tokens; pass a mask of query-key pairs as "
    return _as_mask(attention_mask, 2, problem + "pair_mask [B, 1 or N, T, S]")


def as_pair_mask(pair_mask: Mask) -> Bool[Array, "B #N #T S"] | None:
    """The mask of query-key pairs as booleans; raises ValueError for another rank."""
    if pair_mask is None:
        return None
    problem = "pair_mask has shape {}, expected [B, 1 or N, T, S]; pass a mask of real tokens as attention_mask [B, T]"
    return _as_mask(pair_mask, 4, problem)


def _as_mask(values: Mask, rank: int, problem: str) -> Bool[Array, "..."]:
    """A mask as booleans; `problem`, with the shape in it, is the message of the error for another rank."""
    mask = as_boolean_mask(problem.partition(" ")[0], jnp.asarray(values))
    if mask.ndim != rank:
        raise ValueError(problem.format(mask.shape))
    return mask


def as_ids(name: str, ids: ArrayLike, size: int) -> Int[Array, "..."]:
    """Row numbers of a table of `size` rows as an array.

    Raises ValueError for other numbers, and, outside of transformations such as `jax.jit`, for rows that do not exist;
    inside, their embeddings are NaN.
    """
    array = ids if isinstance(ids, jax.Array) else np.asarray(ids)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {array.dtype}, expected integers")
    if isinstance(array, np.ndarray) or (not isinstance(array, jax.core.Tracer) and array.is_fully_addressable):
        low, high = np.min(np.asarray(array), initial=0), np.max(np.asarray(array), initial=0)
        if low < 0 or high >= size:
            raise ValueError(f"{name} contains {low if low < 0 else high}, expected 0 to {size - 1}")
    return jnp.asarray(array)


def split_key(key: Key, number: int) -> tuple[Key, ...]:
    """That many keys; all None without a key, which means no dropout."""
    return (None,) * number if key is None else tuple(jax.random.split(key, number))
