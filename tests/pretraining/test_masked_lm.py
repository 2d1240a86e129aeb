"""The step with the real model: enhanced mask decoder, convolution, packed documents, dropout."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.objectives import masked_lm
from deberta_jax.sharding import make_mesh
from deberta_jax.training.optimizer import OptimizerConfig, is_decayed, learning_rate, make_optimizer
from deberta_jax.training.sizes import sizes
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import make_step, place

CONFIG = dataclasses.replace(
    PRESETS["tiny"],
    vocab_size=352,
    hidden_size=64,
    num_attention_heads=4,
    intermediate_size=160,
    conv_kernel_size=3,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)
OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup=0.0)
# Enough rows that activations are larger than parameters: below that, gathering an activation is the cheaper choice.
ROWS, LENGTH, MASKED = 48, 18, 5


def batch(number):
    rng = np.random.default_rng(number)
    positions = np.arange(LENGTH)
    first = positions < 11
    return {
        "input_ids": rng.integers(5, 352, (ROWS, LENGTH)).astype(np.int32),
        "segment_ids": np.tile(np.where(first, 1, np.where(positions < 16, 2, 0)), (ROWS, 1)).astype(np.int32),
        "position_ids": np.tile(np.where(first, positions, positions - 11), (ROWS, 1)).astype(np.int32),
        "masked_positions": np.tile(np.array([1, 4, 9, 12, 15]), (ROWS, 1)).astype(np.int32),
        "labels": rng.integers(5, 352, (ROWS, MASKED)).astype(np.int32),
        "label_weights": (rng.random((ROWS, MASKED)) < 0.8).astype(np.float32),
    }


def parts(shape, accumulate=1, remat="none"):
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    optimizer = make_optimizer(OPTIMIZER, 10)

    def build(key):
        return MaskedLM(CONFIG, key=key, remat=remat)

    abstract = abstract_state(build, optimizer, 0, mesh)
    step = make_step(masked_lm, optimizer, learning_rate(OPTIMIZER, 10), shardings(abstract, mesh), accumulate)
    return mesh, step, abstract, lambda: initial_state(build, optimizer, 0, mesh)


def losses(shape, **settings):
    mesh, step, _, initial = parts(shape, **settings)
    state = initial()
    history = []
    for number in range(2):
        state, metrics = step(state, place(batch(number), mesh))
        history.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return history


def test_a_mesh_of_all_axes_trains_as_one_device_does_dropout_and_all():
    np.testing.assert_allclose(losses((2, 2, 2)), losses((1, 1, 1)), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_fsdp_step_gathers_no_activations(accumulate):
    mesh, step, abstract, _ = parts((1, 8, 1), accumulate)
    text = step.lower(abstract, place(batch(0), mesh)).compile().as_text()
    results = re.findall(r"= (\(?[^=]*?\)?) all-gather(?:-start)?\(", text)
    gathered = {
        tuple(int(size) for size in dims.split(",") if size != "1")
        for result in results
        for dims in re.findall(r"(?:f|bf)\d+\[([\d,]+)\]", result)
    }
    parameters = {leaf.shape for leaf in jax.tree.leaves(abstract.model)}
    whole = {tuple(sorted(shape)) for shape in parameters | {shape[1:] for shape in parameters}}
    assert gathered, "nothing is gathered: the parameters were not split"
    assert {tuple(sorted(shape)) for shape in gathered} <= whole


def test_moments_of_every_parameter_are_split_as_it_is():
    _, _, abstract, _ = parts((1, 8, 1))
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    moments = places.optimizer_state[1]
    assert jax.tree.leaves(moments.mu) == jax.tree.leaves(places.model) == jax.tree.leaves(moments.nu)
    split = [leaf for leaf in jax.tree.leaves(abstract.model) if leaf.size > 1000]
    assert split and not any(leaf.sharding.is_fully_replicated for leaf in split)


def test_biases_and_layer_norms_are_spared_decay_and_embeddings_are_not():
    _, _, abstract, _ = parts((1, 1, 1))
    decayed = jax.tree_util.tree_leaves_with_path(is_decayed(abstract.model))
    names = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): decays
        for path, decays in decayed
    }
    assert {name.rsplit(".")[-1] for name, decays in names.items() if decays} <= {"kernel", "embedding"}
    assert {name.rsplit(".")[-1] for name, decays in names.items() if not decays} == {"bias", "scale"}
    assert names["deberta.encoder.relative.embedding"] and names["deberta.embeddings.word.embedding"]


def test_sizes_of_the_largest_model_are_known_without_its_memory():
    mesh = make_mesh(1, 8, 1)

    def build(key):
        return MaskedLM(PRESETS["v2-xxlarge"], key=key, dtype=jnp.bfloat16, remat="full")

    abstract = abstract_state(build, make_optimizer(OPTIMIZER, 0), 0, mesh)
    example = {
        name: jax.ShapeDtypeStruct((256, 512), jnp.int32) for name in ("input_ids", "segment_ids", "position_ids")
    }
    masked = {name: jax.ShapeDtypeStruct((256, 80), jnp.int32) for name in ("masked_positions", "labels")}
    found = sizes(
        lambda model, batch, number: masked_lm(model, batch, None),
        abstract,
        example | masked | {"label_weights": jax.ShapeDtypeStruct((256, 80), jnp.float32)},
    )
    assert found.parameters == pytest.approx(1.567e9, rel=1e-3)
    assert found.state_bytes == pytest.approx(12 * found.parameters, rel=1e-3)
    assert found.device_bytes == pytest.approx(found.state_bytes / 8, rel=0.01)
    assert 1.1e15 < found.step_flops < 1.4e15
    assert "1,567," in str(found)
