"""Training steps of masked language modeling with the real model: mask decoder, convolution, packing, dropout."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_batches import packed_batch
from small_states import state_of
from toy_configs import toy_config

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.ops.positions import relative_index
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.optimizer import is_decayed, learning_rate, make_optimizer
from deberta_jax.training.sizes import sizes
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step, place

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
CONFIG = toy_config(hidden_size=64, intermediate_size=160, conv_kernel_size=3, **DROPOUT)
OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup=0.0)
# Compiles faster.
PLAIN = dataclasses.replace(CONFIG, conv_kernel_size=0, relative_attention=False, position_biased_input=True)
# Activations must be larger than parameters. Otherwise XLA gathers activations for a gradient, the cheaper choice.
ROWS = 48


def build(key, config=CONFIG):
    return MaskedLM(config, key=key)


def training(shape, accumulate=1, config=CONFIG):
    """Mesh, compiled step (on first use) and abstract state."""
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    optimizer = make_optimizer(OPTIMIZER, 10)
    abstract = abstract_state(lambda key: build(key, config), optimizer, 0, mesh)
    step = make_step(
        masked_lm_objective, optimizer, learning_rate(OPTIMIZER, 10), shardings(abstract, mesh), accumulate
    )
    return mesh, step, abstract


def losses(model, shape):
    mesh, step, _ = training(shape)
    state, history = state_of(model, build, make_optimizer(OPTIMIZER, 10), mesh), []
    for number in range(2):
        state, metrics = step(state, place(packed_batch(number, ROWS), mesh))
        history.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return history


def test_a_mesh_of_all_axes_trains_like_one_device_with_dropout():
    model = jax.jit(build)(jax.random.key(0))
    np.testing.assert_allclose(losses(model, (2, 2, 2)), losses(model, (1, 1, 1)), rtol=1e-5)


@pytest.mark.parametrize(("accumulate", "config"), [(1, PLAIN), (2, CONFIG)])
def test_an_fsdp_step_gathers_parameters_but_no_activations(accumulate, config):
    mesh, step, abstract = training((1, 8, 1), accumulate, config)
    batch = place(packed_batch(0, ROWS), mesh)
    text = step.lower(abstract, batch).compile().as_text()
    results = re.findall(r"= (\(?[^=]*?\)?) all-gather(?:-start)?\(", text)
    gathered = {
        tuple(int(size) for size in dims.split(",") if size != "1")
        for result in results
        for dims in re.findall(r"(?:f|bf)\d+\[([\d,]+)\]", result)
    }
    parameters = {leaf.shape for leaf in jax.tree.leaves(abstract.model)}
    parameters |= {shape[1:] for shape in parameters}
    if config.relative_attention:
        # Of the relative table, the rows that occur.
        T = batch["input_ids"].shape[1]
        index = relative_index(T, T, buckets=config.position_buckets, max_distance=config.max_distance)
        parameters.add((index.max() - index.min() + 1, config.hidden_size))
    whole = {tuple(sorted(shape)) for shape in parameters}
    assert gathered, "nothing is gathered: the parameters are not sharded"
    assert {tuple(sorted(shape)) for shape in gathered} <= whole


def test_optimizer_moments_are_sharded_like_their_parameters():
    _, _, abstract = training((1, 8, 1))
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    moments = state_shardings.optimizer_state[1]
    assert jax.tree.leaves(moments.mu) == jax.tree.leaves(state_shardings.model) == jax.tree.leaves(moments.nu)
    large = [leaf for leaf in jax.tree.leaves(abstract.model) if leaf.size > 1000]
    assert large and not any(leaf.sharding.is_fully_replicated for leaf in large)


def test_biases_and_layer_norms_do_not_decay_but_embeddings_do():
    _, _, abstract = training((1, 1, 1))
    names = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(is_decayed(abstract.model))
    }
    assert {name.rsplit(".")[-1] for name, decays in names.items() if decays} <= {"kernel", "embedding"}
    assert {name.rsplit(".")[-1] for name, decays in names.items() if not decays} == {"bias", "scale"}
    assert names["deberta.encoder.relative.embedding"] and names["deberta.embeddings.word.embedding"]


def test_sizes_of_the_largest_model_are_computed_without_allocating_it():
    mesh = make_mesh(1, 8, 1)

    def build(key):
        return MaskedLM(PRESETS["v2-xxlarge"], key=key, dtype=jnp.bfloat16, remat="full")

    abstract = abstract_state(build, make_optimizer(OPTIMIZER, 0), 0, mesh)
    widths = dict.fromkeys(("input_ids", "segment_ids", "position_ids"), 512)
    widths |= dict.fromkeys(("masked_positions", "labels"), 80)
    batch = {name: jax.ShapeDtypeStruct((256, width), jnp.int32) for name, width in widths.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((256, 80), jnp.float32)
    size = sizes(lambda model, batch, number: masked_lm_objective(model, batch, None), abstract, batch)
    assert size.parameters == pytest.approx(1.567e9, rel=1e-3)
    assert size.state_bytes == pytest.approx(12 * size.parameters, rel=1e-3)
    assert size.device_bytes == pytest.approx(size.state_bytes / 8, rel=0.01)
    assert 1.1e15 < size.step_flops < 1.4e15
    assert "1,567," in str(size)
