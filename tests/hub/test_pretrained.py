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
from mock_hub import serving

import deberta_jax as dj
from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import (
    HEADS,
    config_of,
    from_pretrained,
    has_generator,
    load_pretrained,
    read_generator,
    save_pretrained,
)
from deberta_jax.hub.tensors import weight_file
from deberta_jax.model.heads import TokenClassification
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.torch_format.file import write_torch_file

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
WORDS = "deberta.embeddings.word_embeddings.weight"
TASKS = [head for head in HEADS if head not in (None, "masked_lm")]


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
    assert values["legacy"] is True
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


def test_a_bare_model_is_read_out_of_a_masked_language_model(config, tmp_path):
    model = made(config)
    save_pretrained(tmp_path, model)
    assert same(from_pretrained(tmp_path)[0], model.deberta)


def test_a_head_that_the_file_has_not_is_new_and_said_once_by_name(tmp_path, caplog):
    save_pretrained(tmp_path, made(V3))
    model, _ = from_pretrained(tmp_path, "sequence_classification", labels=("no", "maybe", "yes"))
    assert model.classifier.kernel.shape == (24, 3)
    assert config_of(model).labels == ("no", "maybe", "yes")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "has no pooler.dense.weight, pooler.dense.bias, classifier.weight, classifier.bias: newly initialised, to be "
        "trained"
    ]
    assert same(model.deberta, made(V3).deberta)
    with pytest.raises(InputError, match=r"4 tensors do not fit the model: pooler.dense.weight is missing"):
        load_pretrained(tmp_path, "sequence_classification")


def test_a_classifier_of_other_labels_is_left_in_the_file_and_its_pooler_kept(tmp_path, caplog):
    config = dataclasses.replace(V3, labels=("contradiction", "neutral", "entailment"))
    model = made(config, "sequence_classification")
    save_pretrained(tmp_path, model)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {
        "0": "contradiction",
        "1": "neutral",
        "2": "entailment",
    }
    assert same(from_pretrained(tmp_path, "sequence_classification")[0], model)
    reordered = ("entailment", "neutral", "contradiction")
    kept = from_pretrained(tmp_path, "sequence_classification", labels=reordered)[0]
    assert same(kept, model)
    assert config_of(kept).labels == config.labels
    assert not caplog.records
    two, _ = from_pretrained(tmp_path, "sequence_classification", labels=("a", "b"))
    assert two.classifier.kernel.shape == (24, 2)
    assert same(two.pooler, model.pooler)
    assert "has no classifier.weight, classifier.bias: newly" in caplog.text
    with pytest.raises(InputError, match="labels are those of a classifier; head is 'masked_lm'"):
        from_pretrained(tmp_path, "masked_lm", labels=("a",))


