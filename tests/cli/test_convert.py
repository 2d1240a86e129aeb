"""Conversions between the formats of Hugging Face and Microsoft and the checkpoints of runs."""

import contextlib
import dataclasses
import json
import os
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_folders import matrices, merged, write_adapter
from sentence_folders import TEXTS, dense, write_sentence_folder
from toy_folders import READING, V1, V3, random_model, toy_model, toy_tensors

from deberta_jax.cli.main import main
from deberta_jax.files import lock_output
from deberta_jax.hub.layout import export_tensors, with_lm_prefix
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.hub.tensors import as_tensor, read_tensors, write_safetensors
from deberta_jax.inference.embeddings import embed
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining import checkpoints
from deberta_jax.pretraining.checkpoints import pretrain_command
from deberta_jax.pretraining.config import RtdConfig, generator_config
from deberta_jax.pretraining.recipes import Selection, recipe
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.torch_format.file import write_torch_file
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.state import TrainState

LABELED_V1 = dataclasses.replace(V1, labels=("no", "yes", "maybe"))
TINY = dataclasses.replace(PRESETS["tiny"], vocab_size=64)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
    return train_tokenizer([text] * 10, tmp_path_factory.mktemp("vocabulary") / "spm.model", 290)


@pytest.fixture
def no_fingerprints(monkeypatch):
    """Checkpoints without fingerprints, which other tests check: compiling them takes most of the time."""
    monkeypatch.setattr("deberta_jax.training.checkpoint.fingerprint", lambda arrays: {name: [0] for name in arrays})


def convert(source, target, *options):
    return main(["convert", str(source), str(target), *map(str, options)])


def tensors_of(file):
    return {name: tensor.read() for name, tensor in read_tensors(file).items()}


