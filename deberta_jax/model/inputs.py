"""The inputs that every model takes: their types, conversion from numpy, and checks of the masks."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from deberta_jax.ops.arguments import check_axes, check_bias, check_pairs, check_range
from deberta_jax.ops.masks import as_boolean_mask

# One integer per token: its id, type, segment or position.
Tokens = Int[ArrayLike, "B T"]
# 1 or True for what may be attended to; rank and dtype are checked by `as_token_mask` and `as_pair_mask`.
Mask = Shaped[ArrayLike, "..."] | None
Key = PRNGKeyArray | None
DType = DTypeLike | None
# A function of the output of a layer [B, T, D] and the index of the layer, which returns what replaces the output.
Each = Callable[[Array, Array], Array]


class PlainInputs(TypedDict, total=False):
    """The inputs of a model beside ids and mask, without requests for further outputs; `Deberta` describes them."""

    token_type_ids: Tokens | None
    segment_ids: Tokens | None
    position_ids: Tokens | None
    order: Tokens | None
    pair_mask: Mask
    bias: Float[ArrayLike, "..."] | None
    inputs_embeds: Float[ArrayLike, "..."] | None
    depth: int | None
    each: Each | None


class ModelInputs(PlainInputs, total=False):
    """The inputs that every model takes beside ids and mask."""

    output_hidden_states: bool
    output_attentions: bool


def as_arrays(*inputs: ArrayLike | None) -> tuple[Array | None, ...]:
    """Inputs from a tokenizer or a data pipeline (numpy) as JAX arrays; None stays None."""
    return tuple(None if x is None else jnp.asarray(x) for x in inputs)


def as_token_mask(attention_mask: Mask, segment_ids: Int[Array, "B T"] | None = None) -> Bool[Array, "B T"] | None:
    """Which tokens are real; without a mask, the tokens of a packed document. Raises ValueError for other ranks."""
    if segment_ids is not None:
        check_axes("segment_ids", segment_ids)
    if attention_mask is None:
        return None if segment_ids is None else segment_ids > 0
    return as_boolean_mask("attention_mask", attention_mask)


def real_tokens(inputs: Mapping[str, Any]) -> Bool[Array, "B T"] | None:
    """Which tokens are real by the inputs of a model; None if all are."""
    segment_ids, *_ = as_arrays(inputs.get("segment_ids"))
    return as_token_mask(inputs.get("attention_mask"), segment_ids)


def as_pair_mask(pair_mask: Mask) -> Bool[Array, "#B #N #T #S"] | None:
    """The mask of query-key pairs as booleans; raises ValueError for another rank."""
    return None if pair_mask is None else as_boolean_mask("pair_mask", pair_mask)


def as_pairs(
    pair_mask: Mask, bias: Float[ArrayLike, "..."] | None, shape: tuple[Any, ...]
) -> tuple[Bool[Array, "#B #N #T #S"] | None, Float[Array, "#B #N #T #S"] | None]:
    """The mask and the bias of query-key pairs as arrays.

    Raises ValueError for arrays that do not broadcast to scores of `shape` [B, N, T, S], and for other dtypes.
    """
    mask = as_pair_mask(pair_mask)
    if mask is not None:
        check_pairs("pair_mask", mask, shape)
    if bias is None:
        return mask, None
    check_bias(bias)
    check_pairs("bias", bias, shape)
    return mask, jnp.asarray(bias)


def as_ids(name: str, ids: ArrayLike, size: Any) -> Int[Array, "..."]:
    """Row numbers of a table of `size` rows as an array.

    Raises ValueError for other numbers, and, outside of transformations such as `jax.jit`, for rows that do not exist;
    inside, their embeddings are NaN.
    """
    ids = ids if isinstance(ids, jax.Array) else np.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {ids.dtype}, expected integers")
    check_range(name, ids, size)
    return jnp.asarray(ids)


def as_words(inputs_embeds: Float[ArrayLike, "..."], width: int) -> Float[Array, "B T E"]:
    """Embeddings of words as an array; raises ValueError for another rank or width, and for integers."""
    embeds = jnp.asarray(inputs_embeds)
    if not jnp.issubdtype(embeds.dtype, jnp.floating):
        raise ValueError(f"inputs_embeds has dtype {embeds.dtype}, expected floats; pass token ids as input_ids")
    if embeds.ndim != 3 or embeds.shape[2] != width:
        raise ValueError(f"inputs_embeds has shape {embeds.shape}, expected [B, T, {width}]")
    return embeds


def check_tokens(shape: tuple[Any, ...], **inputs: Any) -> None:
    """Raise ValueError for an input that does not have one entry for each token; `shape` [B, T] is that of the tokens.

    Broadcasting would silently use one entry for several tokens.
    """
    for name, values in inputs.items():
        if values is not None and jnp.shape(values) != shape:
            raise ValueError(f"{name} has shape {jnp.shape(values)}, expected that of the tokens, {shape}")


def split_key(key: Key, number: int) -> tuple[Key, ...]:
    """That many keys; all None without a key, which means no dropout."""
    return (None,) * number if key is None else tuple(jax.random.split(key, number))
