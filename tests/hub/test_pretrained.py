import dataclasses
import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from mock_hub import serving
from toy_folders import CONFIGS, V2, V3, same_parameters, toy_model, toy_tensors, write_microsoft_folder

import deberta_jax as dj
from deberta_jax.errors import InputError
from deberta_jax.hub.config_file import config_of
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import from_pretrained, load_pretrained, save_pretrained
from deberta_jax.hub.tensors import read_tensors, weight_file
from deberta_jax.tokenizers.train import train_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(v3_folder, tmp_path):
    """A saved masked language model that a test may change."""
    return shutil.copytree(v3_folder, tmp_path / "model")


def contains(folder, model):
    """Whether the folder's weights are those of a masked language model."""
    tensors = read_tensors(weight_file(folder))
    arrays = export_tensors(model, config_of(model), lm_prefix="cls")
    return tensors.keys() == arrays.keys() and all((tensors[name].read() == x).all() for name, x in arrays.items())


def shifted(model):
    return jax.tree.map(lambda x: x + 1, model)


@pytest.mark.parametrize(
    ("name", "head"), [*(("v2", head) for head in HEADS), ("v1", "masked_lm"), ("v1", None), ("biased", "masked_lm")]
)
def test_a_saved_model_is_loaded_again(name, head, tmp_path):
    model = toy_model(CONFIGS[name], head)
    save_pretrained(tmp_path / "deep" / "folder", model)
    loaded, tokenizer = load_pretrained(tmp_path / "deep" / "folder", head, require_tokenizer=False)
    assert type(loaded) is HEADS[head].model
    assert same_parameters(loaded, model)
    assert tokenizer is None
    assert sorted(os.listdir(tmp_path / "deep" / "folder")) == ["config.json", WEIGHTS]


def test_the_tokenizer_is_saved_with_the_model(tmp_path):
    text = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
    tokenizer = train_tokenizer([text] * 20, tmp_path / "spm.model", 300)
    dj.save_pretrained(tmp_path / "model", toy_model(V3), tokenizer)
    _, loaded = dj.from_pretrained(tmp_path / "model", head="masked_lm")
    assert loaded.sha256 == tokenizer.sha256
    assert (loaded.encode(text) == tokenizer.encode(text)).all()


def test_a_folder_without_a_tokenizer_is_refused_before_the_weights_are_read(folder):
    for load in (from_pretrained, load_pretrained):
        with pytest.raises(InputError) as error:
            load(folder, "masked_lm")
        message = "no tokenizer in this folder; expected one of tokenizer.json, spm.model, vocab.json, "
        assert str(error.value).startswith(f"{folder}: {message}") and "require_tokenizer=False" in str(error.value)
        assert "\n" not in str(error.value)
    assert from_pretrained(folder, require_tokenizer=False)[1] is None


def test_a_bare_model_is_read_from_a_masked_language_model(v3_folder):
    assert same_parameters(from_pretrained(v3_folder, require_tokenizer=False)[0], toy_model(V3).deberta)


def test_a_model_is_loaded_with_a_precision(v3_folder):
    model, _ = from_pretrained(v3_folder, "masked_lm", precision="tf32", require_tokenizer=False)
    assert model.precision == model.head.precision == "tf32"


def test_a_missing_head_is_initialized_and_logged_by_name(v3_folder, caplog):
    model, _ = from_pretrained(
        v3_folder, "sequence_classification", labels=("no", "maybe", "yes"), require_tokenizer=False
    )
    assert model.classifier.kernel.shape == (32, 3)
    assert config_of(model).labels == ("no", "maybe", "yes")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "not in the file, initialized randomly: pooler.dense.weight, pooler.dense.bias, classifier.weight, "
        "classifier.bias"
    ]
    assert same_parameters(model.deberta, toy_model(V3).deberta)
    with pytest.raises(InputError, match=r"4 tensors do not fit the model: pooler.dense.weight is missing"):
        load_pretrained(v3_folder, "sequence_classification", require_tokenizer=False)


