"""The GPU kernels: their values and gradients by interpretation on this machine, equal to the XLA implementation."""

import functools
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import normal, on_device

from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.attention_gpu import pallas_gpu
from deberta_jax.ops.distance_scores import distance_layout
from deberta_jax.ops.dropout import dropout_seed
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.visible_tiles import tile_ranges
from deberta_jax.sharding import make_mesh

# Sequences are padded to a multiple of it.
TILE = 16
B, N = 2, 2
BUCKETS = 8


class Case(NamedTuple):
    """What is fixed when a program is compiled. `far` is the maximum distance, `mask` a shape [#B, #N]."""

    T: int
    far: int = 24
    terms: tuple[bool, bool] = (True, True)
    H: int = 16
    buckets: int = BUCKETS
    is_causal: bool = False
    has_segments: bool = False
    has_order: bool = False
    mask: tuple[int, int] | None = None
    dropout_rate: float = 0.0
    dtype: type = jnp.float32


# Banded and windowed layouts, lengths around the borders of tiles, and each feature at least once.
CASES = [
    Case(70, has_segments=True, dropout_rate=0.3),
    Case(33, far=64, buckets=0, is_causal=True, mask=(B, 1)),
    Case(64, terms=(True, False), H=12, mask=(1, N), dropout_rate=0.1),
    Case(17, far=64, terms=(False, True), has_segments=True, is_causal=True),
    Case(48, terms=(False, False), has_segments=True, dropout_rate=0.3),
    Case(1, has_segments=True),
    Case(70, has_segments=True, has_order=True, dropout_rate=0.1),
    Case(33, far=64, buckets=0, has_order=True, mask=(B, 1)),
]


def tensors(case):
    rows = 2 * (case.buckets or case.far)
    shapes = [(B, case.T, N, case.H)] * 3 + [(rows, N, case.H)] * 2
    present = (True, True, True, *case.terms)
    pairs = zip(shapes, present, strict=True)
    return tuple(
        normal(number, *shape, dtype=case.dtype) if here else None for number, (shape, here) in enumerate(pairs)
    )


def kernels(case):
    """The kernels, as a function of (q, k, v, rel_k, rel_q), segments, mask, key and order."""
    index = relative_index(case.T, case.T, buckets=case.buckets, max_distance=case.far)
    scale = (case.H * (1 + sum(case.terms))) ** -0.5

    def attend(operands, segment_ids, mask, key, order=None):
        seed = dropout_seed(key) if case.dropout_rate else None
        options = {"index": index, "scale": scale, "is_causal": case.is_causal, "dropout_rate": case.dropout_rate}
        operands = Operands(*operands, None, segment_ids, mask, seed, None, order)
        return pallas_gpu(operands, tile=TILE, interpret=True, **options)

    return attend


def reference(case):
    index = relative_index(case.T, case.T, buckets=case.buckets, max_distance=case.far)

    def attend(operands, segment_ids, mask, key, order=None):
        options = {"index": index, "is_causal": case.is_causal, "dropout_rate": case.dropout_rate, "key": key}
        options |= {"segment_ids": segment_ids, "order": order, "mask": mask}
        return disentangled_attention(*operands, implementation="xla", **options)

    return attend


@functools.cache
def program(make, case):
    """A compiled function that returns the context, and the gradients of all operands."""
    attend = make(case)

    def total(operands, *others):
        context = attend(operands, *others)
        return (context * normal(9, *context.shape, dtype=case.dtype)).astype(jnp.float32).sum(), context

    return jax.jit(jax.grad(total, has_aux=True))


def check(case, segment_ids=None, mask=None, key=0, order=None):
    """Compare contexts and gradients; returns what the kernels compute."""
    arguments = tensors(case), segment_ids, mask, jax.random.key(key), order
    (gradients, context), (expected_gradients, expected) = (
        program(make, case)(*arguments) for make in (kernels, reference)
    )
    # Significant bits: 24, 8 and 11.
    tolerance = {jnp.float32: 1.0, jnp.bfloat16: 2000.0, jnp.float16: 300.0}[case.dtype]
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5 * tolerance)
    assert_close(np.float32(context), np.float32(expected), atol=1e-5 * tolerance)
    for ours, expected_gradient in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(np.float32(ours), np.float32(expected_gradient), rtol=1e-4, atol=1e-4 * tolerance)
    return gradients, context