def assert_equal_tensors(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        np.testing.assert_array_equal(tensor, expected[name], name)


def all_heads(config):
    """The tensors of a discriminator as it is released: its own head, and a masked-LM head."""
    return toy_tensors(config, "masked_lm") | toy_tensors(config, "replaced_token_detection")


def write_folder(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_safetensors(folder, {name: as_tensor(x) for name, x in tensors.items()})


def architecture(folder):
    values = json.loads((folder / "config.json").read_text())
    return values["architectures"], list(values.get("id2label", {}).values())


def test_conversion_to_microsofts_format_and_back_keeps_every_tensor(tmp_path, capsys):
    config = dataclasses.replace(V3, hidden_dropout_prob=0.2)
    tensors = {name: x.astype("float16") for name, x in all_heads(config).items()}
    write_folder(tmp_path / "first", config, tensors)
    assert convert(tmp_path / "first", tmp_path / "ms", "--to", "microsoft") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: pass {tmp_path / 'ms' / 'pytorch_model.bin'} to")
    assert sorted(os.listdir(tmp_path / "ms")) == ["model_config.json", "pytorch_model.bin"]
    assert_equal_tensors(tensors_of(tmp_path / "ms" / "pytorch_model.bin"), tensors)
    values = json.loads((tmp_path / "ms" / "model_config.json").read_text())
    assert values["pos_att_type"] == "c2p|p2c"
    assert values["padding_idx"] == 0
    assert "model_type" not in values

    assert convert(tmp_path / "ms", tmp_path / "back") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'back'}: {len(tensors)} tensors of " in out and "the source has no tokenizer" in out
    call = f'deberta_jax.from_pretrained("{tmp_path / "back"}", require_tokenizer=False)'
    assert out.splitlines()[-1].startswith(f"next: load it with `{call}`")
    back = tensors_of(tmp_path / "back" / "model.safetensors")
    assert not any("lm_predictions" in name for name in back)
    assert_equal_tensors({with_lm_prefix(name, "lm_predictions"): x for name, x in back.items()}, tensors)
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["architectures"] == ["DebertaV2Model"]
    assert values["hidden_dropout_prob"] == 0.2
    for head in "masked_lm", "replaced_token_detection":
        assert load_pretrained(tmp_path / "back", head, require_tokenizer=False)[0] is not None


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_the_modules_of_sentence_transformers_are_kept(path, tmp_path, capsys):
    settings = {"prompts": {"query": "the fox: "}, "default_prompt_name": "query"}
    layers = dense(READING.hidden_size, 6), "Normalize"
    folder = write_sentence_folder(tmp_path / "st", {"pooling_mode": "max"}, *layers, path=path, settings=settings)
    assert convert(folder, tmp_path / "converted") == 0
    before, after = load_pretrained(folder), load_pretrained(tmp_path / "converted")
    assert after[0].sentence == before[0].sentence
    np.testing.assert_array_equal(embed(*after, TEXTS), embed(*before, TEXTS))
    assert convert(folder, tmp_path / "microsoft", "--to", "microsoft") == 0
    assert "the other modules of sentence-transformers are not converted" in capsys.readouterr().err


def test_an_adapter_is_merged_into_its_base(tmp_path):
    module = "deberta.encoder.layer.0.attention.self.query_proj"
    save_pretrained(tmp_path / "base", toy_model(V3, "sequence_classification"))
    tensors = matrices(module, V3.hidden_size, V3.hidden_size)
    folder = write_adapter(tmp_path / "adapter", tensors, "me/unknown", task_type="SEQ_CLS")
    assert convert(folder, tmp_path / "merged", "--base", tmp_path / "base") == 0
    assert_equal_tensors(
        tensors_of(tmp_path / "merged" / "model.safetensors"),
        merged(V3, "sequence_classification", {module: tensors}, 3.0),
    )
    assert architecture(tmp_path / "merged")[0] == ["DebertaV2ForSequenceClassification"]


def test_an_old_file_of_version_1_becomes_one_that_transformers_reads(tmp_path):
    model = toy_model(LABELED_V1, "sequence_classification")
    old = {
        name.replace("deberta.", "bert.").replace("LayerNorm.weight", "LayerNorm.gamma"): x
        for name, x in export_tensors(model, LABELED_V1).items()
    }
    (tmp_path / "old").mkdir()
    write_torch_file(tmp_path / "old" / "pytorch_model.bin", old.items())
    (tmp_path / "old" / "config.json").write_text(json.dumps(LABELED_V1.to_dict()))
    # The remains of a conversion that was killed.
    (tmp_path / "new.partial" / "content" / "tokenizer").mkdir(parents=True)
    (tmp_path / "new.partial" / "content" / "spm.model").write_text("of another model")
    assert convert(tmp_path / "old", tmp_path / "new") == 0
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
    assert sorted(os.listdir(tmp_path / "new")) == ["config.json", "model.safetensors"]
    assert_equal_tensors(tensors_of(tmp_path / "new" / "model.safetensors"), export_tensors(model, LABELED_V1))
    assert architecture(tmp_path / "new") == (["DebertaForSequenceClassification"], ["no", "yes", "maybe"])


def test_of_two_conversions_to_one_folder_one_wins_and_the_other_says_so(tmp_path, capsys, monkeypatch):
    write_folder(tmp_path / "model", LABELED_V1, toy_tensors(LABELED_V1, "sequence_classification"))
    target = tmp_path / "new"
    with lock_output(target, ".partial"):
        assert convert(tmp_path / "model", target) == 2
    assert f"{target}: another process is writing this; wait for it" in capsys.readouterr().err

    @contextlib.contextmanager
    def lock_after_another(path, suffix):
        with lock_output(path, suffix) as folder:
            target.mkdir()
            (target / "config.json").write_text("another")
            yield folder

    monkeypatch.setattr("deberta_jax.cli.convert.lock_output", lock_after_another)
    assert convert(tmp_path / "model", target) == 2
    assert f"{target}: not an empty folder" in capsys.readouterr().err
    assert (target / "config.json").read_text() == "another"
    assert sorted(os.listdir(tmp_path)) == ["model", "new"]


def test_a_model_becomes_a_run_and_the_run_a_model(tmp_path, capsys, no_fingerprints, monkeypatch):
    tensors = all_heads(TINY)
    write_folder(tmp_path / "model", TINY, tensors)
    run = tmp_path / "run"
    # Written on one device, which takes fewer programs, and read on eight.
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "make_mesh", lambda **axes: make_mesh(devices=jax.devices()[:1], **axes))
        assert convert(tmp_path / "model", run, "--to", "checkpoint") == 0
    assert sorted(os.listdir(run)) == ["checkpoints"]
    out, err = capsys.readouterr()
    assert f"next: train it with `deberta-jax pretrain tiny --objective mlm --folder {run}`" in out
    assert "not used by a masked-LM run, not converted: mask_predictions.LayerNorm.bias, mask_predictions" in err

    # The files of a checkpoint that another process is writing.
    (run / "config.json").write_text(json.dumps({"model": "tiny", "tokenizer": None}))
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    assert convert(run, tmp_path / "back") == 0
    assert (run / "checkpoints" / "6.orbax-checkpoint-tmp").is_dir()
    used = {with_lm_prefix(name, "cls"): x for name, x in tensors.items() if not name.startswith("mask_predictions.")}
    assert_equal_tensors(tensors_of(tmp_path / "back" / "model.safetensors"), used)

    assert convert(run, tmp_path / "generator", "--generator") == 2
    assert "run: this run trains one model, without a generator" in capsys.readouterr().err


