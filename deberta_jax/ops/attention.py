"""Disentangled attention (He et al. 2021, section 3.1): the choice of an implementation, and the ones in plain XLA."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from deberta_jax.errors import InputError
from deberta_jax.ops import attention_cudnn, attention_gpu, attention_tpu
from deberta_jax.ops.arguments import check_operands, check_rows
from deberta_jax.ops.attention_xla import context_and_probabilities, xla, xla_per_head
from deberta_jax.ops.dropout import dropout_seed
from deberta_jax.ops.masks import as_boolean_mask
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.scores import (
    Index,
    attention_scale,
    check_arguments,
    required_index,
)
from deberta_jax.sharding import current_device, on_explicit_meshes

# Scores of at most this many bytes stay in a CPU's cache from one operation to the next.
CACHED_BYTES = 1 << 26


@on_explicit_meshes
def disentangled_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    index: Index | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    order: Int[Array, "B S"] | None = None,
    mask: Shaped[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    implementation: str = "auto",
) -> Float[Array, "B T N H"]:
    """Attention over content and relative positions, shaped as `jax.nn.dot_product_attention` (He et al. 2021, eq. 4).

    Args:
        q: queries [B, T, N, H].
        k, v: keys and values [B, S, N, H].
        rel_k, rel_q: the projected relative tables [R, N, H]; a term without its table is omitted.
        index: the row of the tables for each of T + S - 1 distances, from `relative_index`.
        query_positions: the position of each query among the keys [B, T]; `index` is then that of S queries. With
            dropout, the Pallas kernels need equal queries where a position is repeated.
        segment_ids: tokens attend to tokens with the same number [B, S]; padding is negative (in models, 0 is too).
        order: tokens attend to tokens with the same or a smaller number [B, S] (docs/attention.md, "Order of tokens").
        mask: True or 1 where a query may attend to a key [B, N, T, S]; the first three axes may be 1.
        bias: added to the scaled scores [B, N, T, S]; each axis may be 1, and -inf hides a key.
        is_causal: hide the keys to the right of each query.
        scale: factor of the scores, by default 1 / sqrt(H x number of terms).
        dropout_rate, key: dropout of the probabilities with this rate in [0, 1); without a key there is none.
        implementation: "xla", "xla_per_head", "cudnn", "pallas_gpu", "pallas_tpu", or "auto" for
            `attention_implementation` (docs/attention.md says what each costs and does not support).

    Returns:
        [B, T, N, H], 0 for a query without a visible key; on Explicit meshes, sharded over the batch as k.

    Raises:
        InputError: an implementation that is unknown, or that does not support the device or the arguments.
        ValueError: shapes that do not fit together; other errors as `attention_probabilities`.

    Example:
        >>> import jax.numpy as jnp, deberta_jax as dj
        >>> q = k = v = jnp.ones((1, 5, 2, 4))
        >>> index = dj.relative_index(5, 5, buckets=8, max_distance=32)
        >>> dj.disentangled_attention(q, k, v, jnp.ones((16, 2, 4)), index=index, is_causal=True).shape
        (1, 5, 2, 4)
    """
    seed = None if key is None or dropout_rate == 0.0 else dropout_seed(key)
    operands = Operands(q, k, v, rel_k, rel_q, query_positions, segment_ids, mask, seed, bias, order)
    operands, options = _prepare(operands, index, scale, dropout_rate)
    options |= {"is_causal": is_causal}
    if implementation == "auto":
        return _automatic(operands, options)
    _check_implementation(implementation)
    return IMPLEMENTATIONS[implementation](operands, **options)


def _automatic(operands: Operands, options: dict[str, Any]) -> Float[Array, "B T N H"]:
    """The implementation that `attention_implementation` chooses for the platform that the program is compiled for."""
    q, k, is_gathered = operands.q, operands.k, operands.query_positions is not None
    platforms = "cpu", "tpu" if attention_tpu.is_supported() else "gpu"
    details: dict[str, Any] = {"is_gathered": is_gathered, "has_bias": operands.bias is not None}
    details |= {"key_length": k.shape[1], "dtype": q.dtype}
    names = (attention_implementation(q.shape, platform=platform, **details) for platform in platforms)
    cpu, other = (IMPLEMENTATIONS[name] for name in names)
    if cpu is other:
        return cpu(operands, **options)
    return jax.lax.platform_dependent(operands, cpu=partial(cpu, **options), default=partial(other, **options))


@on_explicit_meshes
def attention_with_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    index: Index | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    mask: Shaped[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"]]:
    """The result of `disentangled_attention` and its probabilities, by the implementation "xla".

    Args:
        q: queries [B, T, N, H].
        k, v: keys and values [B, S, N, H].
        rel_k, rel_q: the projected relative tables [R, N, H]; a term without its table is omitted.
        index: the row of the tables for each of T + S - 1 distances, from `relative_index`.
        query_positions: the position of each query among the keys [B, T]; `index` is then that of S queries.
        mask: True or 1 where a query may attend to a key [B, N, T, S]; the first three axes may be 1.
        bias: added to the scaled scores [B, N, T, S]; each axis may be 1, and -inf hides a key.
        is_causal: hide the keys to the right of each query.
        scale: factor of the scores, by default 1 / sqrt(H x number of terms).
        dropout_rate, key: dropout of the probabilities with this rate in [0, 1); without a key there is none.

    Returns:
        The result [B, T, N, H], and the probabilities before dropout [B, N, T, S].

    Raises:
        ValueError: shapes that do not fit together; other errors as `attention_probabilities`.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> q, k, v = (jax.random.normal(jax.random.key(n), (1, 5, 2, 4)) for n in range(3))
        >>> context, probabilities = dj.attention_with_probabilities(q, k, v)
        >>> context.shape, probabilities.shape
        ((1, 5, 2, 4), (1, 2, 5, 5))
    """
    seed = None if key is None or dropout_rate == 0.0 else dropout_seed(key)
    operands = Operands(q, k, v, rel_k, rel_q, query_positions, None, mask, seed, bias)
    operands, options = _prepare(operands, index, scale, dropout_rate)
    return context_and_probabilities(operands, **options, is_causal=is_causal)


def _prepare(
    operands: Operands, index: Index | None, scale: float | None, dropout_rate: float
) -> tuple[Operands, dict[str, Any]]:
    """Operands with a boolean mask, and options with the scale; raises ValueError for invalid ones."""
    q, k, v, rel_k, rel_q, query_positions, segment_ids, mask, _, bias, order = operands
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate is {dropout_rate}, expected a number from 0 to below 1")
    check_operands(q, k, v, (rel_k, rel_q), segment_ids, order)
    check_arguments(q, k, query_positions, mask, bias)
    name = "order" if segment_ids is None else "segment_ids"
    if (segment_ids is not None or order is not None) and query_positions is None and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"{name}: {q.shape[1]} queries and {k.shape[1]} keys are not the same tokens; pass query_positions, or "
            "mask instead"
        )
    mask = None if mask is None else as_boolean_mask("mask", mask)
    bias = None if bias is None else jnp.broadcast_to(bias, (*bias.shape[:3], k.shape[1]))
    if rel_k is not None or rel_q is not None:
        index = required_index(index, q, k, query_positions)
        for table in (rel_k, rel_q):
            if table is not None:
                check_rows(index, table)
    scale = attention_scale(q, rel_k, rel_q) if scale is None else scale
    return operands._replace(mask=mask, bias=bias), {"index": index, "scale": scale, "dropout_rate": dropout_rate}


def _check_implementation(name: str) -> None:
    """Raise InputError for an unknown implementation, and for one that the current devices do not have."""
    if name not in IMPLEMENTATIONS:
        raise InputError(f"implementation is {name!r}, expected auto, {', '.join(IMPLEMENTATIONS)}")
    platform, current = PLATFORMS.get(name), current_device().platform
    if platform not in (None, current):
        raise InputError(
            f"implementation: {name!r} runs on {str(platform).upper()}, and the current device is a {current.upper()}; "
            "use 'auto'"
        )
    if name == "pallas_tpu" and not attention_tpu.is_supported():
        raise InputError(f"implementation: {name!r} runs on TPU v5 and later, not on {current_device().device_kind}")


def attention_implementation(
    shape: tuple[object, ...],
    *,
    key_length: object = None,
    dtype: DTypeLike = jnp.bfloat16,
    is_gathered: bool = False,
    has_bias: bool = False,
    platform: str | None = None,
) -> str:
    """The implementation that `disentangled_attention` chooses for a shape and a device (docs/attention.md).

    Args:
        shape: that of the queries, [B, T, N, H].
        key_length: the number of keys S, by default T.
        dtype: that of the queries.
        is_gathered: whether queries are at `query_positions`.
        has_bias: whether there is a bias.
        platform: "cpu", "gpu" or "tpu" (v5 or later); by default that of the current devices.

    Raises:
        ValueError: another platform or number of axes.

    Example:
        >>> import deberta_jax as dj
        >>> dj.attention_implementation((8, 512, 12, 64), platform="tpu")
        'pallas_tpu'
        >>> dj.attention_implementation((8, 512, 12, 64), platform="cpu")
        'xla_per_head'
    """
    if len(shape) != 4:
        raise ValueError(f"shape is {tuple(shape)}, expected [B, T, N, H]")
    if platform not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"platform is {platform!r}, expected cpu, gpu or tpu")
    sizes: tuple[Any, ...] = (*shape, shape[1] if key_length is None else key_length)
    B, T, N, _, S = sizes
    if platform is None:
        platform = "tpu" if attention_tpu.is_supported() else jax.default_backend()
    if platform == "tpu":
        within_sequence = is_gathered or T == S
        return "pallas_tpu" if within_sequence and not has_bias and dtype != jnp.float64 else "xla"
    score_bytes = B * N * T * S * 4
    # The size is unknown in a program that is exported with a symbolic batch size.
    is_large = isinstance(score_bytes, int) and score_bytes > CACHED_BYTES
    return "xla_per_head" if platform == "cpu" and is_large else "xla"


IMPLEMENTATIONS: dict[str, Callable[..., Float[Array, "B T N H"]]] = {
    "xla": xla,
    "xla_per_head": xla_per_head,
    "cudnn": attention_cudnn.cudnn,
    "pallas_tpu": attention_tpu.pallas_tpu,
    "pallas_gpu": attention_gpu.pallas_gpu,
}
# The devices of the implementations that do not run everywhere.
PLATFORMS = {"cudnn": "gpu", "pallas_tpu": "tpu", "pallas_gpu": "gpu"}
