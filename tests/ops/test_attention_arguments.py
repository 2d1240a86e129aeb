"""Arguments that an implementation of attention does not support are errors of one line; those it does are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import BUCKETS, DISTANCE, make_tensors, normal, on_device

from deberta_jax.errors import InputError
from deberta_jax.model.module import check_attention
from deberta_jax.ops.attention import (
    IMPLEMENTATIONS,
    PLATFORMS,
    attention_implementation,
    attention_with_probabilities,
    disentangled_attention,
)
from deberta_jax.ops.attention_gpu import pallas_gpu
from deberta_jax.ops.attention_tpu import pallas_tpu
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.precision import kernel_precision


@pytest.fixture(params=["pallas_gpu", "pallas_tpu"])
def kernels(request, monkeypatch):
    """The name of an implementation by kernels, which are interpreted on this machine."""
    interpreted = functools.partial({"pallas_gpu": pallas_gpu, "pallas_tpu": pallas_tpu}[request.param], interpret=True)
    monkeypatch.setitem(IMPLEMENTATIONS, request.param, interpreted)
    monkeypatch.delitem(PLATFORMS, request.param)
    monkeypatch.setattr("deberta_jax.ops.attention_tpu.is_supported", lambda: True)
    return request.param


def square(T=16, N=2, H=16):
    """A square layer: q, k, v, rel_k, rel_q, and the index."""
    content = [normal(number, 2, T, N, H) for number in range(3)]
    tables = [normal(number, 2 * BUCKETS, N, H) for number in (3, 4)]
    return (*content, *tables), relative_index(T, T, buckets=BUCKETS, max_distance=DISTANCE)


def test_kernels_refuse_keys_that_are_not_the_tokens_of_the_queries(kernels):
    (q, k, v, *_), _ = square()
    with pytest.raises(InputError, match=r"not 8 queries and 16 keys; pass query_positions, or use 'xla'"):
        disentangled_attention(q[:, :8], k, v, implementation=kernels)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, bool])
def test_segment_ids_of_any_integers_are_padded(kernels, dtype, unchecked_shapes):
    tensors, index = square(20)
    segment_ids = (jnp.arange(20)[None] < jnp.asarray([[12], [20]])).astype(dtype)
    ours, expected = (
        disentangled_attention(*tensors, index=index, segment_ids=segment_ids, implementation=name)
        for name in (kernels, "xla")
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_kernels_have_no_second_derivatives_and_say_so(kernels):
    (q, *others), index = square()

    def total(q, implementation=kernels):
        return jnp.square(disentangled_attention(q, *others, index=index, implementation=implementation)).sum()

    along = functools.partial(jax.jvp, jax.grad(total), (q,), (q,))
    twice = functools.partial(jax.grad(lambda q: jnp.square(jax.grad(total)(q)).sum()), q)
    for derivative in (along, twice):
        with pytest.raises(InputError, match=r"no second derivatives; use implementation='xla' \(models: attention="):
            derivative()
    # Rematerialization computes the forward pass again, which is not a second derivative.
    remat = jax.jit(jax.grad(jax.checkpoint(total)))(q)
    np.testing.assert_allclose(remat, jax.grad(lambda q: total(q, "xla"))(q), atol=1e-4, rtol=1e-4)


def test_the_scale_of_kernels_is_a_number(kernels, unchecked_shapes):
    tensors, index = square()
    attend = functools.partial(disentangled_attention, *tensors, index=index, implementation=kernels)
    np.testing.assert_array_equal(attend(scale=jnp.float32(0.25)), attend(scale=0.25))
    with pytest.raises(InputError, match="scale: fused kernels need a number"):
        jax.jit(lambda scale: attend(scale=scale))(0.25)


def test_a_batch_without_sequences_has_an_empty_context(kernels):
    tensors, index = square()
    q, k, v = (x[:0] for x in tensors[:3])
    attend = functools.partial(disentangled_attention, index=index, implementation=kernels)
    assert attend(q, k, v, *tensors[3:]).shape == q.shape
    assert jax.grad(lambda q: attend(q, k, v, *tensors[3:]).sum())(q).shape == q.shape


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((None, "highest", "float32", "F32_F32_F32", "BF16_BF16_F32_X6"), "HIGHEST"),
        (("high", "tensorfloat32", "TF32_TF32_F32", "BF16_BF16_F32_X3"), "HIGH"),
        (("default", "bfloat16", "BF16_BF16_F32"), "DEFAULT"),
    ],
)
def test_kernels_have_the_precision_of_the_setting_of_jax_by_any_of_its_names(names, expected):
    for name in names:
        with jax.default_matmul_precision(name):
            assert kernel_precision(jnp.ones((2, 2))).name == expected
            assert kernel_precision(jnp.ones((2, 2), jnp.bfloat16)).name == "DEFAULT"


@pytest.mark.parametrize("name", ["xla", "xla_per_head", "kernels"])
def test_attention_runs_on_a_mesh_with_explicit_axes(name, kernels):
    tensors, index = square()
    attend = functools.partial(
        disentangled_attention, index=index, implementation=kernels if name == "kernels" else name
    )
    q, k, v, rel_k, rel_q = tensors
    expected = attend(*tensors)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        content = [jax.device_put(x, jax.P("data", None, "tensor")) for x in (q, k, v)]
        tables = [jax.device_put(x, jax.P(None, "tensor")) for x in (rel_k, rel_q)]
        context = jax.jit(attend)(*content, *tables)
        gradient = jax.jit(jax.grad(lambda q, *others: jnp.square(attend(q, *others)).sum()))(*content, *tables)
        probabilities = attention_with_probabilities(*content, *tables, index=index)[1]
    assert context.sharding.spec[0] == "data"
    np.testing.assert_allclose(context, expected, atol=1e-5)
    reference = jax.grad(lambda q: jnp.square(attend(q, k, v, rel_k, rel_q)).sum())(q)
    np.testing.assert_allclose(gradient, reference, atol=1e-4, rtol=1e-4)
    assert probabilities.shape == (2, 2, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v, s: (q, k[:1], v, s), r"k has shape \(1, 12, 2, 4\), expected \(2, 12, 2, 4\) for queries of"),
        (lambda q, k, v, s: (q, k[:, :, :1], v, s), r"k has shape \(2, 12, 1, 4\), expected \(2, 12, 2, 4\)"),
        (lambda q, k, v, s: (q, k, v[:, :5], s), r"v has shape \(2, 5, 2, 4\), expected \(2, 12, 2, 4\) as k"),
        (lambda q, k, v, s: (q[0], k, v, s), r"q has shape \(12, 2, 4\) and k has shape"),
        (lambda q, k, v, s: (q, k, v, s[:1]), r"segment_ids has shape \(1, 12\), expected \(2, 12\) as the keys"),
        (lambda q, k, v, s: (q, k, v, s[:, :9]), r"segment_ids has shape \(2, 9\), expected \(2, 12\) as the keys"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(change, message, unchecked_shapes):
    (q, k, v, *_), _ = make_tensors()
    q, k, v, segment_ids = change(q, k, v, jnp.zeros((2, 12), jnp.int32))
    with pytest.raises(ValueError, match=message):
        disentangled_attention(q, k, v, segment_ids=segment_ids)


def test_a_table_for_other_heads_is_refused(unchecked_shapes):
    (q, k, v, rel_k, rel_q), index = make_tensors()
    with pytest.raises(ValueError, match=r"rel_q has shape \(16, 1, 4\), expected \[R, 2, 4\]"):
        disentangled_attention(q, k, v, rel_k, rel_q[:, :1], index=index)


@pytest.mark.parametrize("platform", ["cuda", "GPU", "foo"])
def test_the_implementation_of_an_unknown_platform_is_not_answered(platform):
    with pytest.raises(ValueError, match=f"platform is '{platform}', expected cpu, gpu or tpu"):
        attention_implementation((1, 16, 2, 8), platform=platform)


def test_the_implementation_of_a_shape_without_heads_is_not_answered():
    with pytest.raises(ValueError, match=r"shape is \(1, 16, 8\), expected \[B, T, N, H\]"):
        attention_implementation((1, 16, 8))


def test_kernels_that_rotate_rows_do_not_run_on_older_tpus():
    q = jnp.ones((1, 8, 1, 16))
    with on_device("TPU v4", "tpu"), pytest.raises(InputError, match="'pallas_tpu' runs on TPU v5 and later"):
        disentangled_attention(q, q, q, implementation="pallas_tpu")


@pytest.mark.parametrize(
    ("kind", "length", "width", "dtype", "longest"),
    [
        ("TPU7x", 32_768, 128, "float32", None),
        ("TPU7x", 65_536, 128, "bfloat16", None),
        ("TPU7x", 131_072, 64, "bfloat16", None),
        ("TPU7x", 32_768, 64, "bfloat16", 32_768),
        ("TPU v5 lite", 65_536, 128, "bfloat16", 65_536),
    ],
)
def test_gradients_on_tpu_of_sequences_beyond_vector_memory_are_refused(kind, length, width, dtype, longest):
    q, table = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((1, length, 1, width), (512, 1, width)))
    index = relative_index(length, length, buckets=256, max_distance=512)

    def total(q, rel_k, rel_q):
        operands = Operands(q, q, q, rel_k, rel_q, None, None, None, None)
        return pallas_tpu(operands, index=index, scale=0.1, dropout_rate=0.0).astype(jnp.float32).sum()

    with on_device(kind, "tpu"):
        assert jax.eval_shape(total, q, table, table).shape == ()
        if longest == length:
            jax.eval_shape(jax.grad(total), q, table, table)
            return
        with pytest.raises(InputError, match=rf"gradients of {length:,} tokens with heads of {width} .* at most \d+,"):
            jax.eval_shape(jax.grad(total), q, table, table)


@pytest.mark.parametrize("attention", ["foo", None, 3, ["xla"]])
def test_attention_that_does_not_exist_is_refused_when_a_model_is_built(attention):
    with pytest.raises(InputError, match=r"expected auto, xla, xla_per_head, cudnn, pallas_tpu, pallas_gpu, or a func"):
        check_attention(attention)


def test_tf32_kernels_are_close_to_float32(kernels):
    """Three products of bfloat16 parts on TPU: about 16 bits."""
    tensors, index = square(40)

    def derivatives(implementation):
        def total(*tensors):
            out = disentangled_attention(*tensors, index=index, implementation=implementation)
            return jnp.square(out).sum(), out

        return jax.jit(jax.grad(total, argnums=tuple(range(5)), has_aux=True))(*tensors)

    with jax.default_matmul_precision("tensorfloat32"):
        ours = derivatives(kernels)
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), ours, derivatives("xla"))
    assert max(jax.tree.leaves(errors)) < 2e-4