def test_the_number_of_labels_is_the_files_where_the_config_is_silent(tmp_path):
    config = dataclasses.replace(V3, labels=("a", "b", "c"))
    model = made(config, "token_classification")
    save_pretrained(tmp_path, model)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["id2label"], values["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert same(from_pretrained(tmp_path, "token_classification")[0], model)


@pytest.mark.parametrize("head", TASKS)
def test_every_head_is_saved_and_loaded_again(head, tmp_path):
    save_pretrained(tmp_path, made(V2, head))
    assert same(load_pretrained(tmp_path, head).model, made(V2, head))


def microsoft_folder(folder, tensors, config, name="pytorch_model.bin"):
    """A folder as Microsoft's own code leaves it."""
    folder.mkdir(exist_ok=True)
    write_torch_file(folder / name, tensors.items())
    values = config.to_dict() | {"padding_idx": config.pad_token_id, "pos_att_type": "|".join(config.pos_att_type)}
    values = {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}
    (folder / "model_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_a_folder_of_microsofts_is_read(name, tmp_path):
    config = CONFIGS[name]
    model = made(config, "token_classification")
    old = {key.replace("deberta.", "bert."): x for key, x in export_tensors(model, config).items()}
    microsoft_folder(tmp_path, old | {"proj.weight": np.eye(24, dtype="f"), "proj.bias": np.zeros(24, "f")}, config)
    loaded, _ = from_pretrained(tmp_path, "token_classification")
    assert same(loaded.deberta, model.deberta)
    assert same(loaded.classifier, model.classifier)
    np.testing.assert_array_equal(loaded.projection.kernel, np.eye(24))


def test_the_generator_is_read_out_of_its_own_file(tmp_path, caplog):
    shallow = dataclasses.replace(V3, num_hidden_layers=2)
    generator, discriminator = made(shallow), made(V3, "replaced_token_detection")
    words = "deberta.embeddings.word_embeddings"
    mine, its = export_tensors(discriminator, V3), export_tensors(generator, shallow)
    mine[f"{words}._weight"] = mine.pop(f"{words}.weight") - its[f"{words}.weight"]
    microsoft_folder(tmp_path, mine, V3)
    with pytest.raises(InputError, match="only the difference to a generator's tables"):
        from_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds no generator: pytorch_model.generator.bin is wanted"):
        from_pretrained(tmp_path, "masked_lm", generator=True)
    write_torch_file(tmp_path / "pytorch_model.generator.bin", its.items())
    loaded, _ = from_pretrained(tmp_path, "masked_lm", generator=True)
    assert same(loaded, generator)
    assert loaded.decoder is not None
    loaded, _ = from_pretrained(tmp_path, "replaced_token_detection")
    wanted = (mine[f"{words}._weight"] + its[f"{words}.weight"]).astype("f")
    np.testing.assert_array_equal(loaded.deberta.embeddings.word.embedding, wanted)
    assert same(loaded.detector, discriminator.detector)


def test_of_what_microsofts_training_saved_the_latest_step_is_read(tmp_path):
    latest, model = "pytorch.model-1000000.bin", made(V3)
    tensors = export_tensors(model, V3)
    for step in "000100", "999999", "best":
        write_torch_file(tmp_path / f"pytorch.model-{step}.bin", [("another", np.zeros(1, "f"))])
    microsoft_folder(tmp_path, tensors, V3, latest)
    assert weight_file(tmp_path).name == latest
    assert same(from_pretrained(tmp_path, "masked_lm")[0], model)
    # Where the usual file is there too, it is the model.
    microsoft_folder(tmp_path, tensors, V3)
    assert weight_file(tmp_path).name == "pytorch_model.bin"


def test_a_generator_is_read_with_its_own_depth_wherever_it_lies(tmp_path):
    shallow = dataclasses.replace(V3, num_hidden_layers=2)
    generator, discriminator = made(shallow), made(V3, "replaced_token_detection")
    its, mine = export_tensors(generator, shallow), export_tensors(discriminator, V3)
    beside = microsoft_folder(tmp_path / "beside", mine, V3)
    write_torch_file(beside / "pytorch_model.generator.bin", its.items())
    pair = {f"generator.{name}": x for name, x in its.items()} | {
        f"discriminator.{name}": x for name, x in mine.items()
    }
    both = microsoft_folder(tmp_path / "both", pair, V3)
    alone = microsoft_folder(tmp_path / "alone", its, shallow, "pytorch.model-000100.bin")
    save_pretrained(tmp_path / "saved", generator)
    for folder, its_own in {beside: False, both: False, alone: True, tmp_path / "saved": True}.items():
        config, tensors, source = read_generator(folder)
        assert has_generator(folder) == (not its_own)
        assert config.num_hidden_layers == 2
        assert source.parent == folder
        np.testing.assert_array_equal(tensors["deberta.embeddings.word_embeddings.weight"].read(), its[WORDS])
    microsoft_folder(tmp_path / "discriminator", mine, V3)
    with pytest.raises(InputError, match="pytorch_model.bin: is a discriminator, and no generator is beside it"):
        read_generator(tmp_path / "discriminator")


def test_that_a_discriminator_was_not_trained_to_fill_masks_is_said(tmp_path, caplog):
    tensors = export_tensors(made(V3), V3) | export_tensors(made(V3, "replaced_token_detection"), V3)
    microsoft_folder(tmp_path, tensors, V3)
    from_pretrained(tmp_path, "masked_lm")
    assert "is the discriminator of a pair, which was not trained to fill masks; generator=True" in caplog.text


def test_a_pair_in_one_file_is_read_with_the_config_of_each(tmp_path):
    shallow = dataclasses.replace(V3, num_hidden_layers=2)
    generator, discriminator = made(shallow), made(V3, "replaced_token_detection")
    pair = {f"generator.{name}": x for name, x in export_tensors(generator, shallow).items()}
    pair |= {f"discriminator.{name}": x for name, x in export_tensors(discriminator, V3).items()}
    microsoft_folder(tmp_path, pair, V3)
    one = json.loads((tmp_path / "model_config.json").read_text())
    two = {"generator": one | {"num_hidden_layers": 2}, "discriminator": one, "embedding_sharing": "none"}
    (tmp_path / "model_config.json").write_text(json.dumps(two))
    assert same(from_pretrained(tmp_path, "masked_lm", generator=True)[0], generator)
    assert same(from_pretrained(tmp_path, "replaced_token_detection")[0], discriminator)


@pytest.mark.parametrize(("head", "new"), [("question_answering", "qa_outputs"), ("multiple_choice", "classifier")])
def test_another_task_starts_from_a_classifier_without_its_labels(head, new, tmp_path, caplog):
    config = dataclasses.replace(V3, labels=("a", "b", "c"), problem_type="multi_label_classification")
    save_pretrained(tmp_path, made(config, "sequence_classification"))
    model, _ = from_pretrained(tmp_path, head)
    assert f"has no {new}.weight, {new}.bias: newly initialised" in caplog.text
    assert config_of(model).labels == V3.labels
    assert config_of(model).problem_type is None
    assert same(model.deberta, made(config, "sequence_classification").deberta)
    assert config_of(from_pretrained(tmp_path, "sequence_classification", labels=("x", "y"))[0]).problem_type is None


def test_what_transformers_has_no_class_for_is_named_as_the_encoder(tmp_path):
    def architecture(model):
        save_pretrained(tmp_path, model)
        return json.loads((tmp_path / "config.json").read_text())["architectures"]

    assert architecture(made(V1, "multiple_choice")) == ["DebertaModel"]
    assert architecture(made(V3, "multiple_choice")) == ["DebertaV2ForMultipleChoice"]
    projected = jax.tree.map(jnp.asarray, TokenClassification(V3, projected=True, key=jax.random.key(0)))
    assert architecture(projected) == ["DebertaV2Model"]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_save_leaves_the_former_model_whole(at, tmp_path, monkeypatch):
    former = made(V3)
    save_pretrained(tmp_path, former, most_bytes=30_000)
    latter = jax.tree.map(lambda x: x + 1, former)
    replace, calls = os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == at:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(tmp_path, latter, most_bytes=30_000)
    monkeypatch.undo()
    assert same(from_pretrained(tmp_path, "masked_lm")[0], former)
    save_pretrained(tmp_path, latter, most_bytes=30_000)
    assert same(from_pretrained(tmp_path, "masked_lm")[0], latter)


def test_others_may_read_what_is_saved(tmp_path):
    save_pretrained(tmp_path, made(V3))
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize("options", [{"param_dtype": "int8"}, {"param_dtype": "what"}, {"dtype": "int32"}])
def test_parameters_of_a_type_that_cannot_be_are_refused(options, tmp_path):
    save_pretrained(tmp_path, made(V3))
    with pytest.raises(InputError, match=r"dtype is .*; a floating type such as float32 or bfloat16 is wanted"):
        from_pretrained(tmp_path, **options)
    with pytest.raises(InputError, match="float64, which JAX has only with jax_enable_x64"):
        from_pretrained(tmp_path, param_dtype="float64")


@pytest.mark.parametrize("labels", ["yes", (), ("a", "a")])
def test_labels_that_are_no_names_are_refused(labels, tmp_path):
    save_pretrained(tmp_path, made(V3))
    with pytest.raises(InputError, match=r"labels must (be a list of names|differ from each other)"):
        load_pretrained(tmp_path, "sequence_classification", labels=labels)


def test_large_weights_are_split_over_files_and_old_ones_go(tmp_path):
    model = made(V3)
    save_pretrained(tmp_path, model)
    save_pretrained(tmp_path, model, most_bytes=20_000)
    files = sorted(os.listdir(tmp_path))
    parts = len(files) - 2
    assert parts > 2
    assert files[1] == f"model-00001-of-{parts:05}.safetensors"
    assert files[-1] == "model.safetensors.index.json"
    assert same(from_pretrained(tmp_path, "masked_lm")[0], model)
    (tmp_path / files[2]).unlink()
    with pytest.raises(InputError, match=rf"index.json: 1 of {parts} files are missing: {files[2]}"):
        from_pretrained(tmp_path)
    save_pretrained(tmp_path, model)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_loaded_straight_onto_a_mesh(dtype, tmp_path):
    model = made(V2, "sequence_classification")
    save_pretrained(tmp_path, model)
    mesh = dj.make_mesh(data=2, fsdp=4)
    loaded, _ = from_pretrained(tmp_path, "sequence_classification", mesh=mesh, param_dtype=dtype)
    assert same(loaded, jax.tree.map(lambda x: x.astype(dtype), model))
    kernel = loaded.deberta.encoder.layers.up.kernel
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 6, 40)
    with jax.set_mesh(mesh):
        assert jax.jit(lambda model: model(np.arange(16).reshape(8, 2)))(loaded).shape == (8, 2)


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
    assert "holds no weights; model.safetensors or pytorch_model.bin is wanted" in message()


def test_a_model_of_the_hub_is_loaded_by_its_name(tmp_path, monkeypatch):
    save_pretrained(tmp_path / "tiny", made(V3))
    with serving({"me/tiny": tmp_path / "tiny"}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert same(from_pretrained("me/tiny", "masked_lm")[0], made(V3))


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


@pytest.fixture
def transformers():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


CLASSES = {
    "Model": None,
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
}
LABELS = tuple("abcde")


def classes(name):
    """The classes of transformers for a config, by our names of heads."""
    version = "Deberta" if CONFIGS[name].model_type == "deberta" else "DebertaV2"
    known = {head: version + suffix for suffix, head in CLASSES.items()}
    return {head: kind for head, kind in known.items() if kind != "DebertaForMultipleChoice"}


ALL = [(name, head) for name in CONFIGS for head in classes(name)]


def outputs_of(model, head, ids, mask):
    """What a head of ours gives, at real tokens; masks are filled from the last layer, as transformers does."""
    if head is None:
        return np.where(mask[..., None] == 1, model(ids, mask).last_hidden_state, 0)
    if head == "masked_lm":
        states = model.deberta(ids, mask).last_hidden_state
        return np.where(mask[..., None] == 1, model.head(states, model.deberta.embeddings.word.embedding[...]), 0)
    if head == "multiple_choice":
        return np.asarray(model(np.stack([ids, ids[::-1]], 1), np.stack([mask, mask[::-1]], 1)))
    output = model(ids, mask)
    if head == "question_answering":
        return np.where(mask == 1, output.start, 0)
    return np.where(mask[..., None] == 1, output, 0) if head == "token_classification" else np.asarray(output)


def theirs(model, head, ids, mask):
    import torch

    if head == "multiple_choice":
        ids, mask = np.stack([ids, ids[::-1]], 1), np.stack([mask, mask[::-1]], 1)
    with torch.no_grad():
        output = model(torch.tensor(ids), attention_mask=torch.tensor(mask))[0].float().numpy()
    if head in (None, "masked_lm", "token_classification"):
        return np.where(mask[..., None] == 1, output, 0)
    return np.where(mask == 1, output, 0) if head == "question_answering" else output


def agree(ours, wanted):
    np.testing.assert_allclose(ours, wanted, atol=1e-5 * max(1, wanted.std()))


@pytest.mark.reference
@pytest.mark.parametrize(("name", "head"), ALL)
@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin", "bfloat16"])
def test_a_model_of_transformers_is_loaded_and_agrees(name, head, form, tmp_path, transformers):
    import torch

    config, kind = CONFIGS[name], classes(name)[head]
    values = transformers_values(config) | {"initializer_range": 0.1, "attn_implementation": "eager"}
    torch.manual_seed(0)
    values |= {"num_labels": len(LABELS)} if head in ("sequence_classification", "token_classification") else {}
    values |= {"legacy": name == "biased"} if head == "masked_lm" else {}
    version = kind.partition("For")[0].removesuffix("Model")
    model = getattr(transformers, kind)(getattr(transformers, f"{version}Config")(**values)).eval()
    if form == "bfloat16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if form == "sharded" else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == (form == "sharded")
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_pretrained(tmp_path, head).model
    if head == "masked_lm":
        # Hugging Face has no enhanced mask decoder: a file of theirs has no positions, or adds them to the input.
        assert loaded.decoder is None
    ids, mask = arguments_of(config)
    agree(outputs_of(loaded, head, ids, mask), theirs(model.float(), head, ids, mask))


@pytest.mark.reference
@pytest.mark.parametrize(("name", "head"), [(name, head) for name, head in ALL if name != "biased"])
def test_transformers_loads_what_is_saved_and_agrees(name, head, tmp_path, transformers):
    config = dataclasses.replace(CONFIGS[name], labels=LABELS if "classification" in (head or "") else V3.labels)
    model = made(config, head)
    save_pretrained(tmp_path, model, most_bytes=30_000)
    class_name = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert class_name == classes(name)[head]
    model_of_theirs, report = getattr(transformers, class_name).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) <= {"deberta.embeddings.position_embeddings.weight"}
    if config.labels == LABELS:
        assert model_of_theirs.config.id2label == dict(enumerate(LABELS))
    ids, mask = arguments_of(config)
    agree(outputs_of(model, head, ids, mask), theirs(model_of_theirs.eval(), head, ids, mask))
