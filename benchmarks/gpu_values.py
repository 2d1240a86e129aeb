"""Implementations of attention on this GPU: their values and gradients, compared with float64 on CPU."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import verdict

from deberta_jax.ops.attention import IMPLEMENTATIONS, PLATFORMS, disentangled_attention
from deberta_jax.ops.positions import relative_index

BUCKETS, MAX_DISTANCE = 256, 512
OURS = ("xla", "cudnn", "pallas_gpu")
WITH_DROPOUT = ("xla", "pallas_gpu")
# Relative to the largest entry: context, and gradients.
BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 4e-2), "float16": (4e-3, 8e-3)}


def attend(implementation: str, *tensors: Any, **options: Any) -> Any:
    """One of our implementations, or plain attention of XLA ("plain xla") or cuDNN ("plain cudnn")."""
    if implementation.startswith("plain"):
        return jax.nn.dot_product_attention(*tensors[:3], implementation=implementation.split()[1])
    length = tensors[0].shape[1]
    index = relative_index(length, length, buckets=BUCKETS, max_distance=MAX_DISTANCE)
    return disentangled_attention(*tensors, index=index, implementation=implementation, **options)


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*tensors: Any) -> Any:
        return jnp.square(function(*tensors).astype(jnp.float32)).sum()

    return jax.grad(loss, argnums=(0, 1, 2, 3, 4))


def tensors(shape: tuple[int, int, int, int], dtype: Any) -> list[jax.Array]:
    """q, k and v of a shape [B, T, N, H], and rel_k and rel_q."""
    rng = np.random.default_rng(0)
    shapes = [shape] * 3 + [(2 * BUCKETS, *shape[2:])] * 2
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


def check_values(lengths: Sequence[int], head_size: int) -> set[str]:
    """Compare our implementations on this device with float64 on CPU; returns those with a wrong value.

    Two runs must be identical, except those of cuDNN.
    """
    wrong: set[str] = set()
    # JAX's stand-in for cuDNN has no float16 on CPU.
    cudnn_dtypes = ("bfloat16", "float16") if jax.default_backend() == "gpu" else ("bfloat16",)
    for length in lengths:
        for dtype in BOUNDS:
            inputs = tensors((1, length, 2, head_size), dtype)
            for dropout_rate, implementations in ((0.1, WITH_DROPOUT), (0.0, ("cudnn",))):
                if implementations == ("cudnn",) and dtype not in cudnn_dtypes:
                    continue
                both = functools.partial(values_and_gradients, length, dropout_rate)
                with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                    wide = [jnp.asarray(np.asarray(x, np.float64)) for x in inputs]
                    reference = [np.asarray(x) for x in jax.jit(functools.partial(both, "xla"))(*wide)]
                for name in implementations:
                    run = jax.jit(functools.partial(both, name))
                    results, again = (jax.tree.map(np.asarray, run(*inputs)) for _ in range(2))
                    ok = is_close(f"{name} {dtype} {length}", results, reference, BOUNDS[dtype])
                    if name != "cudnn":
                        same = all((a == b).all() for a, b in zip(results, again, strict=True))
                        print(verdict(f"{name} {dtype} {length}: two runs are identical", same))
                        ok = ok and same
                    wrong |= set() if ok else {name}
    return wrong


def values_and_gradients(length: int, dropout_rate: float, implementation: str, *tensors: Any) -> Any:
    """The context of two documents and padding, and the gradients of all tensors."""
    segment_ids = np.where(np.arange(length) < length - 5, np.arange(length) // (length // 2), -1)[None]
    key = jax.random.key(1) if dropout_rate else None
    options = {"segment_ids": jnp.asarray(segment_ids, jnp.int32), "dropout_rate": dropout_rate, "key": key}
    attention = functools.partial(attend, implementation, **options)
    return attention(*tensors), *with_gradients(attention)(*tensors)


def is_close(name: str, results: Any, reference: Any, bounds: tuple[float, float]) -> bool:
    """Whether context and gradients are within the bounds; prints the largest errors."""
    context, *gradients = (
        np.abs(np.float64(ours) - expected).max() / np.abs(expected).max()
        for ours, expected in zip(results, reference, strict=True)
    )
    ok = bool(context <= bounds[0] and max(gradients) <= bounds[1])
    print(verdict(f"{name}: context {context:.1e}, gradients {max(gradients):.1e}", ok), flush=True)
    return ok


def interpret() -> None:
    """Let the implementations for GPUs run on this machine."""
    IMPLEMENTATIONS["pallas_gpu"] = functools.partial(IMPLEMENTATIONS["pallas_gpu"], tile=16, interpret=True)
    IMPLEMENTATIONS["cudnn"] = functools.partial(IMPLEMENTATIONS["cudnn"], backend="xla")
    for name in OURS:
        PLATFORMS.pop(name, None)
