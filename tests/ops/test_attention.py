import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.ops.attention import (
    attention_probabilities,
    c2c_scores,
    c2p_scores,
    c2p_scores_at,
    disentangled_attention,
    make_attention_mask,
    masked_softmax,
    p2c_scores,
    relative_shift,
    rows_at,
)
from deberta_jax.ops.positions import log_bucket, relative_index

B, N, H, BUCKETS, DISTANCE = 2, 2, 4, 8, 24
R = 2 * BUCKETS


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def rows_of(T, S):
    return relative_index(T, S, buckets=BUCKETS, max_distance=DISTANCE)


def row(t, s):
    return int(np.clip(log_bucket(np.asarray(t - s), BUCKETS, DISTANCE) + BUCKETS, 0, R - 1))


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_scores_are_what_a_loop_over_queries_and_keys_gives(T, S):
    q, k, rel = (np.asarray(normal(i, *shape)) for i, shape in enumerate([(B, T, N, H), (B, S, N, H), (R, N, H)]))
    c2c, c2p, p2c = np.zeros((3, B, N, T, S), np.float32)
    for t in range(T):
        for s in range(S):
            c2c[:, :, t, s] = (q[:, t] * k[:, s]).sum(-1)
            c2p[:, :, t, s] = (q[:, t] * rel[row(t, s)]).sum(-1)
            p2c[:, :, t, s] = (k[:, s] * rel[row(t, s)]).sum(-1)
    q, k, rel = map(jnp.asarray, (q, k, rel))
    np.testing.assert_allclose(c2c_scores(q, k), c2c, atol=1e-5)
    np.testing.assert_allclose(c2p_scores(q, rel, rows_of(T, S)), c2p, atol=1e-5)
    np.testing.assert_allclose(p2c_scores(k, rel, rows_of(T, S)), p2c, atol=1e-5)


@pytest.mark.parametrize(("T", "S"), [(64, 64), (65, 65), (130, 70), (63, 129), (128, 192)])
def test_scores_hold_across_the_blocks_of_queries(T, S):
    q, k, rel = normal(0, B, T, N, H), normal(1, B, S, N, H), normal(2, R, N, H)
    index = np.asarray([[row(t, s) for s in range(S)] for t in range(T)])
    gathered = jnp.einsum("BTNH,TSNH->BNTS", q, rel[index])
    np.testing.assert_allclose(c2p_scores(q, rel, rows_of(T, S)), gathered, atol=1e-5)
    gathered = jnp.einsum("BSNH,TSNH->BNTS", k, rel[index])
    np.testing.assert_allclose(p2c_scores(k, rel, rows_of(T, S)), gathered, atol=1e-5)


def test_the_shift_reads_each_row_one_entry_earlier():
    shifted = relative_shift(jnp.arange(12.0).reshape(1, 3, 4))
    assert shifted.tolist() == [[[2.0, 3.0], [5.0, 6.0], [8.0, 9.0]]]


@pytest.mark.parametrize("T", [1, 40, 70])
def test_the_gradient_of_the_shift_is_its_transpose(T):
    scores, gradient = normal(0, 2, T, T + 8), normal(1, 2, T, 9)
    shifted, pull = jax.vjp(relative_shift, scores)
    np.testing.assert_allclose((shifted * gradient).sum(), (scores * pull(gradient)[0]).sum(), rtol=1e-5)
    assert int((pull(jnp.ones_like(gradient))[0] != 0).sum()) == gradient.size


def test_derivatives_are_taken_forward_and_twice():
    (q, k, v, rel_k, rel_q), rows = everything(70)
    mask = jnp.arange(70)[None, None, None, :] < 60

    def total(q):
        options = {"rows": rows, "mask": mask, "implementation": "all_heads"}
        return jnp.square(disentangled_attention(q, k, v, rel_k, rel_q, **options)).sum()

    direction = normal(9, *q.shape)
    gradient = jax.grad(total)(q)
    np.testing.assert_allclose(jax.jvp(total, (q,), (direction,))[1], (gradient * direction).sum(), rtol=1e-3)
    forward_over_reverse = jax.jvp(jax.grad(total), (q,), (direction,))[1]
    reverse_over_reverse = jax.grad(lambda q: (jax.grad(total)(q) * direction).sum())(q)
    np.testing.assert_allclose(forward_over_reverse, reverse_over_reverse, atol=1e-4)
    one = jax.vmap(lambda x: relative_shift(x), in_axes=1)(normal(1, 3, 2, 5, 9))
    assert one.shape == (2, 3, 5, 5)


