"""Models under JAX's transformations, meshes and strict settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from small_models import CONFIGS, IDS, MASK, call, masked_lm

from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.model.shardings import shardings
from deberta_jax.model.surgery import with_config

HEADS = [
    EntityScoring,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    ReplacedTokenDetection,
    SequenceClassification,
    TokenClassification,
]
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


@pytest.fixture
def explicit_mesh(model):
    """The default mesh of `jax.make_mesh`, with ids and a model on it."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    with jax.set_mesh(mesh):
        ids = jax.device_put(IDS8, NamedSharding(mesh, P("data")))
        yield jax.device_put(model.deberta, shardings(model.deberta, mesh)), ids


def test_a_function_of_each_layer_may_read_sharded_arrays_on_explicit_axes(model, explicit_mesh):
    sharded, ids = explicit_mesh

    def patched(model, ids, clean, vector):
        return model(ids, each=lambda x, n: jnp.where(n == 1, clean[1] + vector, x)).last_hidden_state

    def value(model, ids, clean, vector):
        return jnp.square(patched(model, ids, clean, vector)).mean()

    def states(model, ids):
        return model(ids, output_hidden_states=True).hidden_states[1:]

    vector = jnp.full((1, 1, 16), 0.5)
    clean = jax.jit(states)(sharded, ids)
    assert jax.typeof(clean).sharding.spec[:2] == (None, "data")
    # `clean` is a constant, an argument, and an argument with a gradient.
    constant = jax.jit(lambda model, ids: patched(model, ids, clean, vector))(sharded, ids)
    argument, gradients = jax.jit(lambda *arrays: (patched(*arrays), jax.grad(value, (2, 3))(*arrays)))(
        sharded, ids, clean, vector
    )
    np.testing.assert_allclose(constant, argument, atol=1e-5)
    assert jax.typeof(argument).sharding.spec[0] == "data"
    host = [np.asarray(x) for x in (IDS8, clean, vector)]
    expected = jax.jit(lambda model, *arrays: (patched(model, *arrays), jax.grad(value, (2, 3))(model, *arrays)))
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))):
        assert_close((argument, gradients), expected(model.deberta, *host))


def test_every_way_into_a_model_runs_on_explicit_axes(model, explicit_mesh):
    sharded, ids = explicit_mesh
    x = jax.device_put(jnp.ones((8, 12, 16)), ids.sharding)
    whole = masked_lm("v2")
    for result in (
        jax.eval_shape(lambda m: m.encoder(x, MASK8, start=1).last_hidden_state, sharded),
        jax.eval_shape(lambda m: m.encoder(x=x).last_hidden_state, sharded),
        jax.eval_shape(lambda m: m.embeddings.finish(m.embeddings.lookup(ids), MASK8.astype(bool)), sharded),
        jax.eval_shape(lambda m: m(None, MASK8, inputs_embeds=x).last_hidden_state, sharded),
        jax.eval_shape(lambda m: m(input_ids=None, inputs_embeds=x).last_hidden_state, sharded),
        jax.eval_shape(lambda m: m.states(ids, MASK8), whole),
        jax.eval_shape(lambda m: m.states(None, inputs_embeds=x, masked_positions=ids[:, :2] % 12), whole),
    ):
        assert result.sharding.spec[0] == "data"


def test_rank_promotion_may_be_forbidden(model, expected):
    with jax.numpy_rank_promotion("raise"):
        assert_close(jax.jit(jax.value_and_grad(loss))(model, IDS8, MASK8), expected)


@pytest.mark.parametrize("name", ["v2", "biased"])
@pytest.mark.parametrize("kind", HEADS)
def test_every_input_of_every_head_is_taken_without_rank_promotion(kind, name):
    tokens = dict.fromkeys(("token_type_ids", "segment_ids", "position_ids"), jnp.ones((2, 12), jnp.int32))
    inputs = tokens | {"attention_mask": MASK, "pair_mask": jnp.ones((1, 1, 12, 12), bool)}
    inputs |= {"input_ids": IDS, "bias": jnp.ones((1, 2, 1, 12))}
    own = {MaskedLM: {"masked_positions": IDS[:, :3]}, EntityScoring: {"entity_positions": IDS[:, :4].reshape(2, 2, 2)}}
    if kind is MultipleChoice:
        inputs = {name: x[:, None] for name, x in inputs.items()}
    options = {"output_hidden_states": True, "output_attentions": True, "depth": 2, "key": jax.random.key(0)}

    def run(key, inputs):
        return kind(CONFIGS[name], key=key)(**inputs, **options)

    with jax.numpy_rank_promotion("raise"):
        output = jax.eval_shape(run, options["key"], inputs | own.get(kind, {}))
    assert output.attentions.shape[:2] == (2, 2)


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
