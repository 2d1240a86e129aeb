"""Attention with position scores as a bias, by XLA in place of cuDNN, and the choice of an implementation."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import index_for, normal, on_device

from deberta_jax.config import AttentionName
from deberta_jax.ops.attention import IMPLEMENTATIONS, attention_implementation, disentangled_attention
from deberta_jax.ops.attention_cudnn import cudnn
from deberta_jax.ops.operands import Operands

B, N, H, R = 2, 2, 8, 16
SEGMENTS = jnp.asarray([[1] * 6 + [2] * 4 + [-1] * 3, [1] * 13])


def tensors(T):
    return *(normal(seed, B, T, N, H) for seed in range(3)), *(normal(seed, R, N, H) for seed in (3, 4))


def with_gradients(function, *arrays):
    def total(*arrays):
        out = function(*arrays)
        return (out * normal(9, *out.shape)).sum(), out

    return jax.jit(jax.grad(total, argnums=tuple(range(len(arrays))), has_aux=True))(*arrays)


@pytest.mark.parametrize("gathered", [False, True])
def test_a_bias_gives_what_scores_give(gathered):
    T, at = 13, jnp.asarray([[2, 0, 7], [12, 12, 1]]) if gathered else None
    q, *others = tensors(T)
    q = q if at is None else jnp.take_along_axis(q, at[..., None, None], axis=1)
    index, bias = index_for(T, T), normal(8, 1, 1, q.shape[1], T)

    def by_bias(q, k, v, rel_k, rel_q):
        operands = Operands(q, k, v, rel_k, rel_q, at, SEGMENTS, None, None, bias)
        return cudnn(operands, index=index, scale=0.2, is_causal=True, dropout_rate=0.0, backend="xla")

    def by_scores(q, k, v, rel_k, rel_q):
        options = {"index": index, "query_positions": at, "segment_ids": SEGMENTS, "bias": bias, "is_causal": True}
        return disentangled_attention(q, k, v, rel_k, rel_q, scale=0.2, implementation="xla", **options)

    ours, expected = (with_gradients(function, q, *others) for function in (by_bias, by_scores))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, expected)
    if not gathered:
        assert (ours[1][0, 10:] == 0).all()


def test_what_cudnn_does_not_compute_is_refused():
    q, k, v, rel_k, rel_q = tensors(4)
    attend = functools.partial(disentangled_attention, index=index_for(4, 4), implementation="cudnn")
    gpu = functools.partial(on_device, "NVIDIA H200", "gpu")
    with gpu(), pytest.raises(ValueError, match="'cudnn' computes in bfloat16 or float16, not float32"):
        attend(q, k, v, rel_k, rel_q)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v, rel_k, rel_q)]
    with gpu(), pytest.raises(ValueError, match="'cudnn' has no dropout"):
        attend(*half, dropout_rate=0.1, key=jax.random.key(0))
    with gpu(), pytest.raises(ValueError, match="multiple of 8 up to 128, not 4"):
        attend(*(x[..., :4] for x in half))


def test_every_implementation_has_a_name_and_shapes_decide():
    assert set(get_args(AttentionName)) == {"auto", *IMPLEMENTATIONS}
    large, small = (32, 512, 12, 64), (1, 128, 12, 64)
    assert attention_implementation(small) == "xla"
    assert attention_implementation(large) == "xla_per_head"
    assert attention_implementation(large, platform="gpu") == "xla"
    assert attention_implementation(large, platform="tpu") == "pallas_tpu"
    assert attention_implementation(large, platform="tpu", has_bias=True) == "xla"
    assert attention_implementation(large, platform="tpu", key_length=4) == "xla"
    assert attention_implementation(small, platform="tpu", key_length=4, is_gathered=True) == "pallas_tpu"


def test_bfloat16_scores_have_bfloat16_products_in_the_backward_pass():
    arrays = [x.astype(jnp.bfloat16) for x in tensors(12)]
    options = {"index": index_for(12, 12), "implementation": "xla"}

    def total(*arrays):
        return jnp.square(disentangled_attention(*arrays, **options).astype(jnp.float32)).sum()

    def dtypes(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield from (str(operand.aval.dtype) for operand in equation.invars)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from dtypes(inner)

    assert set(dtypes(jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(*arrays).jaxpr)) == {"bfloat16"}
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(*arrays)
    exact = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(*(x.astype(jnp.float32) for x in arrays))
    for ours, expected in zip(gradients, exact, strict=True):
        assert np.abs(np.float32(ours) - expected).max() < 0.03 * np.abs(expected).max()
