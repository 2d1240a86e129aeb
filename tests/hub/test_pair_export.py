"""A pair exported by pretraining, read here and by transformers; Microsoft's files of a pair, written by torch."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from toy_folders import READING, WORDS, microsoft_values, random_model, same_parameters

from deberta_jax.errors import InputError
from deberta_jax.hub.folder import read_folder
from deberta_jax.hub.layout import POSITIONS, export_tensors
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.model.pair import initial_pair
from deberta_jax.pretraining.rtd import pair_models
from deberta_jax.pretraining.summary import export_models
from deberta_jax.tokenizers.train import train_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
GENERATOR, DISCRIMINATOR = READING, dataclasses.replace(READING, num_hidden_layers=3)
SHARINGS = ["gdes", "es", "none"]


def pair_of(sharing):
    return random_model(lambda key: initial_pair(GENERATOR, DISCRIMINATOR, sharing, key=key))


@pytest.mark.parametrize("sharing", ["gdes", "es"])
def test_a_pair_of_different_widths_cannot_share_its_embeddings(sharing):
    narrow = dataclasses.replace(GENERATOR, hidden_size=GENERATOR.hidden_size // 2)
    with pytest.raises(InputError, match="cannot share tables of different shapes"):
        random_model(lambda key: initial_pair(narrow, DISCRIMINATOR, sharing, key=key))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([TEXT] * 10, tmp_path_factory.mktemp("vocabulary") / "spm.model", 290)


def export_pair(folder, sharing, tokenizer):
    """Write the folders `discriminator` and `generator` of a run; returns the pair."""
    pair = pair_of(sharing)
    export_models(folder, pair_models(pair), tokenizer)
    return pair


def batch():
    """Token ids, and an attention mask with padding and a gap."""
    mask = np.ones((3, 14), np.int64)
    mask[0, 9:], mask[1, 4] = 0, 0
    return np.random.default_rng(0).integers(1, READING.vocab_size, mask.shape), mask


@pytest.mark.parametrize("sharing", SHARINGS)
def test_both_models_of_a_pair_are_loaded_bit_for_bit(sharing, tokenizer, tmp_path):
    pair = export_pair(tmp_path, sharing, tokenizer)
    discriminator, first = load_pretrained(
        tmp_path / "discriminator", "replaced_token_detection", require_tokenizer=False
    )
    generator, second = load_pretrained(tmp_path / "generator", "masked_lm", require_tokenizer=False)
    assert same_parameters(discriminator, pair.detector())
    assert same_parameters(generator, pair.generator)
    assert first.sha256 == second.sha256 == tokenizer.sha256
    assert generator.decoder is not None


def assert_agree(outputs, expected, mask):
    outputs, expected = (np.where(mask[..., None] == 1, x, 0) for x in (outputs, expected))
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, expected.std()))


@pytest.mark.reference
@pytest.mark.parametrize("sharing", SHARINGS)
def test_transformers_computes_the_states_of_a_discriminator(sharing, tokenizer, tmp_path, transformers):
    import torch

    pair = export_pair(tmp_path, sharing, tokenizer)
    folder = tmp_path / "discriminator"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["DebertaV2Model"]
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    parts = "dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias", "classifier.weight", "classifier.bias"
    assert {name for name in tensors if not name.startswith("deberta.")} == {
        f"mask_predictions.{part}" for part in parts
    }
    assert tensors["mask_predictions.classifier.weight"].shape == (1, READING.hidden_size)
    model, info = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert type(model) is transformers.DebertaV2Model
    assert not info["missing_keys"]
    ids, mask = batch()
    with torch.no_grad():
        expected = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    assert_agree(pair.detector().deberta(ids, mask).last_hidden_state, expected, mask)


@pytest.mark.reference
def test_transformers_computes_the_logits_of_a_generator(tokenizer, tmp_path, transformers):
    import torch

    generator = export_pair(tmp_path, "gdes", tokenizer).generator
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "generator", attn_implementation="eager", output_loading_info=True
    )
    assert type(model) is transformers.DebertaV2ForMaskedLM
    # The decoder is tied.
    assert set(info["missing_keys"]) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    ids, mask = batch()
    with torch.no_grad():
        expected = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    states = generator.deberta(ids, mask).last_hidden_state
    assert_agree(generator.head(states, generator.deberta.embeddings.word.embedding[...]), expected, mask)


@pytest.mark.reference
def test_files_of_microsofts_training_are_read(tmp_path):
    """Its trainer (fp16) writes float32 master weights, and the sum of the tables in half precision."""
    import torch

    pair = pair_of("gdes")
    generator = {name: torch.tensor(x) for name, x in export_tensors(pair.generator, GENERATOR).items()}
    discriminator = {name: torch.tensor(x) for name, x in export_tensors(pair.detector(), DISCRIMINATOR).items()}
    difference = np.asarray(pair.discriminator.deberta.embeddings.word.embedding)
    discriminator[f"{WORDS}.weight"] = discriminator[f"{WORDS}.weight"].half()
    discriminator[f"{WORDS}._weight"] = torch.tensor(difference).requires_grad_(True)
    discriminator[POSITIONS.replace(".weight", "._weight")] = torch.zeros_like(generator[POSITIONS])
    for name, config, state in (("generator", GENERATOR, generator), ("discriminator", DISCRIMINATOR, discriminator)):
        (tmp_path / name).mkdir()
        torch.save(dict(state), tmp_path / name / "pytorch.model-000100.bin")
        values = microsoft_values(config) | {"pos_att_type": "p2c|c2p"}
        (tmp_path / name / "model_config.json").write_text(json.dumps(values))
    assert same_parameters(
        load_pretrained(tmp_path / "generator", "masked_lm", require_tokenizer=False)[0], pair.generator
    )
    _, tensors, source = read_folder(tmp_path / "discriminator", generator_folder=tmp_path / "generator")
    assert source.name == "pytorch.model-000100.bin"
    table = np.asarray(pair.generator.deberta.embeddings.word.embedding)
    np.testing.assert_array_equal(tensors[f"{WORDS}.weight"].read(), table + difference)
