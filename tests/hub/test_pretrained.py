import dataclasses
import functools
import json
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import deberta_jax as dj
from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.hub.sentencepiece import _sample, train_tokenizer
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM

SMALL = {
    "vocab_size": 67,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
V3 = DebertaConfig(**SMALL, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)
V2 = dataclasses.replace(V3, conv_kernel_size=3, conv_act="gelu")
V1 = DebertaConfig(**SMALL, model_type="deberta")
BIASED = DebertaConfig(**SMALL, position_buckets=8, position_biased_input=True, type_vocab_size=2, embedding_size=20)
CONFIGS = {"v1": V1, "v2": V2, "v3": V3, "biased": BIASED}
HEADS = {None: Deberta, "masked_lm": MaskedLM}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@functools.cache
def made(config, head="masked_lm"):
    """A model in which every parameter differs from every other, biases and norms too."""
    random = np.random.default_rng(0)
    abstract = jax.eval_shape(lambda key: HEADS[head](config, key=key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), abstract)


def same(one, other):
    """Whether two models hold the same parameters; a config that was read keeps more keys than one that was made."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    return all(path == its_path and (leaf == its_leaf).all() for (path, leaf), (its_path, its_leaf) in pairs)


@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_is_loaded_again(config, head, tmp_path):
    model = made(config, head)
    save_pretrained(tmp_path / "deep" / "folder", model)
    loaded, tokenizer = from_pretrained(tmp_path / "deep" / "folder", head)
    assert type(loaded) is HEADS[head]
    assert same(loaded, model)
    assert tokenizer is None
    assert sorted(os.listdir(tmp_path / "deep" / "folder")) == ["config.json", "model.safetensors"]


def test_the_config_says_what_transformers_should_load(config, tmp_path):
    save_pretrained(tmp_path, made(config))
    values = json.loads((tmp_path / "config.json").read_text())
    version = "" if config.model_type == "deberta" else "V2"
    assert values["architectures"] == [f"Deberta{version}ForMaskedLM"]
    assert values["model_type"] == config.model_type
    assert values["legacy"] is False
    save_pretrained(tmp_path, made(config, None))
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == [f"Deberta{version}Model"]
    assert "legacy" not in values


def test_the_tokenizer_goes_with_the_model(tmp_path):
    text = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
    tokenizer = train_tokenizer([text] * 20, tmp_path / "spm.model", 300)
    dj.save_pretrained(tmp_path / "model", made(V3), tokenizer)
    _, loaded = dj.from_pretrained(tmp_path / "model", head="masked_lm")
    assert loaded.sha256 == tokenizer.sha256
    assert (loaded.encode(text) == tokenizer.encode(text)).all()


def test_of_a_large_corpus_the_same_sample_is_trained_on_at_every_call():
    lines = [str(number) for number in range(1000)]
    sample = _sample(iter(lines), 100)
    assert sample == _sample(iter(lines), 100)
    assert len(set(sample)) == 100
    assert set(sample) <= set(lines)
    assert 350 < np.mean([int(line) for line in sample]) < 650
    assert _sample(iter(lines), 1000) == lines


def test_a_bare_model_is_read_out_of_a_masked_language_model(config, tmp_path):
    model = made(config)
    save_pretrained(tmp_path, model)
    assert same(from_pretrained(tmp_path)[0], model.deberta)


def test_a_head_that_the_file_has_not_is_missed_by_name(tmp_path):
    save_pretrained(tmp_path, made(V3, None))
    with pytest.raises(InputError, match=r"5 tensors do not fit the model: lm_predictions.lm_head.dense.weight is mis"):
        from_pretrained(tmp_path, "masked_lm")


def test_masks_are_filled_without_the_decoder_where_the_file_has_no_positions(tmp_path, caplog):
    model = made(V3)
    save_pretrained(tmp_path, model)
    weights = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    del tensors["deberta.embeddings.position_embeddings.weight"]
    safetensors.numpy.save_file(tensors, weights)
    with caplog.at_level(logging.WARNING):
        loaded, _ = from_pretrained(tmp_path, "masked_lm")
    assert loaded.decoder is None
    assert same(loaded.head, model.head)
    assert [record.getMessage().split(": ")[1][:27] for record in caplog.records] == [
        "holds no position embeddings"[:27]
    ]


def test_a_model_loaded_for_bfloat16_keeps_float32_parameters(tmp_path):
    save_pretrained(tmp_path, made(V3))
    model, _ = from_pretrained(tmp_path, "masked_lm", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype("float32")}
    ids = np.arange(4, 12)[None]
    assert jax.eval_shape(model.states, ids).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_files_of_half_precision_are_read(dtype, tmp_path):
    model = made(V3)
    save_pretrained(tmp_path, model)
    weights = tmp_path / "model.safetensors"
    halves = {name: x.astype(jnp.dtype(dtype)) for name, x in safetensors.numpy.load_file(weights).items()}
    safetensors.numpy.save_file(halves, weights)
    loaded, _ = from_pretrained(tmp_path, "masked_lm")
    assert same(loaded, jax.tree.map(lambda x: x.astype(dtype).astype("float32"), model))


def test_a_folder_that_is_no_models_is_refused_in_one_line(tmp_path):
    def message():
        with pytest.raises(InputError) as caught:
            from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.json: no such file" in message()
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"')
    assert "config.json: not JSON" in message()
    save_pretrained(tmp_path, made(V3))
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "model.safetensors: not a whole safetensors file" in message()
    weights.write_bytes(b"")
    assert "model.safetensors: not a whole safetensors file" in message()
    weights.unlink()
    assert "model.safetensors: no such file" in message()


def test_an_identifier_of_the_hub_is_no_folder():
    with pytest.raises(InputError, match="microsoft/deberta-v3-base: no such folder; a local folder with config.json"):
        from_pretrained("microsoft/deberta-v3-base")


def test_weights_of_another_geometry_are_refused_with_both_shapes(tmp_path):
    save_pretrained(tmp_path, made(V3))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"intermediate_size": 44}))
    with pytest.raises(InputError, match=r"intermediate.dense.weight has shape \(40, 24\), \(44, 24\) in the model"):
        from_pretrained(tmp_path)


def test_a_disk_that_is_full_leaves_the_former_model(tmp_path, monkeypatch):
    model = made(V3)
    save_pretrained(tmp_path, model)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(InputError, match=r"model.safetensors: could not be written \(.*No space left on device\)"):
        save_pretrained(tmp_path, jax.tree.map(lambda x: x + 1, model))
    assert same(from_pretrained(tmp_path, "masked_lm")[0], model)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder could be made"):
        save_pretrained(tmp_path / "file", model)


def arguments_of(config, rows=3, length=14):
    """Ids, and a mask with padding, a hole and a whole row."""
    random = np.random.default_rng(0)
    mask = np.ones((rows, length), np.int64)
    mask[0, 9:], mask[1, 4] = 0, 0
    return random.integers(1, config.vocab_size, (rows, length)), mask


def transformers_values(config):
    """What a test's config says to transformers, without keys of ours."""
    values = config.to_dict()
    return {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}


def theirs(model, ids, mask):
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=torch.tensor(mask))[0].numpy()


