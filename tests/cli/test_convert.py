import dataclasses
import json
import os
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.cli.main import main
from deberta_jax.config import DebertaConfig
from deberta_jax.hub.layout import export_tensors, with_head
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.hub.tensors import as_tensor, read_tensors, write_safetensors
from deberta_jax.model.heads import MultipleChoice, ReplacedTokenDetection, SequenceClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import RtdConfig
from deberta_jax.pretraining.objective_spec import ModelOptions
from deberta_jax.pretraining.recipes import Selection, recipe
from deberta_jax.pretraining.rtd import REPLACED_TOKEN_DETECTION
from deberta_jax.pretraining.summary import export_models
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.torch_format.file import write_torch_file
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.state import initial_state

SMALL = {"vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
V3 = DebertaConfig(**SMALL, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)
V1 = DebertaConfig(**SMALL, model_type="deberta", labels=("no", "yes", "maybe"))


def random(build, seed=0):
    draw = np.random.default_rng(seed)
    abstract = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), abstract)


def same(one, other):
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    return all(path == its_path and (leaf == its_leaf).all() for (path, leaf), (its_path, its_leaf) in pairs)


def contents(file):
    return {name: tensor.read() for name, tensor in read_tensors(file).items()}


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def all_heads(config):
    """What a released discriminator holds: its own head, and one for masks that transformers' users know."""
    masked = export_tensors(random(lambda key: MaskedLM(config, key=key)), config)
    return masked | export_tensors(random(lambda key: ReplacedTokenDetection(config, key=key)), config)


def test_to_microsofts_form_and_back_everything_is_kept(tmp_path, capsys):
    config = dataclasses.replace(V3, hidden_dropout_prob=0.2)
    tensors = {name: x.astype("float16") for name, x in all_heads(config).items()}
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.json").write_text(json.dumps(config.to_dict()))
    write_safetensors(first, {name: as_tensor(x) for name, x in tensors.items()})
    assert main(["convert", str(first), str(tmp_path / "ms"), "--to", "microsoft"]) == 0
    assert sorted(os.listdir(tmp_path / "ms")) == ["model_config.json", "pytorch_model.bin"]
    assert equal(contents(tmp_path / "ms" / "pytorch_model.bin"), tensors)
    values = json.loads((tmp_path / "ms" / "model_config.json").read_text())
    assert values["pos_att_type"] == "c2p|p2c"
    assert values["padding_idx"] == 0
    assert "model_type" not in values
    assert main(["convert", str(tmp_path / "ms"), str(tmp_path / "back")]) == 0
    back = {
        with_head(name, "lm_predictions"): x for name, x in contents(tmp_path / "back" / "model.safetensors").items()
    }
    assert equal(back, tensors)
    assert not any("lm_predictions" in name for name in contents(tmp_path / "back" / "model.safetensors"))
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["architectures"] == ["DebertaV2Model"]
    assert values["hidden_dropout_prob"] == 0.2
    for head in "masked_lm", "replaced_token_detection":
        assert same(load_pretrained(tmp_path / "back", head).model, load_pretrained(first, head).model)
    assert "tensors of" in capsys.readouterr().out


def test_an_old_file_of_version_1_becomes_one_that_transformers_reads(tmp_path):
    model = random(lambda key: SequenceClassification(V1, key=key))
    old = {
        name.replace("deberta.", "bert.").replace("LayerNorm.weight", "LayerNorm.gamma"): x
        for name, x in export_tensors(model, V1).items()
    }
    (tmp_path / "old").mkdir()
    write_torch_file(tmp_path / "old" / "pytorch_model.bin", old.items())
    (tmp_path / "old" / "config.json").write_text(json.dumps(V1.to_dict()))
    # What a conversion that was killed has left is none of this one.
    (tmp_path / "new.partial" / "tokenizer").mkdir(parents=True)
    (tmp_path / "new.partial" / "spm.model").write_text("another's")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert sorted(os.listdir(tmp_path / "new")) == ["config.json", "model.safetensors"]
    assert equal(contents(tmp_path / "new" / "model.safetensors"), export_tensors(model, V1))
    values = json.loads((tmp_path / "new" / "config.json").read_text())
    assert values["architectures"] == ["DebertaForSequenceClassification"]
    assert list(values["id2label"].values()) == ["no", "yes", "maybe"]


