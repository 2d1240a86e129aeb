"""Disentangled attention on NVIDIA GPUs by cuDNN's fused attention, with the position scores as its bias.

The bias [B, N, T, S] and its gradient are in memory, in the compute dtype: for sequences of up to about a thousand
tokens.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.errors import InputError
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.scores import Index, position_scores, visible_pairs


def cudnn(
    operands: Operands,
    *,
    index: Index | None,
    scale: float,
    is_causal: bool,
    dropout_rate: float,
    backend: Literal["xla", "cudnn"] = "cudnn",
) -> Float[Array, "B T N H"]:
    """`ops.attention.disentangled_attention` without dropout; bfloat16 or float16, H a multiple of 8, up to 128.

    `backend` "xla" computes the same on any device. Raises InputError for what is not supported.
    """
    q, k, v, rel_k, rel_q, at, segment_ids, mask, seed, bias, order = operands
    _check(q, seed, dropout_rate, backend)
    # cuDNN computes the gradient of a bias for even lengths only.
    T, S = q.shape[1], k.shape[1]
    mask = visible_pairs(mask, q, k, at, is_causal, segment_ids, bias, order)
    positions = position_scores(q, k, rel_k, rel_q, index=index, query_positions=at)
    if positions is not None:
        positions = positions * scale
        bias = positions if bias is None else positions + bias.astype(positions.dtype)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], T, S)).astype(q.dtype)
    (q, extra_queries), (k, extra_keys), (v, _) = (_even(x) for x in (q, k, v))
    if extra_queries or extra_keys:
        mask = jnp.ones((1, 1, T, S), bool) if mask is None else jnp.broadcast_to(mask, (*mask.shape[:2], T, S))
        widths = ((0, 0), (0, 0), (0, extra_queries), (0, extra_keys))
        mask, bias = jnp.pad(mask, widths), None if bias is None else jnp.pad(bias, widths)
    context = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation=backend)
    if mask is not None:
        # A query without a visible key attends to nothing.
        context = jnp.where(mask.any(-1).swapaxes(1, 2)[..., None], context, 0)
    return context[:, :T]


def _check(q: Array, seed: Array | None, dropout_rate: float, backend: str) -> None:
    dtype, H = q.dtype, q.shape[-1]
    if seed is not None and dropout_rate > 0:
        raise InputError("implementation: 'cudnn' has no dropout; use 'xla' or 'pallas_gpu', or pass no key")
    if backend == "cudnn" and dtype not in (jnp.bfloat16, jnp.float16):
        raise InputError(f"implementation: 'cudnn' computes in bfloat16 or float16, not {dtype}; use 'xla'")
    if H % 8 or H > 128:
        raise InputError(f"implementation: 'cudnn' needs heads whose width is a multiple of 8 up to 128, not {H}")


def _even(x: Float[Array, "B T N H"]) -> tuple[Float[Array, "B E N H"], int]:
    """Zeros after the last token of an odd length, and how many."""
    extra = x.shape[1] % 2
    return (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) if extra else x), extra