def test_scores_of_hidden_keys_may_be_anything():
    mask = jnp.asarray([[[[False, True, True], [False, False, False]]]])
    for odd in (jnp.nan, jnp.inf, -jnp.inf):
        scores = jnp.asarray([[[[odd, 1.0, 1.0], [odd, odd, odd]]]])
        assert masked_softmax(scores, mask).tolist() == [[[[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("implementation", ["all_heads", "head_by_head"])
@pytest.mark.parametrize(("T", "S"), [(3, 70), (70, 3), (65, 64)])
def test_queries_and_keys_need_not_be_as_many(T, S, implementation):
    q, k, v = normal(0, B, T, N, H), normal(1, B, S, N, H), normal(2, B, S, N, H)
    rel_k, rel_q = normal(3, R, N, H), normal(4, R, N, H)
    index = np.asarray([[row(t, s) for s in range(S)] for t in range(T)])

    def attend(q, k, v, rel_k, rel_q):
        options = {"rows": rows_of(T, S), "implementation": implementation}
        return disentangled_attention(q, k, v, rel_k, rel_q, **options)

    def plainly(q, k, v, rel_k, rel_q):
        terms = [("BTNH,BSNH->BNTS", q, k), ("BTNH,TSNH->BNTS", q, rel_k[index]), ("BSNH,TSNH->BNTS", k, rel_q[index])]
        scores = sum(jnp.einsum(*term) for term in terms) / math.sqrt(3 * H)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores), v)

    (ours, pull), (plain, plain_pull) = (jax.vjp(one, q, k, v, rel_k, rel_q) for one in (attend, plainly))
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    for gradient, wanted in zip(pull(v[:, :1] + jnp.cos(ours)), plain_pull(v[:, :1] + jnp.cos(ours)), strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=1e-4)


def test_gathered_queries_score_as_they_do_among_all():
    T, M = 70, 5
    q, rel, positions = normal(0, B, T, N, H), normal(1, R, N, H), jnp.asarray([[3, 69, 0, 64, 3], [1, 2, 3, 4, 5]])
    all_scores = c2p_scores(q, rel, rows_of(T, T))
    chosen = jnp.take_along_axis(q, positions[..., None, None], axis=1)
    some = c2p_scores_at(chosen, rel, rows_of(T, T), positions)
    assert some.shape == (B, N, M, T)
    np.testing.assert_allclose(some, rows_at(all_scores, positions), atol=1e-6)


def everything(T=12, S=None, dtype=jnp.float32):
    S = S or T
    tensors = (
        normal(0, B, T, N, H),
        normal(1, B, S, N, H),
        normal(2, B, S, N, H),
        normal(3, R, N, H),
        normal(4, R, N, H),
    )
    return tuple(x.astype(dtype) for x in tensors), rows_of(T, S)


@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True), (False, False)])
def test_attention_is_the_softmax_of_the_active_terms(terms):
    (q, k, v, rel_k, rel_q), rows = everything()
    rel_k, rel_q = (rel if active else None for rel, active in zip((rel_k, rel_q), terms, strict=True))
    scores = c2c_scores(q, k)
    scores = scores if rel_k is None else scores + c2p_scores(q, rel_k, rows)
    scores = scores if rel_q is None else scores + p2c_scores(k, rel_q, rows)
    probabilities = jax.nn.softmax(scores / math.sqrt(H * (1 + sum(terms))))
    np.testing.assert_allclose(attention_probabilities(q, k, rel_k, rel_q, rows=rows), probabilities, atol=1e-6)
    context = jnp.einsum("BNTS,BSNH->BTNH", probabilities, v)
    np.testing.assert_allclose(disentangled_attention(q, k, v, rel_k, rel_q, rows=rows), context, atol=1e-6)


@pytest.mark.parametrize("implementation", ["all_heads", "head_by_head"])
def test_gathered_queries_attend_as_they_do_among_all(implementation):
    (q, k, v, rel_k, rel_q), rows = everything()
    real, at = jnp.arange(12) < jnp.asarray([[12], [7]]), jnp.asarray([[11, 0, 3], [6, 6, 2]])
    options = {"rows": rows, "implementation": implementation}
    among = disentangled_attention(q, k, v, rel_k, rel_q, mask=make_attention_mask(real), **options)
    mask, chosen = make_attention_mask(real, query_positions=at), jnp.take_along_axis(q, at[..., None, None], axis=1)
    alone = disentangled_attention(chosen, k, v, rel_k, rel_q, query_positions=at, mask=mask, **options)
    np.testing.assert_allclose(alone, jnp.take_along_axis(among, at[..., None, None], axis=1), atol=1e-6)


def test_relative_terms_without_rows_are_refused():
    (q, k, v, rel_k, rel_q), _ = everything()
    with pytest.raises(ValueError, match="relative_index"):
        disentangled_attention(q, k, v, rel_k, rel_q)


@pytest.mark.parametrize("masked", ["none", "padding", "heads"])
def test_one_head_after_the_other_is_all_at_once(masked):
    (q, k, v, rel_k, rel_q), rows = everything(70)
    mask = None
    if masked == "padding":
        mask = make_attention_mask(jnp.arange(70)[None] < jnp.asarray([[70], [31]]))
    if masked == "heads":
        mask = jax.random.bernoulli(jax.random.key(9), 0.7, (B, N, 70, 70))

    def run(q, k, v, rel_k, rel_q, implementation):
        options = {"dropout_rate": 0.3, "key": jax.random.key(3), "implementation": implementation}
        out = disentangled_attention(q, k, v, rel_k, rel_q, rows=rows, mask=mask, **options)
        return jnp.square(out).sum(), out

    both = [
        jax.value_and_grad(run, argnums=(0, 1, 2, 3, 4), has_aux=True)(q, k, v, rel_k, rel_q, implementation)
        for implementation in ("all_heads", "head_by_head")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), *both)