def test_a_run_goes_on_from_a_converted_model_and_is_converted_back(tmp_path, capsys):
    model = random(lambda key: MaskedLM(PRESETS["tiny"], key=key))
    save_pretrained(tmp_path / "model", model)
    run = tmp_path / "run"
    assert main(["convert", str(tmp_path / "model"), str(run), "--to", "checkpoint"]) == 0
    assert f"go on with `deberta-jax pretrain tiny --objective mlm --folder {run}`" in capsys.readouterr().out
    (run / "config.json").write_text(json.dumps({"model": "tiny", "tokenizer": None}))
    assert main(["convert", str(run), str(tmp_path / "back")]) == 0
    assert same(load_pretrained(tmp_path / "back", "masked_lm").model, model)
    small = random(lambda key: MaskedLM(V3, key=key))
    save_pretrained(tmp_path / "small", small)
    assert main(["convert", str(tmp_path / "small"), str(tmp_path / "other"), "--to", "checkpoint"]) == 2
    assert "is no preset of `deberta-jax pretrain`" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.fixture
def unmarked(monkeypatch):
    """Checkpoints without fingerprints, which are looked at elsewhere: compiling them takes most of the time."""
    monkeypatch.setattr("deberta_jax.training.checkpoint.fingerprint", lambda arrays: {name: [0] for name in arrays})


def test_a_recipe_trains_a_generator_alone_as_another_model(tmp_path, capsys, unmarked):
    # As a released one but for its words.
    config = dataclasses.replace(PRESETS["v3-xsmall-generator"], vocab_size=8)
    save_pretrained(tmp_path / "model", random(lambda key: MaskedLM(config, key=key)))
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "run"), "--to", "checkpoint"]) == 0
    assert "pretrain v3-xsmall --model v3-xsmall-generator --objective mlm --folder" in capsys.readouterr().out


def small_run(folder, sharing, tokenizer):
    """What a run of replaced-token detection leaves, one step after its start with random parameters."""
    rtd = RtdConfig(sharing=sharing, step="joint" if sharing == "es" else "decoupled")
    config = dataclasses.replace(recipe("tiny", Selection("rtd")), folder=folder, rtd=rtd)
    options = ModelOptions(config.model_config(tokenizer.vocab_size), "float32", "none")
    method = REPLACED_TOKEN_DETECTION.method(options, config.training, rtd)
    state = initial_state(method.build, method.optimizer, 0, make_mesh())
    pair = random(method.build)
    with closing(Checkpointer(folder / "checkpoints")) as checkpointer:
        checkpointer.save(state._replace(step=state.step + 1, model=pair), {})
    (folder / "config.json").write_text(json.dumps(config.settings()))
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    export_models(folder, REPLACED_TOKEN_DETECTION.models(pair), tokenizer)
    return pair


@pytest.mark.parametrize("sharing", ["gdes", "es", "none"])
def test_a_run_of_two_models_is_converted_to_what_it_exports(sharing, tmp_path, unmarked):
    text = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
    tokenizer = train_tokenizer([text] * 10, tmp_path / "vocabulary" / "spm.model", 290)
    run = tmp_path / "run"
    pair = small_run(run, sharing, tokenizer)
    for name, options in {"discriminator": [], "generator": ["--generator"]}.items():
        target = tmp_path / name
        assert main(["convert", str(run), str(target), *options]) == 0
        assert equal(contents(target / "model.safetensors"), contents(run / name / "model.safetensors"))
        for file in "config.json", "spm.model", "tokenizer_config.json":
            assert (target / file).read_bytes() == (run / name / file).read_bytes()
        assert main(["convert", str(run), str(tmp_path / f"{name}-ms"), "--to", "microsoft", *options]) == 0
        theirs = contents(tmp_path / f"{name}-ms" / "pytorch_model.bin")
        assert equal({with_head(key, "cls"): x for key, x in theirs.items()}, contents(target / "model.safetensors"))
    words = [np.asarray(model.deberta.embeddings.word.embedding) for model in (pair.generator, pair.detector())]
    name = "deberta.embeddings.word_embeddings.weight"
    assert (contents(tmp_path / "discriminator" / "model.safetensors")[name] == words[1]).all()
    assert (words[0] == words[1]).all() == (sharing == "es")


