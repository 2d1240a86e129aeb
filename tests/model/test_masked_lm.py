import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import BIASED, IDS, MASK, V3, call, ids_of, masked_lm

from deberta_jax.errors import InputError
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_packed_documents_decode_as_separate_sequences(name):
    model, ids = masked_lm(name), ids_of(1, 12)[0]
    segments, positions = jnp.asarray([[1] * 5 + [2] * 6 + [0]]), jnp.asarray([[*range(5), *range(6), 0]])
    packed = call(
        model,
        ids[None],
        segment_ids=segments,
        position_ids=positions,
        masked_positions=jnp.asarray([[1, 3, 5, 9]]),
    )
    separate = jnp.stack([jnp.pad(ids[:5], (0, 1)), ids[5:11]])
    mask = jnp.arange(6) < jnp.asarray([[5], [6]])
    alone = call(model, separate, mask, masked_positions=jnp.asarray([[1, 3], [0, 4]]))
    np.testing.assert_allclose(packed[0], alone.reshape(4, -1), atol=2e-5)


@pytest.mark.parametrize("name", ["v1", "v2", "biased"])
def test_masked_positions_have_the_logits_of_all_positions(name):
    model, at = masked_lm(name), jnp.asarray([[0, 4, 6], [2, 2, 7]])
    all_logits, masked_logits = call(model, IDS, MASK), call(model, IDS, MASK, masked_positions=at)
    np.testing.assert_allclose(masked_logits, jnp.take_along_axis(all_logits, at[..., None], axis=1), atol=2e-5)


def test_the_content_of_padding_does_not_reach_decoded_states_bit_for_bit():
    model, at = masked_lm("v2"), jnp.asarray([[0, 4, 6], [2, 2, 7]])
    run = jax.jit(lambda ids: model.states(ids, MASK, masked_positions=at))
    assert (run(IDS) == run(jnp.where(MASK == 1, IDS, ids_of(2, 12, seed=5)))).all()


def test_the_unused_pass_of_the_last_layer_is_not_computed():
    jaxpr = jax.make_jaxpr(lambda model: model(IDS, MASK))(masked_lm("v3")).jaxpr
    lengths = [equation.params["length"] for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert V3.num_hidden_layers - 1 in lengths
    assert V3.num_hidden_layers not in lengths


def test_the_decoder_exists_unless_the_input_contains_positions():
    assert masked_lm(V3).decoder is not None
    assert masked_lm(V3, enhanced_mask_decoder=False).decoder is None
    assert masked_lm(BIASED).decoder is None


@pytest.mark.parametrize(
    ("fields", "reason"), [({"embedding_size": 12}, "must be equal"), ({"num_hidden_layers": 1}, "at least 2")]
)
def test_an_impossible_decoder_is_an_error(fields, reason):
    with pytest.raises(InputError, match=reason):
        masked_lm(dataclasses.replace(V3, **fields))


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_bfloat16_computes_from_float32_parameters(name):
    exact, rough = masked_lm(name), masked_lm(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(rough)} == {jnp.dtype("float32")}
    assert jax.eval_shape(rough.states, IDS).dtype == jnp.bfloat16
    logits, expected = call(rough, IDS), call(exact, IDS)
    assert logits.dtype == jnp.float32
    assert jnp.abs(logits - expected).mean() < 0.05 * jnp.abs(expected).mean()
    gradients = jax.eval_shape(jax.grad(lambda model: jnp.square(model(IDS)).mean()), rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_dropout_needs_a_key():
    model, run = masked_lm("v2"), jax.jit(lambda model, key: model(IDS, key=key))
    dropped = run(model, jax.random.key(0))
    assert (dropped == run(model, jax.random.key(0))).all()
    assert (dropped != call(model, IDS)).any()
    assert (dropped != run(model, jax.random.key(1))).any()


def test_parameters_are_initialized_as_in_the_original():
    model = jax.jit(
        lambda key: MaskedLM(dataclasses.replace(PRESETS["tiny"], initializer_range=0.02, conv_kernel_size=3), key=key)
    )(jax.random.key(0))
    layers = model.deberta.encoder.layers
    for kernel in (
        model.deberta.embeddings.word.embedding,
        model.deberta.encoder.relative.embedding,
        layers.attention.query.kernel,
        layers.down.kernel,
        model.decoder.position.embedding,
        model.head.dense.kernel,
    ):
        assert abs(float(kernel[...].std()) - 0.02) < 0.001
    for bias in (layers.attention.query.bias, layers.up.bias, layers.norm.bias, model.head.bias):
        assert (bias[...] == 0).all()
    assert (layers.norm.scale[...] == 1).all()
    bound = 1 / np.sqrt(3 * 128)
    convolution = model.deberta.encoder.convolution.kernel[...]
    assert float(jnp.abs(convolution).max()) <= bound
    assert abs(float(convolution.std()) - bound / np.sqrt(3)) < 0.001
    assert (layers.up.kernel[0] != layers.up.kernel[1]).any()


def test_a_sequence_longer_than_the_decoders_positions_is_an_error():
    config = dataclasses.replace(V3, max_position_embeddings=16)
    with pytest.raises(InputError, match="sequence of 17 tokens, the enhanced mask decoder has 16"):
        masked_lm(config)(ids_of(1, 17))
