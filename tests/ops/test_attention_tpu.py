"""The TPU kernels: their values by interpretation on this machine, and that compilers for TPUs take them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import normal

from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.attention_tpu import is_supported, pallas_tpu
from deberta_jax.ops.dropout import dropout_seed
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.positions import relative_index
from deberta_jax.sharding import make_mesh

N, H, BUCKETS = 2, 4, 8
KEY = jax.random.key(7)


def tensors(B, T):
    return *(normal(number, B, T, N, H) for number in range(3)), *(
        normal(number, 2 * BUCKETS, N, H) for number in (3, 4)
    )


def pair(T, *, query_positions=None, mask=None, dropout_rate=0.0):
    """The kernels and the XLA implementation, as functions of (q, k, v, rel_k, rel_q)."""
    index = relative_index(T, T, buckets=BUCKETS, max_distance=64)

    def kernels(q, k, v, rel_k, rel_q):
        scale = (H * (1 + (rel_k is not None) + (rel_q is not None))) ** -0.5
        seed = dropout_seed(KEY) if dropout_rate else None
        operands = Operands(q, k, v, rel_k, rel_q, query_positions, None, mask, seed)
        return pallas_tpu(operands, index=index, scale=scale, dropout_rate=dropout_rate, interpret=True)

    plain = functools.partial(
        disentangled_attention,
        index=index,
        query_positions=query_positions,
        mask=mask,
        dropout_rate=dropout_rate,
        key=KEY,
        implementation="xla",
    )
    return kernels, plain


def with_gradients(function, operands):
    present = tuple(number for number, x in enumerate(operands) if x is not None)

    def total(*operands):
        out = function(*operands)
        return (out * normal(9, *out.shape)).sum(), out

    return jax.jit(jax.grad(total, argnums=present, has_aux=True))(*operands)


def check(functions, operands):
    """Compare contexts and gradients; returns the context that the kernels compute."""
    ours, reference = (with_gradients(function, operands) for function in functions)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, reference)
    return ours[1]


@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True), (False, False)])
def test_kernels_equal_the_xla_implementation(terms):
    *content, rel_k, rel_q = tensors(1, 130)
    check(pair(130), (*content, rel_k if terms[0] else None, rel_q if terms[1] else None))


def test_kernels_apply_masks_and_dropout_and_zero_queries_without_keys():
    real = jnp.arange(128) < jnp.asarray([[128], [50]])
    mask = make_attention_mask(real, jnp.where(jnp.arange(128) < 20, 1, 2)[None].repeat(2, 0))
    functions = pair(128, mask=mask, dropout_rate=0.3)
    assert (check(functions, tensors(2, 128))[1, 50:] == 0).all()


def test_a_mask_of_keys_applies_to_all_queries():
    check(pair(40, mask=(jnp.arange(40) % 3 > 0)[None, None, None]), tensors(1, 40))


def test_kernels_take_gathered_queries():
    at = jnp.asarray([[29, 0, 3], [6, 7, 2]])
    real = jnp.arange(30) < jnp.asarray([[30], [20]])
    q, *others = tensors(2, 30)
    q = jnp.take_along_axis(q, at[..., None, None], axis=1)
    check(pair(30, query_positions=at, mask=make_attention_mask(real, query_positions=at)), (q, *others))


def test_a_repeated_query_position_has_the_same_context():
    at = jnp.asarray([[5, 5, 1]])
    q, *others = tensors(1, 8)
    kernels = jax.jit(pair(8, query_positions=at)[0])
    out = kernels(jnp.take_along_axis(q, at[..., None, None], axis=1), *others)
    assert (out[:, 0] == out[:, 1]).all()


def test_a_mesh_computes_and_drops_what_one_device_does():
    kernels, _ = pair(
        16, dropout_rate=0.3, mask=make_attention_mask(jnp.arange(16) < jnp.asarray([[16], [9], [3], [16]]))
    )
    operands = tensors(4, 16)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        split = with_gradients(kernels, operands)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), split, with_gradients(kernels, operands))


def test_kernels_are_supported_on_tpus_that_rotate_rows():
    assert not is_supported()
    for kind, rotates in (
        ("TPU v5 lite", True),
        ("TPU v5", True),
        ("TPU v6 lite", True),
        ("TPU7x", True),
        ("TPU v4", False),
    ):
        device = jax.sharding.AbstractDevice(kind, 1, "tpu")
        mesh = jax.sharding.AbstractMesh((1, 1, 1), ("data", "fsdp", "tensor"), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            assert is_supported() == rotates


@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    ("topology", "length"), [("v5e:2x2", 512), ("v5e:2x2", 4096), ("v5p:2x2x1", 2048), ("v6e:2x2", 512)]
)
def test_kernels_compile_for_tpu_and_keep_scores_out_of_main_memory(topology, length, tpu_devices):
    sharding = jax.sharding.SingleDeviceSharding(tpu_devices(topology)[0])
    B, N, H = 2, 4, 64
    index = relative_index(length, length, buckets=256, max_distance=512)

    def total(q, k, v, rel_k, rel_q, mask, seed):
        options = {"index": index, "scale": 0.1, "dropout_rate": 0.1}
        out = pallas_tpu(Operands(q, k, v, rel_k, rel_q, None, None, mask, seed), **options)
        return jnp.square(out.astype(jnp.float32)).sum()

    def like(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    operands = [like((B, length, N, H))] * 3 + [like((512, N, H))] * 2
    operands += [like((B, 1, length, length), jnp.bool_), like((2,), jnp.uint32)]
    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4))).lower(*operands).compile()
    assert "f32[2,4," + f"{length},{length}]" not in compiled.as_text()
    scores = 4 * B * N * length**2
    if length > 512:
        assert compiled.memory_analysis().temp_size_in_bytes < scores