def architecture(folder):
    values = json.loads((folder / "config.json").read_text())
    return values["architectures"], list(values.get("id2label", {}).values())


def test_labels_and_heads_that_no_config_names_are_told_by_the_tensors(tmp_path):
    three = dataclasses.replace(V3, labels=("a", "b", "c"))
    save_pretrained(tmp_path / "three", random(lambda key: SequenceClassification(three, key=key)))
    assert main(["convert", str(tmp_path / "three"), str(tmp_path / "ms"), "--to", "microsoft"]) == 0
    values = json.loads((tmp_path / "ms" / "model_config.json").read_text())
    del values["id2label"], values["label2id"]
    (tmp_path / "ms" / "model_config.json").write_text(json.dumps(values))
    assert main(["convert", str(tmp_path / "ms"), str(tmp_path / "back")]) == 0
    assert architecture(tmp_path / "back") == (
        ["DebertaV2ForSequenceClassification"],
        ["LABEL_0", "LABEL_1", "LABEL_2"],
    )
    save_pretrained(tmp_path / "choice", random(lambda key: MultipleChoice(V3, key=key)))
    assert main(["convert", str(tmp_path / "choice"), str(tmp_path / "same")]) == 0
    assert architecture(tmp_path / "same")[0] == ["DebertaV2ForMultipleChoice"]


def test_a_run_has_no_place_for_other_heads_and_that_is_said(tmp_path, capsys):
    tiny = PRESETS["tiny"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(tiny.to_dict()))
    write_safetensors(tmp_path / "model", {name: as_tensor(x) for name, x in all_heads(tiny).items()})
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "run"), "--to", "checkpoint"]) == 0
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoints"]
    assert (
        "a run of pretraining has no place for mask_predictions.LayerNorm.bias, mask_predictions"
        in capsys.readouterr().err
    )


def test_a_run_that_is_saving_is_left_alone(tmp_path, capsys):
    save_pretrained(tmp_path / "model", random(lambda key: MaskedLM(PRESETS["tiny"], key=key)))
    run = tmp_path / "run"
    assert main(["convert", str(tmp_path / "model"), str(run), "--to", "checkpoint"]) == 0
    (run / "config.json").write_text(json.dumps({"model": "tiny", "tokenizer": None}))
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    assert main(["convert", str(run), str(tmp_path / "back")]) == 0
    assert (run / "checkpoints" / "6.orbax-checkpoint-tmp").is_dir()
    assert main(["convert", str(run), str(tmp_path / "generator"), "--generator"]) == 2
    assert "run: is a run of one model, which has no generator" in capsys.readouterr().err


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path, capsys):
    tensors = all_heads(V3)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(V3.to_dict() | {"intermediate_size": 44}))
    write_safetensors(tmp_path / "model", {name: as_tensor(x) for name, x in tensors.items()})
    target = tmp_path / "target"
    assert main(["convert", str(tmp_path / "model"), str(target)]) == 2
    assert "intermediate.dense.weight has shape (40, 24), (44, 24) in the model" in capsys.readouterr().err
    assert not target.exists()
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "model")]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert not (tmp_path / "target.partial").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"model": "tiny"}')
    assert main(["convert", str(tmp_path / "run"), str(target)]) == 2
    assert "holds no checkpoint of a pretraining run" in capsys.readouterr().err


@pytest.mark.reference
def test_torch_reads_what_was_converted_to_microsofts_form(tmp_path):
    import torch

    save_pretrained(tmp_path / "model", random(lambda key: MaskedLM(V3, key=key)))
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "ms"), "--to", "microsoft"]) == 0
    loaded = torch.load(tmp_path / "ms" / "pytorch_model.bin", weights_only=True)
    assert any(name.startswith("lm_predictions.lm_head.") for name in loaded)
    written = {with_head(name, "cls"): x.numpy() for name, x in loaded.items()}
    assert equal(written, contents(tmp_path / "model" / "model.safetensors"))
