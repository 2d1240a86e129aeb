"""The arguments of a jitted program: a batch of rows, padded to the shape of its bucket."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from deberta_jax.inference.buckets import BatchPlan, bucket_width
from deberta_jax.inference.encode import EncodedRows


class ModelInputs(NamedTuple):
    """Token ids, attention mask and token types of a batch; `positions` [B, ...] for programs that read some tokens."""

    input_ids: Int[ArrayLike, "B T"]
    attention_mask: Int[ArrayLike, "B T"]
    token_type_ids: Int[ArrayLike, "B T"]
    positions: Int[ArrayLike, "B ..."] | None = None


def pad_rows(rows: EncodedRows, indices: Int[np.ndarray, "P"], batch_plan: BatchPlan, pad_id: int) -> ModelInputs:
    """The rows at `indices`, padded to the shape of their batch; positions are padded to a bucketed width."""
    batch, shape = rows.batch, (batch_plan.rows, batch_plan.length)
    columns = [
        _pad(column[indices, : batch_plan.length], shape, fill)
        for column, fill in ((batch.input_ids, pad_id), (batch.attention_mask, 0), (batch.token_type_ids, 0))
    ]
    if rows.positions is None:
        return ModelInputs(*columns)
    positions = [rows.positions[index] for index in indices]
    widths = [bucket_width(size) for size in np.max([x.shape for x in positions], axis=0).tolist()]
    stacked = np.stack([_pad(x, widths, 0) for x in positions])
    return ModelInputs(*columns)._replace(positions=_pad(stacked, (batch_plan.rows, *widths), 0))


def _pad(x: Int[np.ndarray, "..."], shape: Sequence[int], fill: int) -> Int[np.ndarray, "..."]:
    padding = [(0, size - current) for size, current in zip(shape, x.shape, strict=True)]
    return np.pad(x, padding, constant_values=fill)
