import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deberta_jax.errors import InputError
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import batch_sharding, constrain, make_mesh


def test_a_mesh_infers_one_size():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(data=2, fsdp=-1, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 3, "fsdp": -1}, {"data": -1, "fsdp": -1}, {"data": 0}])
def test_a_mesh_that_does_not_match_the_devices_is_an_error(sizes):
    with pytest.raises(InputError, match="mesh"):
        make_mesh(**sizes)


def test_parameters_are_sharded_by_their_logical_axes():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    model = jax.eval_shape(lambda key: MaskedLM(PRESETS["tiny"], key=key), jax.random.key(0))
    parameter_shardings = shardings(model, mesh)
    layer = parameter_shardings.deberta.encoder.layers
    assert layer.attention.query.kernel.get_value().spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert layer.attention.output.kernel.get_value().spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert layer.up.kernel.get_value().spec == PartitionSpec(None, "fsdp", "tensor")
    assert layer.down.kernel.get_value().spec == PartitionSpec(None, "tensor", "fsdp")
    assert parameter_shardings.deberta.embeddings.word.embedding.get_value().spec == PartitionSpec("tensor", "fsdp")


def test_an_axis_that_the_mesh_does_not_divide_is_not_sharded():
    mesh = make_mesh(data=1, fsdp=8)
    odd = nnx.Param(jnp.zeros((3, 16)), axes=("embed", "mlp"))
    assert shardings(odd, mesh).get_value().spec == PartitionSpec(None, "tensor")


def test_every_parameter_names_each_of_its_axes():
    model = jax.eval_shape(lambda key: MaskedLM(PRESETS["v2-xlarge"], key=key), jax.random.key(0))
    is_parameter = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    for path, parameter in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_parameter):
        stacked = "layers" in jax.tree_util.keystr(path)
        assert len(parameter.get_metadata()["axes"]) == len(parameter.shape) - stacked, jax.tree_util.keystr(path)


def test_activations_are_constrained_only_on_a_mesh():
    x = jnp.ones((8, 4))
    assert constrain(x, "batch", None) is x
    with jax.set_mesh(make_mesh(data=4, fsdp=2)):
        assert jax.jit(lambda x: constrain(x, "batch", None))(x).sharding.spec[0] == ("data", "fsdp")


def mesh_of(sizes, axes):
    return jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes))


RULES = {"embed": "x", "mlp": "y", "heads": ("y",), "vocab": None}


def test_rules_shard_parameters_over_the_axes_of_any_mesh():
    mesh = mesh_of((4, 2), ("x", "y"))
    model = jax.eval_shape(lambda key: MaskedLM(PRESETS["tiny"], key=key), jax.random.key(0))
    parameter_shardings = shardings(model, mesh, RULES)
    layer = parameter_shardings.deberta.encoder.layers
    assert layer.attention.query.kernel.get_value().spec == PartitionSpec(None, "x", "y", None)
    assert layer.down.kernel.get_value().spec == PartitionSpec(None, "y", "x")
    assert parameter_shardings.deberta.embeddings.word.embedding.get_value().spec == PartitionSpec(None, "x")
    both = shardings(model, mesh, {"mlp": ("x", "y")}).deberta.encoder.layers
    assert both.up.kernel.get_value().spec == PartitionSpec(None, None, ("x", "y"))
    assert both.attention.query.kernel.get_value().spec == PartitionSpec(None, None, None, None)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"width": "x"},
            "rules: no logical axis width; the logical axes are batch, sequence, embed, mlp, heads, vocab",
        ),
        ({"embed": ("x", "fsdp")}, "rules: embed is mapped to fsdp, but the axes of the mesh are x, y"),
        ({"embed": "x", "mlp": "x"}, "with the logical axes mlp, embed would be sharded over x twice"),
        (None, "the mesh has the axes x, y, none of data, fsdp, tensor; pass `rules`"),
    ],
)
def test_rules_that_do_not_fit_the_mesh_are_refused_in_one_line(rules, message):
    model = jax.eval_shape(lambda key: MaskedLM(PRESETS["tiny"], key=key), jax.random.key(0))
    with pytest.raises(InputError, match=message) as error:
        shardings(model, mesh_of((4, 2), ("x", "y")), rules)
    assert "\n" not in str(error.value)


def test_a_mesh_with_some_of_the_default_axes_needs_no_rules():
    mesh = mesh_of((8,), ("data",))
    x = nnx.Param(jnp.zeros((8, 16)), axes=("embed", "mlp"))
    assert shardings(x, mesh).get_value().spec == PartitionSpec(None, None)
    assert batch_sharding(mesh).spec == PartitionSpec(("data",))
    with jax.set_mesh(mesh):
        assert jax.jit(lambda x: constrain(x, "batch", None))(jnp.ones((8, 4))).sharding.spec[0] == "data"


def test_a_model_on_a_mesh_with_other_axes_equals_one_device():
    config = PRESETS["tiny"]
    mesh = mesh_of((4, 2), ("x", "y"))
    model = MaskedLM(config, key=jax.random.key(0))
    ids = np.random.default_rng(0).integers(5, config.vocab_size, (8, 24))
    expected = jax.jit(lambda model, ids: model(ids))(model, ids)
    with jax.set_mesh(mesh):
        placed = jax.device_put(model, shardings(model, mesh, RULES))
        logits = jax.jit(lambda model, ids: model(ids))(
            placed, jax.device_put(ids, NamedSharding(mesh, PartitionSpec("x")))
        )
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_a_sharded_model_equals_one_device():
    config = PRESETS["tiny"]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    model = MaskedLM(config, key=jax.random.key(0))
    ids = np.random.default_rng(0).integers(5, config.vocab_size, (8, 24))
    expected = jax.jit(lambda model, ids: model(ids))(model, ids)
    with jax.set_mesh(mesh):
        placed = jax.device_put(model, shardings(model, mesh))
        logits = jax.jit(lambda model, ids: model(ids))(placed, jax.device_put(ids, batch_sharding(mesh)))
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_with_tensor_parallel_products_the_states_between_layers_are_split_over_the_sequence():
    config = PRESETS["tiny"]
    model = MaskedLM(config, key=jax.random.key(0))
    mesh, shapes = make_mesh(data=2, fsdp=1, tensor=4), []

    def each(state, layer):
        jax.debug.inspect_array_sharding(
            state, callback=lambda sharding: shapes.append(sharding.shard_shape(state.shape))
        )
        return state

    ids = np.ones((8, 24), np.int32)
    with jax.set_mesh(mesh):
        placed = jax.device_put(model, shardings(model, mesh))
        jax.jit(lambda model, ids: model.deberta(ids, each=each).last_hidden_state)(placed, ids)
    assert set(shapes) == {(4, 6, config.hidden_size)}
