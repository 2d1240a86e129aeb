"""The TPU kernels: their values by interpretation on this machine, and that compilers for TPUs take them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import normal, on_device

from deberta_jax.model.deberta import Deberta
from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.attention_tpu import is_supported, pallas_tpu, tile_size, visible_keys
from deberta_jax.ops.attention_tpu_tiles import by_distance, by_key
from deberta_jax.ops.dropout import dropout_seed
from deberta_jax.ops.fused import KernelInputs, KernelSettings
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.positions import relative_index
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import make_mesh

N, H, BUCKETS = 2, 4, 8
PRECISION = jax.lax.Precision.DEFAULT
KEY = jax.random.key(7)
CHIPS = {
    "TPU v5 lite": "v5e:2x2",
    "TPU v5": "v5p:2x2x1",
    "TPU v6 lite": "v6e:2x2",
    "TPU7x": "tpu7x:2x2x1",
}


def tensors(B, T, N=N, H=H):
    return *(normal(number, B, T, N, H) for number in range(3)), *(
        normal(number, 2 * BUCKETS, N, H) for number in (3, 4)
    )


def pair(
    T,
    *,
    max_distance=16,
    query_positions=None,
    segment_ids=None,
    order=None,
    mask=None,
    is_causal=False,
    dropout_rate=0.0,
):
    """The kernels and the XLA implementation, as functions of (q, k, v, rel_k, rel_q).

    The kernels have tiles of 128: with a maximum distance of 16, tiles that are not neighbors are far.
    """
    index = relative_index(T, T, buckets=BUCKETS, max_distance=max_distance)
    options = {"index": index, "is_causal": is_causal, "dropout_rate": dropout_rate}

    def kernels(q, k, v, rel_k, rel_q):
        scale = (q.shape[-1] * (1 + (rel_k is not None) + (rel_q is not None))) ** -0.5
        seed = dropout_seed(KEY) if dropout_rate else None
        operands = Operands(q, k, v, rel_k, rel_q, query_positions, segment_ids, mask, seed, None, order)
        return pallas_tpu(operands, tile=128, scale=scale, interpret=True, **options)

    plain = functools.partial(
        disentangled_attention,
        query_positions=query_positions,
        segment_ids=segment_ids,
        order=order,
        mask=mask,
        key=KEY,
        implementation="xla",
        **options,
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
    # Sums over hundreds of keys and queries; rows of the tables collect thousands of pairs.
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, np.abs(b).max()))
    return ours[1]


@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True), (False, False)])
def test_kernels_equal_the_xla_implementation(terms):
    *content, rel_k, rel_q = tensors(1, 300)
    check(pair(300), (*content, rel_k if terms[0] else None, rel_q if terms[1] else None))


@pytest.mark.parametrize("length", [1, 128])
def test_one_tile_equals_the_xla_implementation(length):
    check(pair(length, max_distance=64), tensors(2, length))


def test_the_band_may_be_as_wide_as_the_sequence():
    check(pair(300, max_distance=512), tensors(1, 300))


def test_heads_of_any_width_are_padded():
    check(pair(20), tensors(1, 20, N=3, H=72))


def test_packed_documents_padding_and_dropout_over_several_tiles():
    # Document 3 is far from documents 1 and 2; the second sequence ends with two tiles of padding.
    first = np.repeat([1, 2, 3, 4], [100, 60, 300, 52])
    second = np.where(np.arange(512) < 200, 0, -1)
    functions = pair(512, segment_ids=jnp.asarray(np.stack([first, second]), jnp.int32), dropout_rate=0.3)
    assert (check(functions, tensors(2, 512))[1, 200:] == 0).all()


def test_causal_attention_over_several_tiles():
    check(pair(400, is_causal=True), tensors(1, 400))


def test_each_sequence_has_an_order_of_its_own():
    # From left to right, and a source before a target, in packed documents that begin within a tile.
    T = 300
    segments = np.repeat([1, 2], [170, 130])
    target = np.where(np.arange(T) % 150 < 60, 0, np.arange(T))
    order = jnp.asarray(np.stack([np.arange(T), target]), jnp.int32)
    both = pair(T, segment_ids=jnp.asarray(np.stack([segments] * 2), jnp.int32), order=order, dropout_rate=0.2)
    check(both, tensors(2, T))
    # From right to left, at gathered queries.
    at = jnp.asarray([[0, 130, 299]], jnp.int32)
    q, *others = tensors(1, T)
    check(pair(T, query_positions=at, order=jnp.arange(T, 0, -1, dtype=jnp.int32)[None]), (q[:, :3], *others))


@pytest.mark.parametrize("heads", [1, N])
def test_a_mask_of_pairs_applies_and_queries_without_keys_are_zero(heads):
    mask = np.random.default_rng(0).random((2, heads, 256, 256)) < 0.2
    mask[1, :, 50:60] = False
    functions = pair(256, mask=jnp.asarray(mask), is_causal=True, dropout_rate=0.1)
    assert (check(functions, tensors(2, 256))[1, 50:60] == 0).all()


def test_a_mask_of_keys_applies_to_all_queries():
    check(pair(40, mask=(jnp.arange(40) % 3 > 0)[None, None, None]), tensors(1, 40))


def test_two_runs_are_identical():
    run = jax.jit(functools.partial(with_gradients, pair(256, dropout_rate=0.1)[0]))
    operands = tensors(1, 256)
    jax.tree.map(np.testing.assert_array_equal, run(operands), run(operands))


def test_tiles_above_the_diagonal_are_not_read():
    for order, expected in ((np.arange(512), ([0] * 4, [0, 1, 2, 3])), (-np.arange(512), ([0, 1, 2, 3], [3] * 4))):
        tensors = [jnp.zeros((1, 512, 1, 4))] * 3
        inputs = KernelInputs(*tensors, None, None, None, jnp.asarray(order, jnp.int32)[None], *[None] * 3)
        settings = KernelSettings(1.0, False, 0.0, (1, 1, 512, 512), (128, 128), 512, 512, PRECISION, True)
        first, last = visible_keys(settings, inputs)
        assert (first[0].tolist(), last[0].tolist()) == expected


def test_only_visible_tiles_of_keys_are_read():
    segment_ids = np.repeat([[0, 1, 1, 2], [0, 0, -1, -1]], 128, axis=1)
    inputs = KernelInputs(*[jnp.zeros((2, 512, 1, 4))] * 3, None, None, jnp.asarray(segment_ids), *[None] * 4)
    settings = KernelSettings(1.0, False, 0.0, (2, 1, 512, 512), (128, 128), 16, 272, PRECISION, True)
    first, last = visible_keys(settings, inputs)
    assert first.tolist() == [[0, 1, 1, 3], [0, 0, 0, 0]] and last.tolist() == [[0, 2, 2, 3], [1, 1, -1, -1]]
    first, last = visible_keys(dataclasses.replace(settings, is_causal=True), inputs._replace(segment_ids=None))
    assert first.tolist() == [[0, 0, 0, 0]] * 2 and last.tolist() == [[0, 1, 2, 3]] * 2


def test_the_interpreted_rotation_is_that_of_the_vector_unit():
    settings = KernelSettings(1.0, False, 0.0, (1, 1, 1, 1), (128, 128), 1, 128, PRECISION, interpret=False)
    interpreted = dataclasses.replace(settings, interpret=True)
    x = normal(0, 128, 384)
    for function in (by_key, by_distance):
        np.testing.assert_array_equal(jax.jit(function, static_argnums=0)(settings, x), function(interpreted, x))


def test_tiles_are_as_large_as_padding_allows():
    assert [tile_size(length) for length in (1, 128, 400, 512, 700, 1024, 2048, 2100)] == [
        128, 128, 512, 512, 384, 512, 512, 384
    ]  # fmt: skip


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
    for kind, rotates in (*((kind, True) for kind in CHIPS), ("TPU v4", False)):
        with on_device(kind, "tpu"):
            assert is_supported() == rotates


def compiled(kind, length, tpu_devices):
    """The gradient of one layer of attention on packed documents, with dropout, compiled for a chip."""
    B, N, H = 1, 4, 64
    device = jax.sharding.AbstractDevice(kind, 1, "tpu")
    index = relative_index(length, length, buckets=256, max_distance=512)

    def total(q, k, v, rel_k, rel_q, segment_ids, seed):
        options = {"index": index, "scale": 0.1, "dropout_rate": 0.1}
        out = pallas_tpu(Operands(q, k, v, rel_k, rel_q, None, segment_ids, None, seed), **options)
        return jnp.square(out.astype(jnp.float32)).sum()

    mesh = jax.sharding.Mesh(np.asarray(tpu_devices(CHIPS[kind])[:1]), ("data",))
    like = functools.partial(jax.ShapeDtypeStruct, sharding=jax.NamedSharding(mesh, jax.P()))
    operands = [like((B, length, N, H), jnp.bfloat16)] * 3 + [like((512, N, H), jnp.bfloat16)] * 2
    operands += [like((B, length), jnp.int32), like((2,), jnp.uint32)]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh.update(abstract_device=device)):
        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4))).lower(*operands).compile()


@pytest.mark.tpu_compile
@pytest.mark.parametrize("kind", CHIPS)
def test_memory_on_tpu_is_linear_in_the_length(kind, tpu_devices):
    short, long = (compiled(kind, length, tpu_devices) for length in (512, 8192))
    assert ",8192,8192]" not in long.as_text()
    # 16 times the tokens; what depends on the length is a few arrays as large as the queries, 4 MiB.
    temporary = long.memory_analysis().temp_size_in_bytes
    assert temporary <= 16 * max(short.memory_analysis().temp_size_in_bytes, 4 << 20)


@pytest.mark.tpu_compile
def test_a_model_on_tpu_has_no_array_of_all_pairs(tpu_devices):
    mesh = make_mesh(devices=tpu_devices("v5e:2x2")[:1])
    # GELU and dropout of states take twice as long to compile as the kernels.
    quick = {"hidden_size": 256, "num_attention_heads": 4, "hidden_act": "relu", "hidden_dropout_prob": 0.0}
    config = dataclasses.replace(PRESETS["v3-base"], num_hidden_layers=1, **quick)

    def loss(model, embeddings, tokens, key):
        states = model(attention_mask=tokens, segment_ids=tokens, inputs_embeds=embeddings, key=key).last_hidden_state
        return jnp.square(states.astype(jnp.float32)).mean()

    def like(tree):
        replicated = jax.NamedSharding(mesh, jax.P())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), tree)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        model = like(jax.eval_shape(lambda: Deberta(config, dtype=jnp.bfloat16, key=KEY)))
        tokens = like(jax.ShapeDtypeStruct((1, 8192), jnp.int32))
        embeddings = like(jax.ShapeDtypeStruct((1, 8192, 256), jnp.bfloat16))
        text = jax.jit(jax.grad(loss)).lower(model, embeddings, tokens, like(KEY)).compile().as_text()
    assert "disentangled_attention_backward" in text and "8192,8192" not in text
