import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import BIASED, CONFIGS, IDS, MASK, V1, V2, V3, bare, call, ids_of

from deberta_jax.config_values import ACTIVATIONS
from deberta_jax.errors import InputError
from deberta_jax.model.activation import _ACTIVATIONS, activation
from deberta_jax.model.attention import AttentionInputs


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_scan_equals_a_loop_over_layers(name):
    model, config = bare(name), CONFIGS[name]
    output = call(model, IDS, MASK, output_hidden_states=True)
    mask = MASK == 1
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    relative = model.encoder.relative_positions(IDS.shape[1], jnp.dtype("float32"))
    run = jax.jit(lambda layer, x: layer(x, AttentionInputs(relative, mask=pairs))[0])
    x = embeddings = jax.jit(lambda tables: tables.finish(tables.lookup(IDS), mask))(model.embeddings)
    for number in range(config.num_hidden_layers):
        np.testing.assert_allclose(output.hidden_states[number], x, atol=1e-5)
        x = run(jax.tree.map(lambda p, i=number: p[i], model.encoder.layers), x)
        if number == 0 and model.encoder.convolution is not None:
            merge = lambda c, x: c.merge(x, c(embeddings, mask, None), mask)  # noqa: E731
            x = jax.jit(merge)(model.encoder.convolution, x)
    np.testing.assert_allclose(output.last_hidden_state, x, atol=1e-5)


def test_rematerialization_does_not_change_gradients():
    def run(remat):
        loss = lambda model: jnp.square(model(IDS, MASK, key=jax.random.key(3)).last_hidden_state[:, ::2]).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(bare("v2", remat=remat))

    value, gradients = run("none")
    for remat in ("dots", "full"):
        remat_value, remat_gradients = run(remat)
        np.testing.assert_allclose(remat_value, value, rtol=1e-6)
        for gradient, expected in zip(jax.tree.leaves(remat_gradients), jax.tree.leaves(gradients), strict=True):
            np.testing.assert_allclose(gradient, expected, atol=1e-5 * max(1, float(jnp.abs(expected).max())))


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_does_not_change_real_tokens(name):
    model = bare(name)
    padded = call(model, IDS, MASK).last_hidden_state
    np.testing.assert_allclose(padded[:1, :7], call(model, IDS[:1, :7]).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_content_of_padding_does_not_reach_real_tokens_bit_for_bit(name):
    model = bare(name)
    run = jax.jit(lambda ids: model(ids, MASK).last_hidden_state)
    one, other = run(IDS), run(jnp.where(MASK == 1, IDS, ids_of(2, 12, seed=5)))
    assert (jnp.where(MASK[..., None] == 1, one == other, True)).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_documents_equal_separate_sequences(name):
    model, ids = bare(name), ids_of(1, 14)[0]
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [3] * 3 + [0] * 2])
    positions = jnp.asarray([[*range(5), *range(4), *range(3), 0, 0]])
    packed = call(model, ids[None], segment_ids=segments, position_ids=positions).last_hidden_state[0]
    separate = jnp.stack([jnp.pad(ids[a:b], (0, 5 - (b - a))) for a, b in ((0, 5), (5, 9), (9, 12))])
    alone = call(model, separate, jnp.arange(5) < jnp.asarray([[5], [4], [3]])).last_hidden_state
    for start, row, length in ((0, 0, 5), (5, 1, 4), (9, 2, 3)):
        np.testing.assert_allclose(packed[start : start + length], alone[row, :length], atol=1e-5)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_states_and_attentions_are_returned_on_request(name):
    model = bare(name)
    plain, full = call(model, IDS), call(model, IDS, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert full.hidden_states.shape == (4, 2, 12, 16)
    assert full.attentions.shape == (3, 2, 2, 12, 12)
    np.testing.assert_allclose(full.attentions.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(full.hidden_states[-1], plain.last_hidden_state, atol=1e-5)


def test_depth_returns_the_states_of_that_layer():
    whole = call(bare("v2"), IDS, MASK, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(call(bare("v2"), IDS, MASK, depth=2).last_hidden_state, whole[2], atol=1e-5)


def test_a_pair_mask_replaces_the_mask_of_tokens():
    model, causal = bare("v3"), jnp.tril(jnp.ones((2, 1, 12, 12), bool))
    output = call(model, IDS, pair_mask=causal, output_attentions=True)
    assert (jnp.where(causal, 0, output.attentions) == 0).all()
    later = call(model, IDS.at[:, 8:].set(5), pair_mask=causal, output_attentions=True)
    np.testing.assert_allclose(output.last_hidden_state[:, :8], later.last_hidden_state[:, :8], atol=1e-6)


def test_numpy_inputs_work_without_jit():
    output = bare("biased")(np.asarray(IDS), np.asarray(MASK), token_type_ids=np.zeros((2, 12), np.int64))
    np.testing.assert_allclose(output.last_hidden_state, call(bare("biased"), IDS, MASK).last_hidden_state, atol=1e-5)


def test_gradients_are_finite_for_a_sequence_of_padding():
    loss = lambda model: jnp.square(model(IDS, MASK.at[1].set(0)).last_hidden_state).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(bare("v2"))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_padding_row_gets_no_gradient_from_its_lookup():
    ids = IDS.at[:, 4].set(V3.pad_token_id)
    loss = lambda model: jnp.square(model(ids).last_hidden_state[:, ::2]).sum()  # noqa: E731
    table = jax.jit(jax.grad(loss))(bare("v3")).embeddings.word.embedding[...]
    assert (table[V3.pad_token_id] == 0).all()
    assert (table[ids[0, 0]] != 0).any()


def test_a_sequence_longer_than_the_absolute_positions_is_an_error():
    with pytest.raises(InputError, match="600 tokens, the model has 512"):
        bare("biased")(ids_of(1, 600))


def test_an_unknown_activation_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown activation 'gelo', use one of gelu"):
        activation("gelo")
    assert set(_ACTIVATIONS) == set(ACTIVATIONS)


def test_versions_differ_in_their_parameters():
    first, second, biased = (bare(config) for config in (V1, V2, BIASED))
    assert first.encoder.layers.attention.key.bias is None
    assert first.encoder.layers.attention.position_key.bias is None
    assert first.encoder.layers.attention.position_query.bias is not None
    assert first.encoder.relative_norm is None
    assert second.encoder.layers.attention.position_key is None
    assert second.encoder.layers.attention.key.bias is not None
    assert second.embeddings.position is None
    assert biased.embeddings.position is not None
    assert biased.embeddings.projection.bias is None
