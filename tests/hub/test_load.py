import dataclasses
import functools

import jax
import numpy as np
import pytest
from toy_folders import V2, same_parameters, toy_model, toy_tensors

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.load import check_tensors, load_model
from deberta_jax.hub.tensors import ComputedTensor, as_tensor
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh

KEY = jax.random.key(3)


@functools.cache
def build(config, head):
    return lambda key: HEADS[head].model(config, key=key)


def named(config, tensors):
    return canonical_tensors({name: as_tensor(x) for name, x in tensors.items()}, config, source="file")


def load(config, tensors, head="masked_lm", **options):
    return load_model(build(config, head), config, named(config, tensors), source="file", **options)


def test_all_tensors_that_do_not_fit_are_listed_at_once_and_none_is_read(config):
    unread = ComputedTensor((1,), np.dtype("float32"), lambda: pytest.fail("a tensor was read"))
    tensors = {name: dataclasses.replace(unread, shape=x.shape) for name, x in toy_tensors(config).items()}
    del tensors["deberta.embeddings.LayerNorm.bias"]
    tensors["deberta.encoder.layer.1.output.dense.weight"] = dataclasses.replace(unread, shape=(3, 3))
    name = "deberta.encoder.layer.1.output.dense.bias"
    tensors[name] = dataclasses.replace(tensors[name], dtype=np.dtype("int64"))
    tensors["deberta.encoder.surprise"] = unread
    for check in check_tensors, functools.partial(load_model, key=KEY):
        with pytest.raises(InputError) as error:
            check(build(config, "masked_lm"), config, tensors, source="model.safetensors")
        message = str(error.value)
        assert message.startswith("model.safetensors: 4 tensors do not fit the model: ")
        assert "deberta.embeddings.LayerNorm.bias is missing" in message
        assert "dense.weight has shape (3, 3), (32, 48) in the model" in message
        assert "layer.1.output.dense.bias has dtype int64, expected floating point" in message
        assert "deberta.encoder.surprise is unknown" in message


def test_an_unknown_tensor_of_a_head_is_refused_if_the_model_has_that_head():
    tensors = toy_tensors(V2, "sequence_classification") | {"classifier.out_proj.weight": np.zeros(3, np.float32)}
    assert same_parameters(load(V2, tensors, None), toy_model(V2, "sequence_classification").deberta)
    with pytest.raises(InputError, match="1 tensors do not fit the model: classifier.out_proj.weight is unknown"):
        load(V2, tensors, "sequence_classification")


def test_a_tied_copy_that_differs_is_refused(config):
    tensors = export_tensors(toy_model(config), config, lm_prefix="cls")
    words = tensors["deberta.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words
    check_tensors(build(config, "masked_lm"), config, named(config, tensors), source="file")
    tensors["cls.predictions.decoder.weight"] = words + 1
    with pytest.raises(InputError, match=r"decoder.weight differs from deberta.embeddings.word_embeddings.weight"):
        load(config, tensors)
    # The encoder does not use the copy.
    check_tensors(build(config, None), config, named(config, tensors), source="file")


def test_a_missing_head_is_initialized_by_the_key_and_logged(caplog):
    head = "sequence_classification"
    model = load(V2, toy_tensors(V2), head, key=KEY)
    assert [record.getMessage() for record in caplog.records] == [
        "file: not in the file, initialized randomly: pooler.dense.weight, pooler.dense.bias, classifier.weight, "
        "classifier.bias"
    ]
    assert same_parameters(model.deberta, toy_model(V2).deberta)
    initial = jax.jit(build(V2, head))(KEY)
    np.testing.assert_allclose(model.pooler.dense.kernel, initial.pooler.dense.kernel, rtol=1e-6)


def test_a_missing_head_is_an_error_without_a_key_and_an_incomplete_one_always():
    head = "sequence_classification"
    with pytest.raises(InputError, match=r"4 tensors do not fit the model: pooler.dense.weight is missing"):
        load(V2, toy_tensors(V2), head)
    incomplete = toy_tensors(V2) | {"classifier.bias": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match=r"1 tensors do not fit the model: classifier.weight is missing"):
        load(V2, incomplete, head, key=KEY)


def test_parameters_are_sharded_over_a_mesh(config):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    model = load(config, toy_tensors(config), mesh=mesh, dtype=np.dtype("bfloat16"))
    assert same_parameters(model, jax.tree.map(lambda x: x.astype("bfloat16"), toy_model(config)))
    expected = shardings(jax.eval_shape(build(config, "masked_lm"), KEY), mesh)
    for leaf, sharding in zip(jax.tree.leaves(model), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        assert leaf.dtype == "bfloat16"


def test_stacks_are_filled_layer_by_layer_as_they_are_put_together_on_the_host(monkeypatch):
    on_mesh = {"mesh": make_mesh(data=2, fsdp=2, tensor=2), "dtype": np.dtype("bfloat16")}
    for options in ({}, on_mesh):
        together = load(V2, toy_tensors(V2), **options)
        with monkeypatch.context() as patch:
            patch.setattr("deberta_jax.hub.load._SMALL", 0)
            filled = load(V2, toy_tensors(V2), **options)
        assert same_parameters(filled, together)
        for leaf, other in zip(jax.tree.leaves(filled), jax.tree.leaves(together), strict=True):
            assert leaf.dtype == other.dtype
            assert leaf.sharding.is_equivalent_to(other.sharding, leaf.ndim)
