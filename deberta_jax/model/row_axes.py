"""The arguments of a model for texts of several sequences: the axes of texts and sequences become one."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

# The inputs with an axis of sequences after that of texts, and their number of axes.
_AXES = {
    **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids"), 3),
    "inputs_embeds": 4,
    "pair_mask": 5,
    "bias": 5,
}


def join_sequences(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
    """Inputs whose arrays start with [B * M] instead of [B, M], and B and M.

    `pair_mask` and `bias` [B, M, N, T, S] may have size 1 on both axes. Raises ValueError for arrays of other shapes,
    and without ids and embeddings.
    """
    arrays = dict(inputs)
    tokens = arrays.get("inputs_embeds") if arrays.get("input_ids") is None else arrays["input_ids"]
    if tokens is None:
        raise ValueError("expected either input_ids or inputs_embeds")
    B, M, *_ = (*jnp.shape(tokens), 0, 0)
    for name, rank in _AXES.items():
        if (values := arrays.get(name)) is None:
            continue
        array = jnp.asarray(values)
        if name in ("pair_mask", "bias") and array.ndim == rank:
            array = jnp.broadcast_to(array, (B, M, *array.shape[2:]))
        if array.ndim != rank or array.shape[:2] != (B, M):
            raise ValueError(f"{name} has shape {array.shape}, expected {rank} axes that start with [B, M]")
        arrays[name] = array.reshape(B * M, *array.shape[2:])
    return arrays, B, M


def has_sequences(inputs: Mapping[str, Any]) -> bool:
    """Whether the tokens have an axis of sequences."""
    name = "inputs_embeds" if inputs.get("input_ids") is None else "input_ids"
    return jnp.ndim(inputs.get(name, 0)) == _AXES[name]
