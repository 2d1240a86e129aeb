import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.config import PRESETS, DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
V3 = DebertaConfig(**SMALL, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, initializer_range=0.2)
V2 = dataclasses.replace(V3, conv_kernel_size=3, conv_act="gelu")
V1 = DebertaConfig(**SMALL, model_type="deberta", max_position_embeddings=32, initializer_range=0.2)
BIASED = dataclasses.replace(V3, position_biased_input=True, type_vocab_size=2, embedding_size=12)
CONFIGS = {"v1": V1, "v2": V2, "v3": V3, "biased": BIASED}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def ids_of(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(4, SMALL["vocab_size"], (rows, length)))


def bare(config, **fields):
    return jax.jit(lambda key: Deberta(config, key=key, **fields))(jax.random.key(1))


def masked_lm(config, **fields):
    return jax.jit(lambda key: MaskedLM(config, key=key, **fields))(jax.random.key(1))


@functools.partial(jax.jit, static_argnames=("output_hidden_states", "output_attentions"))
def call(model, *arguments, **options):
    return model(*arguments, **options)


def test_the_scan_is_a_loop_over_layers(config):
    model, ids = bare(config), ids_of(2, 9)
    output = call(model, ids, output_hidden_states=True)
    x = embedded = model.embeddings(ids)
    encoder = model.encoder
    relative = encoder.relative_positions(9, x.dtype)
    run = jax.jit(lambda layer, x: layer(x, relative, None))
    for number in range(config.num_hidden_layers):
        np.testing.assert_allclose(output.hidden_states[number], x, atol=1e-5)
        x = run(jax.tree.map(lambda p, i=number: p[i], encoder.layers), x)
        if number == 0 and encoder.convolution is not None:
            x = encoder.convolution.merge(x, encoder.convolution(embedded, None, None), None)
    np.testing.assert_allclose(output.last_hidden_state, x, atol=1e-5)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_recomputing_in_the_backward_pass_changes_nothing(name):
    ids, key = ids_of(2, 9), jax.random.key(3)

    def run(remat):
        model = bare(CONFIGS[name], remat=remat)
        loss = lambda model: jnp.square(model(ids, key=key).last_hidden_state[:, ::2]).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(model)

    value, gradients = run("none")
    for remat in ("dots", "full"):
        other, others = run(remat)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        for ours, theirs in zip(jax.tree.leaves(others), jax.tree.leaves(gradients), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_padded_is_unpadded_at_real_tokens(config):
    model, ids = bare(config), ids_of(1, 12)
    mask = (jnp.arange(12) < 7)[None]
    padded = call(model, ids, mask).last_hidden_state[:, :7]
    np.testing.assert_allclose(padded, call(model, ids[:, :7]).last_hidden_state, atol=1e-5)


def test_padding_does_not_reach_real_tokens_by_a_bit(config):
    model, mask = bare(config), jnp.asarray([[1] * 7 + [0] * 5, [0] * 2 + [1] * 9 + [0]])
    run = jax.jit(lambda ids: call(model, ids, mask).last_hidden_state)
    one, other = run(ids_of(2, 12)), run(jnp.where(mask == 1, ids_of(2, 12), ids_of(2, 12, seed=5)))
    assert (jnp.where(mask[..., None] == 1, one == other, True)).all()


def test_packed_documents_are_as_they_are_alone(config):
    model = bare(config)
    lengths, ids = (5, 4, 3), ids_of(1, 14)
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [3] * 3 + [0] * 2])
    positions = jnp.asarray([[*range(5), *range(4), *range(3), 0, 0]])
    packed = call(model, ids, segment_ids=segments, position_ids=positions).last_hidden_state
    start = 0
    for length in lengths:
        alone = call(model, ids[:, start : start + length]).last_hidden_state
        np.testing.assert_allclose(packed[:, start : start + length], alone, atol=1e-5)
        start += length


@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_packed_documents_are_decoded_as_they_are_alone(name):
    model = masked_lm(CONFIGS[name])
    ids = ids_of(1, 12)
    segments, positions = jnp.asarray([[1] * 5 + [2] * 6 + [0]]), jnp.asarray([[*range(5), *range(6), 0]])
    at = jnp.asarray([[1, 3, 5, 9]])
    packed = call(model, ids, segment_ids=segments, position_ids=positions, masked_positions=at)
    first = call(model, ids[:, :5], masked_positions=at[:, :2])
    second = call(model, ids[:, 5:11], masked_positions=at[:, 2:] - 5)
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], axis=1), atol=2e-5)


