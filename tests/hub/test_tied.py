"""Masked language models whose output table is not the word embeddings."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from toy_folders import V1, V3, random_model, same_parameters

from deberta_jax.cli.convert import run as convert
from deberta_jax.cli.convert_options import ConvertConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.surgery import resized

DECODER, DECODER_BIAS, BIAS = (f"cls.predictions.{name}" for name in ("decoder.weight", "decoder.bias", "bias"))
WORDS = "deberta.embeddings.word_embeddings.weight"


@pytest.fixture(params=[V3, V1], ids=["v3", "v1"])
def model(request):
    """An untied model without the enhanced mask decoder, which transformers does not have."""
    return random_model(lambda key: MaskedLM(request.param, enhanced_mask_decoder=False, untied=True, key=key))


@pytest.fixture
def folder(model, tmp_path):
    save_pretrained(tmp_path / "model", model)
    return tmp_path / "model"


def load(folder, head="masked_lm"):
    return load_pretrained(folder, head, require_tokenizer=False)[0]


def change(folder, tensors=None, **values):
    """Change tensors, None to remove one, and values of the config."""
    path = folder / "model.safetensors"
    content = safetensors.numpy.load_file(path) | (tensors or {})
    safetensors.numpy.save_file({name: x for name, x in content.items() if x is not None}, path)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({key: x for key, x in config.items() if x is not None}))
    return content


def test_an_untied_model_is_saved_and_loaded(model, folder, tmp_path):
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert same_parameters(load(folder), model)
    convert(ConvertConfig(str(folder), tmp_path / "converted"))
    assert same_parameters(load(tmp_path / "converted"), model)
    assert json.loads((tmp_path / "converted/config.json").read_text())["tie_word_embeddings"] is False
    for target in ("microsoft", "checkpoint"):
        with pytest.raises(
            InputError, match=r"decoder\.weight is not the word embeddings; convert it with --to hugging"
        ):
            convert(ConvertConfig(str(folder), tmp_path / target, to=target))


def test_logits_use_the_untied_table(model):
    states = model.states(np.arange(1, 9)[None])
    words = model.deberta.embeddings.word.embedding[...]
    tied = MaskedLM(model.config, enhanced_mask_decoder=False, key=jax.random.key(0)).head
    for part in ("dense", "norm", "bias"):
        setattr(tied, part, getattr(model.head, part))
    np.testing.assert_array_equal(model.head(states, words), tied(states, model.head.decoder.embedding[...]))


def test_other_heads_ignore_the_untied_table(model, folder):
    assert same_parameters(load(folder, None), model.deberta)


def test_a_table_that_differs_is_used_even_if_the_config_ties_it(model, folder):
    change(folder, tie_word_embeddings=True)
    assert same_parameters(load(folder), model)


def test_an_equal_table_is_a_copy_unless_the_config_unties_it(folder):
    content = change(folder, tie_word_embeddings=None)
    change(folder, {DECODER: content[WORDS].copy()})
    assert load(folder).head.decoder is None
    change(folder, tie_word_embeddings=False)
    assert load(folder).head.decoder is not None


def test_of_two_biases_the_one_of_the_decoder_is_used(folder):
    bias = np.arange(67, dtype=np.float32)
    change(folder, {DECODER_BIAS: bias})
    np.testing.assert_array_equal(load(folder).head.bias[...], bias)
    change(folder, {BIAS: None})
    np.testing.assert_array_equal(load(folder).head.bias[...], bias)


def test_an_untied_model_without_its_table_is_an_error(folder):
    change(folder, {DECODER: None})
    with pytest.raises(InputError, match=r"decoder\.weight is missing, but tie_word_embeddings in the config is false"):
        load(folder)
    assert load(folder, None) is not None


def test_a_table_of_another_shape_is_an_error(folder):
    change(folder, {DECODER: np.zeros((60, 32), np.float32)})
    with pytest.raises(InputError, match=r"decoder\.weight has shape \(60, 32\), \(67, 32\) in the model"):
        load(folder)


def test_a_tied_model_says_so_although_its_file_did_not(folder, tmp_path):
    tied = random_model(lambda key: MaskedLM(dataclasses.replace(V3, extra={"tie_word_embeddings": False}), key=key))
    save_pretrained(tmp_path / "tied", tied)
    assert json.loads((tmp_path / "tied/config.json").read_text())["tie_word_embeddings"] is True


def test_the_untied_table_is_resized_with_the_vocabulary(model):
    larger = resized(model, 80, key=jax.random.key(0))
    assert larger.head.decoder.embedding[...].shape == (80, 32)
    np.testing.assert_array_equal(larger.head.decoder.embedding[...][:67], model.head.decoder.embedding[...])


@pytest.mark.reference
@pytest.mark.parametrize("tie", [True, False])
def test_logits_agree_with_transformers(tie, folder, transformers):
    import torch

    change(folder, tie_word_embeddings=tie)
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    reference = getattr(transformers, name).from_pretrained(folder)
    ids = np.random.default_rng(0).integers(1, 67, (2, 12))
    with torch.no_grad():
        expected = reference(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(load(folder)(ids), expected, atol=1e-5 * max(1, expected.std()))
