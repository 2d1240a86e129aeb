"""What pretraining of a pair leaves, read by transformers, and Microsoft's own files, written by torch."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from toy_folders import V3, random

from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import from_pretrained, load_pretrained, read_folder
from deberta_jax.model.pair import initial_pair
from deberta_jax.pretraining.rtd import pair_models
from deberta_jax.pretraining.summary import export_models
from deberta_jax.tokenizers.train import train_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
HALF = dataclasses.replace(V3, num_hidden_layers=2)
WHOLE = dataclasses.replace(V3, num_hidden_layers=3)
WORDS, POSITIONS = "deberta.embeddings.word_embeddings", "deberta.embeddings.position_embeddings"
SHARINGS = ["gdes", "es", "none"]


def same(one, other):
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    return all(path == its_path and (leaf == its_leaf).all() for (path, leaf), (its_path, its_leaf) in pairs)


def exported(folder, sharing):
    """The folders `discriminator` and `generator` of a run, and the pair that they came from."""
    pair = random(lambda key: initial_pair(HALF, WHOLE, sharing, key=key))
    tokenizer = train_tokenizer([TEXT] * 10, folder / "vocabulary" / "spm.model", 290)
    export_models(folder, pair_models(pair), tokenizer)
    return pair


def rows():
    """Ids, and a mask with padding and a hole."""
    mask = np.ones((3, 14), np.int64)
    mask[0, 9:], mask[1, 4] = 0, 0
    return np.random.default_rng(0).integers(1, V3.vocab_size, mask.shape), mask


@pytest.mark.parametrize("sharing", SHARINGS)
def test_both_models_of_a_pair_come_back_bit_for_bit(sharing, tmp_path):
    pair = exported(tmp_path, sharing)
    discriminator, tokenizer = from_pretrained(tmp_path / "discriminator", head="replaced_token_detection")
    generator, other = from_pretrained(tmp_path / "generator", head="masked_lm")
    assert same(discriminator, pair.detector())
    assert same(generator, pair.generator)
    assert tokenizer.sha256 == other.sha256
    assert generator.decoder is not None


@pytest.fixture
def transformers():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def agree(ours, theirs, mask):
    ours, theirs = (np.where(mask[..., None] == 1, x, 0) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, theirs.std()))


@pytest.mark.reference
@pytest.mark.parametrize("sharing", SHARINGS)
def test_transformers_computes_the_discriminators_states(sharing, tmp_path, transformers):
    import torch

    pair = exported(tmp_path, sharing)
    folder = tmp_path / "discriminator"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["DebertaV2Model"]
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    parts = "dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias", "classifier.weight", "classifier.bias"
    assert {name for name in tensors if not name.startswith("deberta.")} == {
        f"mask_predictions.{part}" for part in parts
    }
    assert tensors["mask_predictions.classifier.weight"].shape == (1, V3.hidden_size)
    model, found = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert type(model) is transformers.DebertaV2Model
    assert not found["missing_keys"]
    ids, mask = rows()
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    agree(pair.detector().deberta(ids, mask).last_hidden_state, theirs, mask)


@pytest.mark.reference
def test_transformers_computes_the_generators_logits_from_its_last_layer(tmp_path, transformers):
    import torch

    generator = exported(tmp_path, "gdes").generator
    model, found = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "generator", attn_implementation="eager", output_loading_info=True
    )
    assert type(model) is transformers.DebertaV2ForMaskedLM
    # The decoder is tied.
    assert set(found["missing_keys"]) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    ids, mask = rows()
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    states = generator.deberta(ids, mask).last_hidden_state
    agree(generator.head(states, generator.deberta.embeddings.word.embedding[...]), theirs, mask)


@pytest.mark.reference
def test_what_torch_saves_in_microsofts_training_is_read(tmp_path):
    """Master weights in float32 beside a sum in half precision, as its trainer writes them (fp16)."""
    import torch

    pair = random(lambda key: initial_pair(HALF, WHOLE, "gdes", key=key))
    its = {name: torch.tensor(x) for name, x in export_tensors(pair.generator, HALF).items()}
    mine = {name: torch.tensor(x) for name, x in export_tensors(pair.detector(), WHOLE).items()}
    difference = np.asarray(pair.discriminator.deberta.embeddings.word.embedding)
    mine[f"{WORDS}.weight"] = mine[f"{WORDS}.weight"].half()
    mine[f"{WORDS}._weight"] = torch.tensor(difference).requires_grad_(True)
    mine[f"{POSITIONS}._weight"] = torch.zeros_like(its[f"{POSITIONS}.weight"])
    for name, config, state in (("generator", HALF, its), ("discriminator", WHOLE, mine)):
        (tmp_path / name).mkdir()
        torch.save(dict(state), tmp_path / name / "pytorch.model-000100.bin")
        (tmp_path / name / "model_config.json").write_text(json.dumps(microsoft(config)))
    assert same(load_pretrained(tmp_path / "generator", "masked_lm").model, pair.generator)
    _, tensors, source = read_folder(tmp_path / "discriminator", generator_folder=tmp_path / "generator")
    assert source.name == "pytorch.model-000100.bin"
    table = np.asarray(pair.generator.deberta.embeddings.word.embedding)
    np.testing.assert_array_equal(tensors[f"{WORDS}.weight"].read(), table + difference)


def microsoft(config):
    values = config.to_dict() | {"pos_att_type": "p2c|c2p", "padding_idx": config.pad_token_id}
    return {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}