@st.composite
def restrictions(draw, case):
    """Segments, mask and order of a case: documents and padding in any order, queries and keys that see nothing."""
    segment_ids = mask = order = None
    if case.has_order:
        numbers = st.lists(st.integers(-2, case.T), min_size=case.T, max_size=case.T)
        order = jnp.asarray([draw(numbers), sorted(draw(numbers))], jnp.int32)
    if case.has_segments:
        lengths = draw(st.lists(st.integers(1, case.T), min_size=case.T, max_size=case.T))
        numbers = draw(st.lists(st.integers(-2, 4), min_size=case.T, max_size=case.T))
        row = np.repeat(numbers, lengths)[: case.T]
        segment_ids = jnp.asarray(np.stack([row, draw(st.permutations(row.tolist()))]), jnp.int32)
    if case.mask is not None:
        density = draw(st.sampled_from([0.02, 0.5, 1.0]))
        rng = np.random.default_rng(draw(st.integers(0, 100)))
        mask = jnp.asarray(rng.random((*case.mask, case.T, case.T)) < density)
    return segment_ids, mask, order


@pytest.mark.parametrize("case", CASES, ids=str)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=6)
def test_kernels_equal_the_xla_implementation(case, data):
    segment_ids, mask, order = data.draw(restrictions(case))
    check(case, segment_ids, mask, key=data.draw(st.integers(0, 3)), order=order)


def test_queries_without_a_visible_key_have_a_zero_context_and_no_gradient():
    segment_ids = jnp.asarray([[-1] * 20 + [3] * 50, [-1] * 70])
    gradients, context = check(CASES[0], segment_ids)
    assert (context[0, :20] == 0).all() and (context[1] == 0).all()
    assert all((x[1] == 0).all() for x in gradients[:3])
    assert (context[0, 20:] != 0).any()


