"""Models under JAX's transformations, meshes and strict settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from small_models import IDS, MASK, call, masked_lm

from deberta_jax.model.shardings import shardings
from deberta_jax.model.surgery import with_config

IDS8, MASK8 = jnp.tile(IDS, (4, 1)), jnp.tile(MASK, (4, 1))


def loss(model, ids, mask):
    return jnp.square(model(ids, mask)).mean()


@pytest.fixture(scope="module")
def model():
    return masked_lm("v2")


@pytest.fixture(scope="module")
def expected(model):
    return jax.jit(jax.value_and_grad(loss))(model, IDS8, MASK8)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), actual, expected)


def test_gradients_inside_shard_map_with_its_default_checks(model, expected):
    if jax.__version_info__ >= (0, 12):
        # `jax.lax.erf` of jax 0.12 fails inside shard_map: its polynomial has no varying axes (docs/api.md).
        model = with_config(model, hidden_act="gelu_new", conv_act="gelu_new")
        expected = jax.jit(jax.value_and_grad(loss))(model, IDS8, MASK8)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    batch = P(("data", "fsdp"))

    def gradients(model, ids, mask):
        def mean(model):
            return jax.lax.pmean(loss(model, ids, mask), ("data", "fsdp"))

        return jax.value_and_grad(mean)(model)

    run = jax.shard_map(gradients, mesh=mesh, in_specs=(P(), batch, batch), out_specs=P())
    assert_close(jax.jit(run)(model, IDS8, MASK8), expected)


def test_a_mesh_with_explicit_axes(model, expected):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        ids, mask = (jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (IDS8, MASK8))
        sharded = jax.device_put(model, shardings(model, mesh))
        assert_close(jax.jit(jax.value_and_grad(loss))(sharded, ids, mask), expected)
        output = jax.jit(lambda model: model(ids, mask, output_hidden_states=True))(sharded)
        assert jax.typeof(output.logits).sharding.spec[0] == "data"
        assert jax.typeof(output.hidden_states).sharding.spec[:2] == (None, "data")


def test_rank_promotion_may_be_forbidden(model, expected):
    with jax.numpy_rank_promotion("raise"):
        assert_close(jax.jit(jax.value_and_grad(loss))(model, IDS8, MASK8), expected)


def test_a_model_is_exported_with_a_symbolic_batch_size_and_no_constraints(model):
    (B,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((B, 12), jnp.int32)
    exported = export.export(jax.jit(lambda ids, mask: model(ids, mask)))(shape, shape)
    loaded = export.deserialize(exported.serialize())
    for ids, mask in ((IDS, MASK), (IDS8, MASK8)):
        actual = loaded.call(ids.astype(jnp.int32), mask.astype(jnp.int32))
        np.testing.assert_allclose(actual, call(model, ids, mask), atol=1e-5)


def test_derivatives_are_finite_for_a_sequence_of_padding(model):
    mask = MASK.at[1].set(0)
    tangents = jax.tree.map(jnp.ones_like, model)
    gradient = jax.grad(loss)

    @jax.jit
    def derivatives(model):
        first = jax.jvp(lambda model: loss(model, IDS, mask), (model,), (tangents,))
        return first, jax.jvp(lambda model: gradient(model, IDS, mask), (model,), (tangents,))

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(derivatives(model)))