def test_a_generator_alone_is_trained_by_the_recipe_of_its_discriminator():
    folder = Path("run")
    assert pretrain_command("tiny", folder, with_tokenizer=True) == (
        "deberta-jax pretrain tiny --objective mlm --folder run --tokenizer run/tokenizer"
    )
    assert pretrain_command("v3-xsmall-generator", folder, with_tokenizer=False) == (
        "deberta-jax pretrain v3-xsmall --model v3-xsmall-generator --objective mlm --folder run"
    )


def write_pair_run(folder, sharing, tokenizer):
    """The checkpoint, settings and tokenizer of a replaced-token detection run with random parameters."""
    rtd = RtdConfig(sharing=sharing, step="joint" if sharing == "es" else "decoupled")
    config = dataclasses.replace(recipe("tiny", Selection("rtd")), folder=folder, rtd=rtd)
    model = dataclasses.replace(PRESETS["tiny"], vocab_size=tokenizer.vocab_size)
    pair = random_model(lambda key: initial_pair(generator_config(model), model, sharing, key=key))
    step = jnp.ones((), jnp.int32)
    with closing(Checkpointer(folder / "checkpoints")) as checkpointer:
        # The optimizer's state is not read.
        checkpointer.save(TrainState(step, pair, (), jax.random.key(0), step, step), {})
    (folder / "config.json").write_text(json.dumps(config.settings()))
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    return pair


@pytest.mark.parametrize("sharing", ["gdes", "es", "none"])
def test_a_run_of_two_models_is_converted_to_each_of_them(sharing, tmp_path, tokenizer, no_fingerprints):
    run = tmp_path / "run"
    pair = write_pair_run(run, sharing, tokenizer)
    words = {}
    for name, model in {"discriminator": pair.detector(), "generator": pair.generator}.items():
        options = ["--generator"] * (name == "generator")
        target, expected = tmp_path / name, tmp_path / f"{name}-saved"
        save_pretrained(expected, model, tokenizer)
        assert convert(run, target, *options) == 0
        tensors = tensors_of(target / "model.safetensors")
        assert_equal_tensors(tensors, tensors_of(expected / "model.safetensors"))
        for file in "config.json", "spm.model", "tokenizer_config.json":
            assert (target / file).read_bytes() == (expected / file).read_bytes()
        words[name] = tensors["deberta.embeddings.word_embeddings.weight"]
        if sharing == "gdes":
            assert convert(run, tmp_path / f"{name}-ms", "--to", "microsoft", *options) == 0
            microsoft = tensors_of(tmp_path / f"{name}-ms" / "pytorch_model.bin")
            assert_equal_tensors({with_lm_prefix(key, "cls"): x for key, x in microsoft.items()}, tensors)
    assert (words["discriminator"] == words["generator"]).all() == (sharing == "es")