def test_tiles_without_a_visible_pair_are_skipped_without_changing_values():
    """Documents that are tiles, and the same documents with numbers that hide it."""
    case = CASES[0]
    documents = np.minimum(np.arange(case.T) // TILE, 3)
    alternating = np.asarray([7, 0, 5, 2])[documents]
    results = [check(case, jnp.asarray(np.stack([row] * B), jnp.int32)) for row in (documents, alternating)]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_the_range_of_visible_tiles_contains_each_of_them():
    visible = np.random.default_rng(0).random((3, 1, 5, 7)) < 0.2
    ranges = np.asarray(tile_ranges(jnp.asarray(visible)))
    for row, (first, last) in zip(visible.reshape(-1, 7), ranges.reshape(-1, 2), strict=True):
        numbers = np.flatnonzero(row)
        assert (first, last) == ((numbers[0], numbers[-1] + 1) if numbers.size else (0, 0))


def test_two_runs_give_identical_bits():
    case = CASES[0]
    segment_ids = jnp.asarray(np.arange(case.T) // 25)[None].repeat(B, 0)
    run = functools.partial(program(kernels, case), tensors(case), segment_ids, None, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, run(), run())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_kernels_compute_in_16_bits(dtype):
    case = Case(70, H=12, has_segments=True, dtype=dtype)
    check(case, jnp.asarray(np.arange(case.T) // 25)[None].repeat(B, 0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float16, 1e-2), (jnp.float32, 1e-5)])
def test_gathered_queries_and_their_gradients(dtype, tolerance):
    """Queries at some positions in any order, one of them twice, as the slots of masked tokens that are not filled."""
    T, at = 30, jnp.asarray([[29, 0, 0], [6, 7, 2]])
    index = relative_index(T, T, buckets=BUCKETS, max_distance=24)
    tokens, *others = tensors(Case(T, dtype=dtype))
    real = jnp.where(jnp.arange(T) < jnp.asarray([[30], [20]]), 0, -1)

    def run(attend):
        def total(operands):
            q, *others = operands
            context = attend(jnp.take_along_axis(q, at[..., None, None], axis=1), others)
            return (context * normal(9, *context.shape, dtype=dtype)).astype(jnp.float32).sum(), context

        return jax.jit(jax.grad(total, has_aux=True))([tokens, *others])

    def kernels(q, others):
        operands = Operands(q, *others, at, real)
        return pallas_gpu(operands, index=index, scale=0.1, dropout_rate=0.0, tile=TILE, interpret=True)

    def xla(q, others):
        options = {"index": index, "query_positions": at, "segment_ids": real, "scale": 0.1}
        return disentangled_attention(q, *others, **options, implementation="xla")

    assert_close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(lambda ours, expected: assert_close(np.float32(ours), np.float32(expected)), run(kernels), run(xla))


def test_a_mesh_computes_and_drops_what_one_device_does():
    case = Case(20, dropout_rate=0.3, has_segments=True)
    segment_ids = jnp.where(jnp.arange(20) < jnp.asarray([[20], [9]]), 0, -1)
    arguments = tensors(case), segment_ids, None, jax.random.key(2)
    expected = program(kernels, case)(*arguments)
    with jax.set_mesh(make_mesh(data=2, fsdp=1, tensor=2, devices=jax.devices()[:4])):
        split = program.__wrapped__(kernels, case)(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), split, expected)


@pytest.mark.parametrize(("tokens", "band"), [(64, 300), (64, 20), (128, 33), (16, 1), (512, 511), (2048, 511)])
def test_every_near_pair_has_an_entry_of_its_own(tokens, band):
    tile = min(64, tokens)
    layout = distance_layout(tokens, tile, band, reach=min(tokens, band + 2 * tile))
    own, other = np.arange(tile)[:, None], np.arange(tile)[None, :]
    for start in range(0, tokens, tile):
        first, last = layout.near_tiles(start)
        touches = [t for t in range(tokens // tile) if abs(start - t * tile) < band + tile - 1]
        assert layout.has_windows or touches == [t for t in range(first, last) if 0 <= t < tokens // tile]
        offsets = []
        for number in range(max(first, 0), min(last, tokens // tile)):
            _, offset, column = layout.position(start, start + own, number * tile + other)
            assert layout.is_stored(column).all()
            offsets.append(offset)
        assert np.unique(offsets).size == np.size(offsets)


def test_float64_and_bias_are_refused():
    case = Case(16)
    options = {"index": relative_index(16, 16, buckets=BUCKETS, max_distance=24), "implementation": "pallas_gpu"}
    with on_device("NVIDIA H200", "gpu"), pytest.raises(ValueError, match="do not support bias"):
        disentangled_attention(*tensors(case), bias=jnp.zeros((1, 1, 16, 16)), **options)
    with jax.enable_x64(True):
        operands = [x.astype(jnp.float64) for x in tensors(case)]
        with on_device("NVIDIA H200", "gpu"), pytest.raises(ValueError, match="float64"):
            disentangled_attention(*operands, **options)


def test_a_mask_beyond_32_bits_is_refused():
    T = 46_400
    q, mask = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32), jax.ShapeDtypeStruct((1, 1, T, T), jnp.bool_)
    options = {"index": None, "scale": 1.0, "dropout_rate": 0.0, "interpret": True}
    with pytest.raises(ValueError, match=r"mask: 2.0 GiB for all pairs of a device, .* pass segment_ids"):
        jax.eval_shape(
            lambda q, mask: pallas_gpu(Operands(q, q, q, None, None, None, None, mask, None), **options), q, mask
        )


@pytest.mark.parametrize("name", ["cudnn", "pallas_gpu", "pallas_tpu"])
def test_an_implementation_for_another_device_is_refused(name):
    q = jnp.ones((1, 8, 1, 16), jnp.bfloat16)
    with pytest.raises(ValueError, match=rf"{name}' runs on [GT]PU, and the current device is a CPU; use 'auto'"):
        disentangled_attention(q, q, q, implementation=name)
