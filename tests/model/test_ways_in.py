"""Embeddings in place of ids, functions of layers and of attention, biases, and outputs of every head."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import BIASED, IDS, MASK, V3, bare, call, masked_lm

import deberta_jax as dj

HEADS = [
    dj.SequenceClassification,
    dj.TokenClassification,
    dj.QuestionAnswering,
    dj.ReplacedTokenDetection,
    dj.EntityScoring,
]


@functools.cache
def built(kind, config=V3):
    return jax.jit(lambda key: kind(config, key=key))(jax.random.key(0))


def extra(kind):
    return {"entity_positions": jnp.asarray([[[1, 2]], [[2, 0]]])} if kind is dj.EntityScoring else {}


@pytest.mark.parametrize("config", ["v2", "biased"])
def test_embeddings_of_words_replace_ids(config):
    model = masked_lm(config)
    embeds = model.deberta.embeddings.word(IDS)
    assert embeds.shape[-1] == (BIASED.embedding_size if config == "biased" else 16)
    run = jax.jit(lambda model, embeds: model(inputs_embeds=embeds, attention_mask=MASK))
    np.testing.assert_allclose(run(model, embeds), call(model, IDS, MASK), atol=1e-5)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        bare("v3")(IDS, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        bare("v3")()


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_takes_embeddings_and_returns_states_and_attentions(kind):
    model = built(kind)

    @jax.jit
    def run(model, embeds):
        logits = model(IDS, MASK, **extra(kind))
        options = {"output_hidden_states": True, "output_attentions": True}
        return logits, model(inputs_embeds=embeds, attention_mask=MASK, **extra(kind), **options)

    logits, output = run(model, model.deberta.embeddings.word(IDS))
    assert isinstance(output, dj.HeadOutput)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), output.logits, logits)
    assert output.hidden_states.shape == (4, 2, 12, 16)
    assert output.attentions.shape == (3, 2, 2, 12, 12)


def test_multiple_choice_takes_every_input_with_an_axis_of_choices():
    model = built(dj.MultipleChoice)
    ids, mask = jnp.stack([IDS, IDS[::-1]]), jnp.stack([MASK, MASK[::-1]])

    @jax.jit
    def run(model):
        embeds = model.deberta.embeddings.word(ids)
        pairs = {"bias": jnp.zeros((1, 2, 2, 12, 1)), "pair_mask": mask[:, :, None, :, None] * mask[:, :, None, None]}
        logits = model(ids, mask)
        return logits, model(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True, **pairs)

    logits, output = run(model)
    assert logits.shape == (2, 2)
    np.testing.assert_allclose(output.logits, logits, atol=1e-6)


@pytest.mark.parametrize("decoder", [True, False])
def test_a_masked_language_model_returns_the_states_of_all_layers(decoder):
    model = masked_lm("v3", enhanced_mask_decoder=decoder)
    options = {"output_hidden_states": True, "output_attentions": True}
    output, logits = call(model, IDS, MASK, **options), call(model, IDS, MASK)
    np.testing.assert_allclose(output.logits, logits, atol=1e-5)
    expected = call(model.deberta, IDS, MASK, **options)
    np.testing.assert_allclose(output.hidden_states, expected.hidden_states, atol=1e-5)
    np.testing.assert_allclose(output.attentions, expected.attentions, atol=1e-6)
    assert call(model, IDS, MASK, output_attentions=True).hidden_states is None


@pytest.mark.parametrize("kind", [*HEADS, dj.MaskedLM])
def test_every_head_reads_the_first_layers_on_request(kind):
    model = built(kind)
    short = dj.first_layers(model, 2)
    run = jax.jit(lambda model, **options: model(IDS, MASK, **extra(kind), **options), static_argnames="depth")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(model, depth=2), run(short))
    for depth in (-1, 4):
        with pytest.raises(ValueError, match=f"depth is {depth}"):
            model(IDS, **extra(kind), depth=depth)


@pytest.mark.parametrize("config", ["v2", "v3"])
def test_an_encoder_can_be_run_in_parts(config):
    model = bare(config)

    @jax.jit
    def run(model):
        x = model.embeddings.finish(model.embeddings.lookup(IDS), MASK.astype(bool))
        middle = model.encoder(x, MASK.astype(bool), depth=1).last_hidden_state
        return model.encoder(middle, MASK.astype(bool), start=1).last_hidden_state

    np.testing.assert_allclose(run(model), call(model, IDS, MASK).last_hidden_state, atol=1e-6)
    for limits in ({"depth": 4}, {"start": 3, "depth": 2}, {"start": -1}):
        with pytest.raises(ValueError, match="the model has 3 layers"):
            model.encoder(jnp.zeros((1, 4, 16)), **limits)


def test_a_function_of_each_layer_replaces_its_output():
    model = bare("v2")
    states = call(model, IDS, output_hidden_states=True).hidden_states

    @jax.jit
    def patched(model, layer):
        def each(state, number):
            return jnp.where(number == layer, state.at[:, 3].set(0), state)

        return model(IDS, each=each, output_hidden_states=True).hidden_states

    for layer in range(3):
        after = patched(model, layer)
        np.testing.assert_allclose(after[: layer + 1], states[: layer + 1], atol=1e-6)
        assert (after[layer + 1, :, 3] == 0).all()
    # The convolution of v2 belongs to the output of the first layer.
    np.testing.assert_allclose(patched(model, 3), states, atol=1e-6)


def test_attention_can_be_replaced_and_maps_are_those_of_the_forward_pass():
    seen = []

    def without_p2c(q, k, v, rel_k=None, rel_q=None, **options):
        seen.append(sorted(options))
        return dj.attention_with_probabilities(q, k, v, rel_k, None, **options)

    config = dataclasses.replace(V3, initializer_range=0.5)
    model = jax.jit(lambda key: dj.Deberta(config, attention=without_p2c, key=key))(jax.random.key(0))
    plain = jax.jit(lambda key: dj.Deberta(config, key=key))(jax.random.key(0))
    output = jax.jit(lambda model: model(IDS, MASK, output_attentions=True))(model)
    assert set(seen[0]) >= {"bias", "dropout_rate", "index", "key", "mask", "scale"}
    expected = call(plain, IDS, MASK, output_attentions=True)
    assert not np.allclose(output.attentions, expected.attentions, atol=1e-4)
    assert not np.allclose(output.last_hidden_state, expected.last_hidden_state, atol=1e-4)


def test_a_bias_is_added_to_the_scores_of_a_model_and_of_its_mask_decoder():
    model = masked_lm("v3")
    hidden = jnp.where(jnp.arange(12) < 9, 0.0, -1e9)[None, None, None]
    causal = jnp.where(jnp.tri(12, dtype=bool), 0.0, -1e9)[None, None]
    run = jax.jit(lambda model, ids, **options: model(ids, **options))
    pairs = jnp.broadcast_to(jnp.arange(12) < 9, (2, 1, 12, 12))
    np.testing.assert_allclose(run(model, IDS, bias=hidden), run(model, IDS, pair_mask=pairs), atol=1e-5)
    np.testing.assert_allclose(run(model, IDS, pair_mask=pairs[:1]), run(model, IDS, pair_mask=pairs), atol=1e-6)
    early = run(model, IDS, bias=causal)[:, :8]
    np.testing.assert_allclose(run(model, IDS.at[:, 8:].set(5), bias=causal)[:, :8], early, atol=1e-5)
    with pytest.raises(ValueError, match=r"attention_mask has dtype float32.*as bias"):
        bare("v3")(IDS, jnp.ones((2, 12)))
    with pytest.raises(ValueError, match=r"pair_mask has dtype float32.*as bias"):
        bare("v3")(IDS, pair_mask=causal)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": [[1, -1]]}, "input_ids contains -1, expected 0 to 60"),
        ({"input_ids": [[1, 61]]}, "input_ids contains 61, expected 0 to 60"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, "token_type_ids contains 2, expected 0 to 1"),
        ({"input_ids": [[1, 2]], "position_ids": [[0, 512]]}, "position_ids contains 512, expected 0 to 511"),
    ],
)
def test_ids_that_do_not_exist_are_refused(inputs, message):
    inputs = {name: np.asarray(values) for name, values in inputs.items()}
    with pytest.raises(ValueError, match=message):
        bare("biased")(**inputs)


def test_traced_ids_that_do_not_exist_give_nan():
    states = call(bare("v3"), jnp.asarray([[1, 2], [1, -1]])).last_hidden_state
    assert jnp.isfinite(states[0]).all() and jnp.isnan(states[1]).all()