@pytest.fixture
def transformers():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


REFERENCES = {
    "v1": ("DebertaModel", "DebertaConfig", V1, {}),
    "v2": ("DebertaV2Model", "DebertaV2Config", V2, {}),
    "v1 with positions": ("DebertaModel", "DebertaConfig", dataclasses.replace(V1, position_biased_input=True), {}),
    "v3 masked": ("DebertaV2ForMaskedLM", "DebertaV2Config", V3, {"legacy": False}),
    "v3 masked, legacy": ("DebertaV2ForMaskedLM", "DebertaV2Config", BIASED, {"legacy": True}),
    "v1 masked": ("DebertaForMaskedLM", "DebertaConfig", V1, {"legacy": False}),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", REFERENCES)
def test_a_model_of_transformers_is_loaded_and_agrees(name, tmp_path, transformers):
    class_name, config_name, config, settings = REFERENCES[name]
    values = transformers_values(config) | settings | {"initializer_range": 0.3, "attn_implementation": "eager"}
    model = getattr(transformers, class_name)(getattr(transformers, config_name)(**values)).eval()
    model.save_pretrained(tmp_path)
    ids, mask = arguments_of(config)
    head = "masked_lm" if "MaskedLM" in class_name else None
    ours, _ = from_pretrained(tmp_path, head)
    if head is None:
        output = ours(ids, mask).last_hidden_state
    else:
        # Hugging Face has no enhanced mask decoder: a file of theirs has no positions, or adds them to the input.
        assert ours.decoder is None
        output = ours(ids, mask)
    wanted = theirs(model, ids, mask)
    real = mask[..., None] == 1
    np.testing.assert_allclose(np.where(real, output, 0), np.where(real, wanted, 0), atol=1e-5 * max(1, wanted.std()))


@pytest.mark.reference
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
@pytest.mark.parametrize("head", HEADS)
def test_transformers_loads_what_is_saved_and_agrees(name, head, tmp_path, transformers):
    config = CONFIGS[name]
    model = made(config, head)
    save_pretrained(tmp_path, model)
    class_name = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    model_of_theirs, report = getattr(transformers, class_name).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) <= {"deberta.embeddings.position_embeddings.weight"}
    ids, mask = arguments_of(config)
    if head is None:
        output = model(ids, mask).last_hidden_state
    else:
        states = model.deberta(ids, mask).last_hidden_state
        output = model.head(states, model.deberta.embeddings.word.table[...])
    wanted = theirs(model_of_theirs.eval(), ids, mask)
    real = mask[..., None] == 1
    np.testing.assert_allclose(np.where(real, output, 0), np.where(real, wanted, 0), atol=1e-5 * max(1, wanted.std()))