@pytest.mark.parametrize("implementation", ["all_heads", "head_by_head"])
def test_a_row_that_sees_no_key_is_zero_with_finite_gradients(implementation):
    (q, k, v, rel_k, rel_q), rows = everything()
    real = jnp.arange(12)[None] < jnp.asarray([[12], [5]])

    def total(q, k, v, rel_k, rel_q):
        out = disentangled_attention(
            q, k, v, rel_k, rel_q, rows=rows, mask=make_attention_mask(real), implementation=implementation
        )
        return out.sum(), out

    gradients, out = jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)(q, k, v, rel_k, rel_q)
    assert (out[1, 5:] == 0).all()
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, 5:] == 0).all()


def test_what_a_query_may_see():
    real, segments = jnp.asarray([[True, True, True, False]]), jnp.asarray([[1, 1, 2, 0]])
    assert make_attention_mask(real)[0, 0].astype(int).tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    both = make_attention_mask(real, segments)[0, 0].astype(int).tolist()
    assert both == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    causal = jnp.tril(jnp.ones((1, 1, 4, 4), bool))
    assert (make_attention_mask(real, segments, causal) == (make_attention_mask(real, segments) & causal)).all()
    at = jnp.asarray([[2, 0]])
    assert make_attention_mask(real, segments, causal, at)[0, 0].astype(int).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert make_attention_mask() is None


def test_softmax_over_visible_keys_sums_to_one():
    scores, mask = normal(0, 1, 1, 3, 4) * 100, jnp.asarray([[[[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]]], bool)
    np.testing.assert_allclose(masked_softmax(scores, mask).sum(-1)[0, 0], [1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_are_float32_and_the_result_follows_the_values(dtype):
    (q, k, v, rel_k, rel_q), rows = everything(dtype=dtype)
    assert attention_probabilities(q, k, rel_k, rel_q, rows=rows).dtype == jnp.float32
    out = disentangled_attention(q, k, v, rel_k, rel_q, rows=rows)
    assert out.dtype == dtype
    (q, k, v, rel_k, rel_q), rows = everything()
    exact = disentangled_attention(q, k, v, rel_k, rel_q, rows=rows)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=1e-6 if dtype == jnp.float32 else 0.05)


def test_the_tables_gradient_is_exact_where_many_distances_share_a_row():
    T = 1024
    tensors = [normal(i, 1, T, 1, H) for i in range(3)] + [normal(i, R, 1, H) for i in (3, 4)]
    rows = relative_index(T, T, buckets=BUCKETS, max_distance=DISTANCE)

    def gradients(dtype):
        def total(*tensors):
            out = disentangled_attention(*tensors, rows=rows, implementation="all_heads")
            return jnp.square(out.astype(jnp.float32)).sum()

        # The values of bfloat16 for both, so that only the arithmetic differs.
        rounded = [x.astype(jnp.bfloat16).astype(dtype) for x in tensors]
        return jax.jit(jax.grad(total, argnums=(3, 4)))(*rounded)

    for ours, exact in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        error = jnp.linalg.norm(ours.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
        assert error < 0.01


def test_float64_stays_float64():
    with jax.enable_x64(True):
        tensors = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(B, 6, N, H)] * 3)]
        assert disentangled_attention(*map(jnp.asarray, tensors)).dtype == jnp.float64


@pytest.mark.parametrize("implementation", ["all_heads", "head_by_head"])
def test_dropout_needs_a_key_and_keeps_the_mean(implementation):
    (q, k, v, rel_k, rel_q), rows = everything()
    arguments = {"rows": rows, "dropout_rate": 0.5, "implementation": implementation}
    still = disentangled_attention(q, k, v, rel_k, rel_q, **arguments)
    assert (still == disentangled_attention(q, k, v, rel_k, rel_q, **(arguments | {"dropout_rate": 0.0}))).all()
    keys = jax.random.split(jax.random.key(0), 3000)
    assert not (still == disentangled_attention(q, k, v, rel_k, rel_q, **arguments, key=jax.random.key(0))).all()
    drawn = jax.vmap(lambda key: disentangled_attention(q, k, v, rel_k, rel_q, **arguments, key=key))(keys)
    assert float(jnp.abs(drawn[0] - still).max()) > 0.01
    np.testing.assert_allclose(drawn.mean(0), still, atol=0.12)


def test_no_gather_over_queries_and_keys():
    T = 96
    (q, k, v, rel_k, rel_q), rows = everything(T)

    def total(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, rows=rows, implementation="all_heads").sum()

    jaxpr = jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(q, k, v, rel_k, rel_q)
    moved = [
        math.prod(equation.invars[1].aval.shape[:-1])
        for equation in _equations(jaxpr.jaxpr)
        if equation.primitive.name in ("gather", "scatter", "scatter-add")
    ]
    # One read for a row of the relative table, or for a whole run of scores: far fewer than there are pairs.
    assert moved
    assert max(moved) < T * T / 16


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
