import dataclasses

import numpy as np
import pytest
from toy_folders import BIASED, V1, V2, WORDS, same_parameters, toy_model, toy_tensors

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.load import load_model
from deberta_jax.hub.tensors import as_tensor


def read(config, tensors, head="masked_lm", **options):
    """A model from tensors by their names in a file; `options` are those of `canonical_tensors`."""
    tensors = {name: as_tensor(x) for name, x in tensors.items()}
    named = canonical_tensors(tensors, config, source="file", **options)
    return load_model(lambda key: HEADS[head].model(config, key=key), config, named, source="file")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_old_names_are_read(config, prefix):
    old = {
        prefix
        + name.replace("deberta.", "bert.", 1)
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in toy_tensors(config).items()
    }
    named = canonical_tensors({name: as_tensor(x) for name, x in old.items()}, config, source="file")
    assert named.keys() == toy_tensors(config).keys()
    assert all((named[name].read() == tensor).all() for name, tensor in toy_tensors(config).items())


def later_form(config, tensors):
    """Version 1's tensors as Microsoft's later code names them: three projections, and zero biases of keys."""
    D, N = config.hidden_size, config.num_attention_heads
    later = {}
    for name, tensor in tensors.items():
        before, _, part = name.partition("attention.self.")
        before += "attention.self."
        if part == "in_proj.weight":
            for number, kind in enumerate(("query", "key", "value")):
                later[f"{before}{kind}_proj.weight"] = tensor.reshape(N, 3, D // N, D)[:, number].reshape(D, D)
            later[f"{before}key_proj.bias"] = later[f"{before}pos_key_proj.bias"] = np.zeros(D, np.float32)
        elif part:
            renamed = {
                "q_bias": "query_proj.bias",
                "v_bias": "value_proj.bias",
                "pos_proj.weight": "pos_key_proj.weight",
            }
            later[before + renamed.get(part, part.replace("pos_q_proj", "pos_query_proj"))] = tensor
        else:
            later[name] = tensor
    return later


def test_version_1_is_read_from_separate_projections_too():
    later = later_form(V1, toy_tensors(V1))
    assert same_parameters(read(V1, later), toy_model(V1))
    name = "deberta.encoder.layer.1.attention.self.key_proj.bias"
    later[name] = later[name] + 1
    with pytest.raises(InputError, match=rf"no bias for keys, but these are not zero: {name}"):
        read(V1, later)


def test_a_fused_projection_is_read_into_the_later_form_of_version_1():
    second = dataclasses.replace(V1, model_type="deberta-v2")
    assert same_parameters(read(second, toy_tensors(V1)), read(second, later_form(V1, toy_tensors(V1))))


def test_projections_that_cannot_be_fused_are_listed_by_their_names():
    later = later_form(V1, toy_tensors(V1))
    name = "deberta.encoder.layer.1.attention.self."
    del later[f"{name}key_proj.weight"]
    later[f"{name}value_proj.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as error:
        read(V1, later)
    assert f"{name}key_proj.weight is missing" in str(error.value)
    assert f"{name}value_proj.weight has shape (3,), (32, 32) in the model" in str(error.value)


def test_a_discriminator_is_the_sum_of_two_tables():
    generator, discriminator = toy_tensors(BIASED), toy_tensors(BIASED, "replaced_token_detection")
    difference = discriminator[f"{WORDS}.weight"] - generator[f"{WORDS}.weight"]
    stored = {name: x for name, x in discriminator.items() if name != f"{WORDS}.weight"}
    stored[f"{WORDS}._weight"] = difference
    pair = {f"discriminator.{name}": x for name, x in stored.items()}
    pair |= {f"generator.{name}": x for name, x in generator.items()}
    separate = {name: as_tensor(x) for name, x in generator.items()}
    head = "replaced_token_detection"
    for model in (
        read(BIASED, pair, head),
        read(BIASED, stored, head, generator_tensors=lambda: separate),
    ):
        table = model.deberta.embeddings.word.embedding
        np.testing.assert_array_equal(table, difference + generator[f"{WORDS}.weight"])
        assert same_parameters(model.detector, toy_model(BIASED, head).detector)
    assert same_parameters(read(BIASED, pair, generator=True), toy_model(BIASED))
    with pytest.raises(InputError, match=f"only the difference to a generator's tables for {WORDS}"):
        read(BIASED, stored, head)


def test_a_saved_sum_is_used_without_a_generator_and_logged(caplog):
    tensors = toy_tensors(V2)
    model = read(V2, tensors | {f"{WORDS}._weight": tensors[f"{WORDS}.weight"] * 0}, None)
    assert same_parameters(model, toy_model(V2).deberta)
    assert [record.getMessage() for record in caplog.records] == [
        f"file: no generator; {WORDS}.weight is used as saved, one step older than the other weights"
    ]


def test_a_tensor_under_two_names_is_refused():
    tensors = dict(toy_tensors(V2))
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["deberta.embeddings.LayerNorm.weight"] + 1
    names = "deberta.embeddings.LayerNorm.weight and bert.embeddings.LayerNorm.gamma"
    with pytest.raises(InputError, match=f"the same tensor under two names: {names}"):
        read(V2, tensors)
