import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_tensors import BUCKETS, DISTANCE, B, H, N, R, index_for, make_tensors, normal, row

from deberta_jax.ops.attention import IMPLEMENTATIONS, disentangled_attention
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.relative_shift import relative_shift
from deberta_jax.ops.scores import attention_probabilities


def test_forward_mode_and_second_derivatives():
    (q, k, v, rel_k, rel_q), index = make_tensors(70)
    mask = jnp.arange(70)[None, None, None, :] < 60

    def total(q):
        options = {"index": index, "mask": mask, "implementation": "xla"}
        return jnp.square(disentangled_attention(q, k, v, rel_k, rel_q, **options)).sum()

    direction = normal(9, *q.shape)

    @jax.jit
    def derivatives(q):
        gradient, forward_over_reverse = jax.jvp(jax.grad(total), (q,), (direction,))
        reverse_over_reverse = jax.grad(lambda q: (jax.grad(total)(q) * direction).sum())(q)
        return gradient, jax.jvp(total, (q,), (direction,))[1], forward_over_reverse, reverse_over_reverse

    gradient, along, forward_over_reverse, reverse_over_reverse = derivatives(q)
    np.testing.assert_allclose(along, (gradient * direction).sum(), rtol=1e-3)
    np.testing.assert_allclose(forward_over_reverse, reverse_over_reverse, atol=1e-4)
    one = jax.vmap(lambda x: relative_shift(x), in_axes=1)(normal(1, 3, 2, 5, 9))
    assert one.shape == (2, 3, 5, 5)


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
@pytest.mark.parametrize(("T", "S"), [(3, 70), (70, 3), (65, 64)])
def test_queries_and_keys_may_differ_in_number(T, S, implementation):
    q, k, v = normal(0, B, T, N, H), normal(1, B, S, N, H), normal(2, B, S, N, H)
    rel_k, rel_q = normal(3, R, N, H), normal(4, R, N, H)
    index = np.asarray([[row(t, s) for s in range(S)] for t in range(T)])

    def attend(q, k, v, rel_k, rel_q):
        options = {"index": index_for(T, S), "implementation": implementation}
        return disentangled_attention(q, k, v, rel_k, rel_q, **options)

    def plainly(q, k, v, rel_k, rel_q):
        terms = [("BTNH,BSNH->BNTS", q, k), ("BTNH,TSNH->BNTS", q, rel_k[index]), ("BSNH,TSNH->BNTS", k, rel_q[index])]
        scores = sum(jnp.einsum(*term) for term in terms) / math.sqrt(3 * H)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores), v)

    @jax.jit
    def both(*tensors):
        (ours, pull), (plain, plain_pull) = (jax.vjp(one, *tensors) for one in (attend, plainly))
        cotangent = v[:, :1] + jnp.cos(ours)
        return (ours, plain), (pull(cotangent), plain_pull(cotangent))

    (ours, plain), gradients = both(q, k, v, rel_k, rel_q)
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    for gradient, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-4)


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
def test_gathered_queries_have_the_context_of_all_queries(implementation):
    (q, k, v, rel_k, rel_q), index = make_tensors()
    real, at = jnp.arange(12) < jnp.asarray([[12], [7]]), jnp.asarray([[11, 0, 3], [6, 6, 2]])
    options = {"index": index, "implementation": implementation}
    among = disentangled_attention(q, k, v, rel_k, rel_q, mask=make_attention_mask(real), **options)
    mask, chosen = make_attention_mask(real, query_positions=at), jnp.take_along_axis(q, at[..., None, None], axis=1)
    alone = disentangled_attention(chosen, k, v, rel_k, rel_q, query_positions=at, mask=mask, **options)
    np.testing.assert_allclose(alone, jnp.take_along_axis(among, at[..., None, None], axis=1), atol=1e-6)


def test_relative_terms_without_an_index_raise():
    (q, k, v, rel_k, rel_q), _ = make_tensors()
    with pytest.raises(ValueError, match="relative_index"):
        disentangled_attention(q, k, v, rel_k, rel_q)


