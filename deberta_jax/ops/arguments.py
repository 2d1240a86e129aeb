"""Checks of arguments: their axes, their dtypes, and their values where these are known."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

# The number of axes of each argument, and the end of the message for another number.
_AXES = {
    "attention_mask": (
        2,
        "[B, T] with 1 for real tokens; pass a mask of query-key pairs as pair_mask [B, 1 or N, T, S]",
    ),
    "segment_ids": (2, "[B, T]; pass a mask of query-key pairs as pair_mask (of a model) or mask [B, 1 or N, T, S]"),
    "order": (2, "[B, T], a number for each token, which attends to tokens with the same or a smaller number"),
    "pair_mask": (4, "[B, 1 or N, T, S]; pass a mask of real tokens as attention_mask [B, T]"),
    "mask": (4, "[B, 1 or N, T, S]; pass a mask of real tokens [B, S] to make_attention_mask"),
}


def check_axes(name: str, array: Any) -> None:
    """Raise ValueError if a mask, or segment ids, has another number of axes than its argument expects."""
    rank, expected = _AXES[name]
    if jnp.ndim(array) != rank:
        raise ValueError(f"{name} has shape {jnp.shape(array)}, expected {expected}")


def check_operands(q: Any, k: Any, v: Any, tables: Sequence[Any], segment_ids: Any, order: Any = None) -> None:
    """Raise ValueError for queries, keys, values, tables, segment ids or an order whose shapes do not fit together."""
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(f"q has shape {q.shape} and k has shape {k.shape}, expected [B, T, N, H] and [B, S, N, H]")
    B, _, N, H = q.shape
    S = k.shape[1]
    if k.shape != (B, S, N, H):
        raise ValueError(f"k has shape {k.shape}, expected {(B, S, N, H)} for queries of shape {q.shape}")
    if v.shape != k.shape:
        raise ValueError(f"v has shape {v.shape}, expected {k.shape} as k")
    for name, table in zip(("rel_k", "rel_q"), tables, strict=True):
        if table is not None and (table.ndim != 3 or table.shape[1:] != (N, H)):
            raise ValueError(f"{name} has shape {table.shape}, expected [R, {N}, {H}] for queries of shape {q.shape}")
    for name, numbers in (("segment_ids", segment_ids), ("order", order)):
        if numbers is None:
            continue
        check_axes(name, numbers)
        if numbers.shape != (B, S):
            raise ValueError(f"{name} has shape {numbers.shape}, expected {(B, S)} as the keys")


def check_pairs(name: str, pairs: Any, shape: tuple[Any, ...]) -> None:
    """Raise ValueError if a mask or a bias does not broadcast to scores of `shape` [B, N, T, S]."""
    if any(size not in (1, full) for size, full in zip(jnp.shape(pairs), shape, strict=True)):
        raise ValueError(f"{name} has shape {jnp.shape(pairs)}, expected {shape} (each axis may be 1)")


def check_bias(bias: Any) -> None:
    """Raise ValueError for a bias of scores that is not floating-point numbers with four axes."""
    expected = "expected floats [B, N, T, S] (each axis may be 1); pass a boolean mask as mask, or pair_mask of a model"
    if not jnp.issubdtype(jnp.result_type(bias), jnp.floating):
        raise ValueError(f"bias has dtype {jnp.result_type(bias)}, {expected}")
    if jnp.ndim(bias) != 4:
        raise ValueError(f"bias has shape {jnp.shape(bias)}, {expected}")


def check_range(name: str, numbers: ArrayLike, size: Any) -> None:
    """Raise ValueError for numbers that are not in 0 to `size` - 1, as far as values and size are known."""
    values = known_values(numbers)
    if values is None or not values.size or not isinstance(size, int):
        return
    low, high = values.min(), values.max()
    if low < 0 or high >= size:
        raise ValueError(f"{name} contains {low if low < 0 else high}, expected 0 to {size - 1}")


def check_rows(index: Shaped[np.ndarray | Array, "W"], table: Shaped[Array, "R N H"]) -> None:
    """Raise ValueError for an index with rows that the table does not have, if its values are known."""
    values = known_values(index)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < table.shape[0]:
        raise ValueError(
            f"index has rows from {values.min()} to {values.max()}, but the relative table has {table.shape[0]} rows"
        )


def known_values(array: ArrayLike) -> np.ndarray | None:
    """The values of an array; None inside of transformations such as `jax.jit`, and for an array of other processes."""
    if isinstance(array, jax.core.Tracer) or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return None
    return np.asarray(array)