def test_masked_positions_are_decoded_as_among_all(config):
    model, ids, at = masked_lm(config), ids_of(2, 9), jnp.asarray([[0, 4, 8], [2, 2, 7]])
    mask = jnp.asarray([[1] * 9, [1] * 8 + [0]])
    everywhere, some = call(model, ids, mask), call(model, ids, mask, masked_positions=at)
    np.testing.assert_allclose(some, jnp.take_along_axis(everywhere, at[..., None], axis=1), atol=2e-5)


def test_the_decoder_exists_where_positions_are_not_in_the_input():
    assert MaskedLM(V3, key=jax.random.key(0)).decoder is not None
    assert MaskedLM(V3, enhanced_mask_decoder=False, key=jax.random.key(0)).decoder is None
    assert MaskedLM(BIASED, key=jax.random.key(0)).decoder is None


@pytest.mark.parametrize(
    ("fields", "reason"), [({"embedding_size": 12}, "must be equal"), ({"num_hidden_layers": 1}, "at least 2")]
)
def test_a_decoder_that_cannot_be_is_refused(fields, reason):
    with pytest.raises(InputError, match=reason):
        MaskedLM(dataclasses.replace(V3, **fields), key=jax.random.key(0))


def test_states_and_attentions_come_on_request(config):
    model, ids = bare(config), ids_of(2, 6)
    plain, full = call(model, ids), call(model, ids, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert full.hidden_states.shape == (4, 2, 6, 16)
    assert full.attentions.shape == (3, 2, 2, 6, 6)
    np.testing.assert_allclose(full.attentions.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(full.hidden_states[-1], plain.last_hidden_state, atol=1e-6)


def test_bfloat16_is_computed_from_float32_parameters(config):
    ids = ids_of(2, 9)
    exact, rough = masked_lm(config), masked_lm(config, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(rough)} == {jnp.dtype("float32")}
    assert jax.eval_shape(rough.states, ids).dtype == jnp.bfloat16
    logits = call(rough, ids)
    assert logits.dtype == jnp.float32
    assert jnp.abs(logits - call(exact, ids)).mean() < 0.05 * jnp.abs(call(exact, ids)).mean() + 0.05
    gradients = jax.jit(jax.grad(lambda model: jnp.square(call(model, ids)).mean()))(rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_dropout_needs_a_key(config):
    model, ids = masked_lm(config), ids_of(2, 9)
    assert (call(model, ids) == call(model, ids)).all()
    dropped = call(model, ids, key=jax.random.key(0))
    assert (dropped == call(model, ids, key=jax.random.key(0))).all()
    assert (dropped != call(model, ids)).any()
    assert (dropped != call(model, ids, key=jax.random.key(1))).any()


def test_the_padding_row_takes_no_gradient_through_its_lookup(config):
    ids = ids_of(2, 9).at[:, 4].set(config.pad_token_id)
    gradients = jax.jit(jax.grad(lambda model: jnp.square(call(model, ids).last_hidden_state[:, ::2]).sum()))(
        bare(config)
    )
    table = gradients.embeddings.word.table[...]
    assert (table[config.pad_token_id] == 0).all()
    assert (table[ids[0, 0]] != 0).any()


def test_parameters_start_as_in_the_original():
    model = MaskedLM(dataclasses.replace(PRESETS["tiny"], conv_kernel_size=3), key=jax.random.key(0))
    for kernel in (
        model.deberta.embeddings.word.table,
        model.deberta.encoder.relative.table,
        model.deberta.encoder.layers.attention.query.kernel,
        model.deberta.encoder.layers.contract.kernel,
        model.decoder.position.table,
        model.head.dense.kernel,
    ):
        assert abs(float(kernel[...].std()) - 0.02) < 0.001
    assert (model.deberta.encoder.layers.attention.query.bias[...] == 0).all()
    assert (model.deberta.encoder.layers.norm.scale[...] == 1).all()
    bound = 1 / np.sqrt(3 * 128)
    convolution = model.deberta.encoder.convolution.kernel[...]
    assert float(jnp.abs(convolution).max()) <= bound
    assert abs(float(convolution.std()) - bound / np.sqrt(3)) < 0.001
    layers = model.deberta.encoder.layers.expand.kernel[...]
    assert (layers[0] != layers[1]).any()


def test_a_sequence_longer_than_its_absolute_positions_is_refused():
    with pytest.raises(InputError, match="600 tokens, the model has 512"):
        bare(BIASED)(ids_of(1, 600))


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'gelo' is not known: use one of gelu"):
        bare(dataclasses.replace(V3, hidden_act="gelo"))(ids_of(1, 4))