def test_labels_and_heads_that_no_config_names_follow_from_the_tensors(tmp_path):
    three = dataclasses.replace(V3, labels=("a", "b", "c"))
    save_pretrained(tmp_path / "three", toy_model(three, "sequence_classification"))
    assert convert(tmp_path / "three", tmp_path / "ms", "--to", "microsoft") == 0
    values = json.loads((tmp_path / "ms" / "model_config.json").read_text())
    del values["id2label"], values["label2id"]
    (tmp_path / "ms" / "model_config.json").write_text(json.dumps(values))
    assert convert(tmp_path / "ms", tmp_path / "back") == 0
    assert architecture(tmp_path / "back") == (
        ["DebertaV2ForSequenceClassification"],
        ["LABEL_0", "LABEL_1", "LABEL_2"],
    )
    save_pretrained(tmp_path / "choice", toy_model(V3, "multiple_choice"))
    assert convert(tmp_path / "choice", tmp_path / "same") == 0
    assert architecture(tmp_path / "same")[0] == ["DebertaV2ForMultipleChoice"]


def test_a_rejected_conversion_writes_nothing(tmp_path, capsys):
    model, run, target = tmp_path / "model", tmp_path / "run", tmp_path / "deep" / "target"
    tensors = all_heads(V3)
    write_folder(model, V3, tensors)
    write_folder(tmp_path / "wider", dataclasses.replace(V3, intermediate_size=52), tensors)
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"model": "tiny"}')
    before = sorted(os.listdir(tmp_path))
    for line, message in {
        ("wider", target): "intermediate.dense.weight has shape (48, 32), (52, 32) in the model",
        ("model", model): "model: not an empty folder; choose another target",
        ("model", target, "--to", "checkpoint"): "`deberta-jax pretrain` has no preset of this size; it trains tiny, ",
        ("run", target): "contains no checkpoint of a pretraining run",
        ("run", target, "--revision", "main"): "a run has no revisions",
        ("model", Path("/proc/nope/target")): "/proc/nope",
    }.items():
        source, folder, *options = line
        assert convert(tmp_path / source, folder, *options) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.reference
def test_torch_reads_what_was_converted_to_microsofts_format(tmp_path):
    import torch

    save_pretrained(tmp_path / "model", toy_model(V3))
    assert convert(tmp_path / "model", tmp_path / "ms", "--to", "microsoft") == 0
    loaded = torch.load(tmp_path / "ms" / "pytorch_model.bin", weights_only=True)
    assert any(name.startswith("lm_predictions.lm_head.") for name in loaded)
    written = {with_lm_prefix(name, "cls"): x.numpy() for name, x in loaded.items()}
    assert_equal_tensors(written, tensors_of(tmp_path / "model" / "model.safetensors"))


@pytest.mark.parametrize(("absolute", "groups"), [("none", 1), ("input", None)])
def test_a_run_of_a_language_model_is_converted_with_its_options(
    absolute, groups, tmp_path, tokenizer, no_fingerprints, capsys
):
    config = dataclasses.replace(TINY, num_hidden_groups=groups, position_biased_input=absolute == "input")
    model = random_model(lambda key: MaskedLM(config, enhanced_mask_decoder=False, key=key))
    (run, first, again), step = (tmp_path / name for name in ("run", "model", "again")), jnp.ones((), jnp.int32)
    with closing(Checkpointer(run / "checkpoints")) as checkpointer:
        checkpointer.save(TrainState(step, model, (), jax.random.key(0), step, step), {})
    settings = {"model": "tiny", "objective": "clm", "absolute_positions": absolute, "num_hidden_groups": groups}
    (run / "config.json").write_text(json.dumps(settings))
    tokenizer.save(run / "tokenizer")
    assert convert(run, first) == convert(first, again, "--to", "checkpoint") == 0
    output, (loaded, _) = capsys.readouterr().out, load_pretrained(first, "masked_lm")
    assert loaded.config == config and loaded.config.objective == "clm" and loaded.decoder is None
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(model)))
    assert f"--objective clm --folder {again} " in output and f"--absolute-positions {absolute}`" in output
    (again / "config.json").write_text(json.dumps(settings))
    assert convert(again, tmp_path / "second") == 0
    assert_equal_tensors(*(tensors_of(folder / "model.safetensors") for folder in (tmp_path / "second", first)))