@pytest.mark.parametrize("masked", ["none", "padding", "heads"])
def test_one_head_at_a_time_equals_all_heads(masked):
    (q, k, v, rel_k, rel_q), index = make_tensors(70)
    mask = None
    if masked == "padding":
        mask = make_attention_mask(jnp.arange(70)[None] < jnp.asarray([[70], [31]]))
    if masked == "heads":
        mask = jax.random.bernoulli(jax.random.key(9), 0.7, (B, N, 70, 70))

    def run(q, k, v, rel_k, rel_q, implementation):
        options = {"dropout_rate": 0.3, "key": jax.random.key(3), "implementation": implementation}
        out = disentangled_attention(q, k, v, rel_k, rel_q, index=index, mask=mask, **options)
        return jnp.square(out).sum(), out

    run_with_gradients = jax.value_and_grad(run, argnums=(0, 1, 2, 3, 4), has_aux=True)
    both = [
        jax.jit(run_with_gradients, static_argnums=5)(q, k, v, rel_k, rel_q, implementation)
        for implementation in ("xla", "xla_per_head")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), *both)


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
def test_a_query_without_visible_keys_is_zero_with_finite_gradients(implementation):
    (q, k, v, rel_k, rel_q), index = make_tensors()
    real = jnp.arange(12)[None] < jnp.asarray([[12], [5]])

    def total(q, k, v, rel_k, rel_q):
        out = disentangled_attention(
            q, k, v, rel_k, rel_q, index=index, mask=make_attention_mask(real), implementation=implementation
        )
        return out.sum(), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))(q, k, v, rel_k, rel_q)
    assert (out[1, 5:] == 0).all()
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, 5:] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_are_float32_and_the_result_follows_the_values(dtype):
    (q, k, v, rel_k, rel_q), index = make_tensors(dtype=dtype)
    assert attention_probabilities(q, k, rel_k, rel_q, index=index).dtype == jnp.float32
    out = disentangled_attention(q, k, v, rel_k, rel_q, index=index)
    assert out.dtype == dtype
    (q, k, v, rel_k, rel_q), index = make_tensors()
    exact = disentangled_attention(q, k, v, rel_k, rel_q, index=index)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=1e-6 if dtype == jnp.float32 else 0.05)


def test_the_tables_gradient_is_exact_where_many_distances_share_a_row():
    T = 1024
    tensors = [normal(i, 1, T, 1, H) for i in range(3)] + [normal(i, R, 1, H) for i in (3, 4)]
    index = relative_index(T, T, buckets=BUCKETS, max_distance=DISTANCE)

    def gradients(dtype):
        def total(*tensors):
            out = disentangled_attention(*tensors, index=index, implementation="xla")
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


@pytest.mark.parametrize("implementation", ["xla", "xla_per_head"])
def test_dropout_needs_a_key_and_preserves_the_mean(implementation):
    (q, k, v, rel_k, rel_q), index = make_tensors()
    arguments = {"index": index, "dropout_rate": 0.5, "implementation": implementation}
    still = disentangled_attention(q, k, v, rel_k, rel_q, **arguments)
    assert (still == disentangled_attention(q, k, v, rel_k, rel_q, **(arguments | {"dropout_rate": 0.0}))).all()
    keys = jax.random.split(jax.random.key(0), 3000)
    assert not (still == disentangled_attention(q, k, v, rel_k, rel_q, **arguments, key=jax.random.key(0))).all()
    drawn = jax.jit(jax.vmap(lambda key: disentangled_attention(q, k, v, rel_k, rel_q, **arguments, key=key)))(keys)
    assert float(jnp.abs(drawn[0] - still).max()) > 0.01
    np.testing.assert_allclose(drawn.mean(0), still, atol=0.12)


def test_no_gather_over_queries_and_keys():
    T = 96
    (q, k, v, rel_k, rel_q), index = make_tensors(T)

    def total(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, index=index, implementation="xla").sum()

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


def test_an_unknown_implementation_is_an_error_that_lists_the_known_ones():
    (q, k, v, *_), _ = make_tensors()
    with pytest.raises(ValueError, match="implementation is 'fast', expected auto, xla, xla_per_head, cudnn, pallas"):
        disentangled_attention(q, k, v, implementation="fast")


def test_a_new_implementation_is_one_function_and_one_entry(monkeypatch):
    (q, k, v, rel_k, rel_q), index = make_tensors()

    def values_only(operands, *, index, scale, is_causal, dropout_rate):
        return 2 * operands.v

    monkeypatch.setitem(IMPLEMENTATIONS, "values_only", values_only)
    context = disentangled_attention(q, k, v, rel_k, rel_q, index=index, implementation="values_only")
    np.testing.assert_array_equal(context, 2 * v)