def test_a_classifier_with_other_labels_is_replaced_and_its_pooler_kept(tmp_path, caplog):
    config = dataclasses.replace(V3, labels=("contradiction", "neutral", "entailment"))
    model = toy_model(config, "sequence_classification")
    save_pretrained(tmp_path, model)
    names = json.loads((tmp_path / "config.json").read_text())["id2label"]
    assert names == {"0": "contradiction", "1": "neutral", "2": "entailment"}
    load = functools.partial(from_pretrained, tmp_path, "sequence_classification", require_tokenizer=False)
    same, _ = load(labels=("entailment", "neutral", "contradiction"))
    assert same_parameters(same, model)
    assert config_of(same).labels == config.labels
    assert not caplog.records
    other, _ = load(labels=("a", "b"))
    assert other.classifier.kernel.shape == (32, 2)
    assert same_parameters(other.pooler, model.pooler)
    assert "initialized randomly: classifier.weight, classifier.bias" in caplog.text


def test_the_file_gives_the_number_of_labels_if_the_config_does_not(tmp_path):
    config = dataclasses.replace(V3, labels=("a", "b", "c"))
    model = toy_model(config, "token_classification")
    save_pretrained(tmp_path, model)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["id2label"], values["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert same_parameters(load_pretrained(tmp_path, "token_classification", require_tokenizer=False)[0], model)


@pytest.mark.parametrize(("head", "part"), [("question_answering", "qa_outputs"), ("multiple_choice", "classifier")])
def test_another_task_starts_from_a_classifier_without_its_labels(head, part, tmp_path, caplog):
    config = dataclasses.replace(V3, labels=("a", "b", "c"), problem_type="multi_label_classification")
    save_pretrained(tmp_path, toy_model(config, "sequence_classification"))
    model, _ = from_pretrained(tmp_path, head, require_tokenizer=False)
    assert f"initialized randomly: {part}.weight, {part}.bias" in caplog.text
    assert config_of(model).labels == V3.labels
    assert config_of(model).problem_type is None
    assert same_parameters(model.deberta, toy_model(config, "sequence_classification").deberta)


def test_a_discriminator_loaded_to_fill_masks_is_logged(tmp_path, caplog):
    write_microsoft_folder(tmp_path, toy_tensors(V3) | toy_tensors(V3, "replaced_token_detection"), V3)
    load_pretrained(tmp_path, "masked_lm", require_tokenizer=False)
    assert "the discriminator of a pair, which is not trained to fill masks; load its generator" in caplog.text


def test_masks_are_filled_without_the_decoder_if_the_file_has_no_positions(folder, caplog):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    del tensors["deberta.embeddings.position_embeddings.weight"]
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    loaded, _ = load_pretrained(folder, "masked_lm", require_tokenizer=False)
    assert loaded.decoder is None
    assert same_parameters(loaded.head, toy_model(V3).head)
    [record] = caplog.records
    assert record.getMessage().startswith(f"{folder}: no position embeddings in the file; masks are filled from the")


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_save_leaves_the_previous_model(at, tmp_path, monkeypatch):
    former, latter = toy_model(V3), shifted(toy_model(V3))
    save_pretrained(tmp_path, former, max_file_bytes=30_000)
    replace, calls = os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == at:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(tmp_path, latter, max_file_bytes=30_000)
    monkeypatch.undo()
    assert contains(tmp_path, former)
    assert not list(tmp_path.glob("*.partial"))
    save_pretrained(tmp_path, latter, max_file_bytes=30_000)
    assert contains(tmp_path, latter)


def test_a_full_disk_leaves_the_previous_model(folder, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(InputError, match=r"model.safetensors: cannot be written \(No space left on device\)"):
        save_pretrained(folder, shifted(toy_model(V3)))
    assert contains(folder, toy_model(V3))
    assert sorted(os.listdir(folder)) == ["config.json", WEIGHTS]
    (folder / "file").write_text("")
    with pytest.raises(InputError, match="cannot create this folder"):
        save_pretrained(folder / "file", toy_model(V3))


def test_saved_weights_are_as_readable_as_other_files(v3_folder):
    modes = {path.name: path.stat().st_mode for path in v3_folder.iterdir()}
    assert modes[WEIGHTS] == modes["config.json"]


def test_large_weights_are_split_into_files_and_previous_ones_removed(folder):
    model = toy_model(V3)
    save_pretrained(folder, model, max_file_bytes=20_000)
    files = sorted(os.listdir(folder))
    count = len(files) - 2
    assert count > 2
    assert files[1] == f"model-00001-of-{count:05}.safetensors"
    assert files[-1] == f"{WEIGHTS}.index.json"
    assert same_parameters(load_pretrained(folder, "masked_lm", require_tokenizer=False)[0], model)
    (folder / files[2]).unlink()
    with pytest.raises(InputError, match=rf"index.json: 1 of {count} files are missing: {files[2]}"):
        load_pretrained(folder, require_tokenizer=False)
    save_pretrained(folder, model)
    assert sorted(os.listdir(folder)) == ["config.json", WEIGHTS]


@pytest.mark.parametrize("options", [{"param_dtype": "int8"}, {"param_dtype": "what"}, {"dtype": "int32"}])
def test_dtypes_that_are_not_floating_point_are_refused(options, v3_folder):
    with pytest.raises(InputError, match=r"dtype is .*; expected a floating-point type such as float32 or bfloat16"):
        from_pretrained(v3_folder, **options, require_tokenizer=False)
    with pytest.raises(InputError, match="float64, which JAX supports only with jax_enable_x64"):
        from_pretrained(v3_folder, param_dtype="float64", require_tokenizer=False)


def test_a_model_is_loaded_onto_a_mesh_and_computes_there(tmp_path):
    model = toy_model(V2, "sequence_classification")
    save_pretrained(tmp_path, model)
    mesh = dj.make_mesh(data=2, fsdp=2, tensor=2)
    loaded, _ = from_pretrained(tmp_path, "sequence_classification", mesh=mesh, require_tokenizer=False)
    assert same_parameters(loaded, model)
    kernel = loaded.deberta.encoder.layers.up.kernel
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 24)
    with jax.set_mesh(mesh):
        assert jax.jit(lambda model: model(np.arange(16).reshape(8, 2)))(loaded).shape == (8, 2)


def test_a_model_that_computes_in_bfloat16_keeps_float32_parameters(v3_folder):
    model, _ = from_pretrained(v3_folder, "masked_lm", dtype="bfloat16", require_tokenizer=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype("float32")}
    ids = np.arange(4, 12)[None]
    assert jax.eval_shape(model.states, ids).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_files_of_half_precision_are_read(dtype, folder):
    halves = {name: x.astype(jnp.dtype(dtype)) for name, x in safetensors.numpy.load_file(folder / WEIGHTS).items()}
    safetensors.numpy.save_file(halves, folder / WEIGHTS)
    loaded, _ = load_pretrained(folder, "masked_lm", require_tokenizer=False)
    assert same_parameters(loaded, jax.tree.map(lambda x: x.astype(dtype).astype("float32"), toy_model(V3)))


def test_a_folder_without_a_model_is_refused_in_one_line(folder):
    def message():
        with pytest.raises(InputError) as error:
            from_pretrained(folder, require_tokenizer=False)
        assert "\n" not in str(error.value)
        return str(error.value)

    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1])
    assert f"{WEIGHTS}: not a complete safetensors file" in message()
    (folder / WEIGHTS).write_bytes(b"")
    assert f"{WEIGHTS}: not a complete safetensors file" in message()
    (folder / WEIGHTS).unlink()
    assert "no weights; expected model.safetensors or pytorch_model.bin" in message()
    (folder / "config.json").unlink()
    assert "config.json: no such file" in message()


def test_weights_of_another_geometry_are_refused_with_both_shapes(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"intermediate_size": 44}))
    with pytest.raises(InputError, match=r"intermediate.dense.weight has shape \(48, 32\), \(44, 32\) in the model"):
        from_pretrained(folder, require_tokenizer=False)


def test_a_model_of_the_hub_is_loaded_by_its_name(v3_folder, tmp_path, monkeypatch):
    with serving({"me/tiny": v3_folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert same_parameters(from_pretrained("me/tiny", "masked_lm", require_tokenizer=False)[0], toy_model(V3))
