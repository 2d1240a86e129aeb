import dataclasses
import json

import numpy as np
import pytest
from toy_folders import (
    CONFIGS,
    V3,
    WORDS,
    microsoft_values,
    same_parameters,
    toy_model,
    toy_tensors,
    write_microsoft_folder,
)

from deberta_jax.errors import InputError
from deberta_jax.hub.folder import has_generator, read_folder, read_generator
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.hub.tensors import weight_file
from deberta_jax.torch_format.file import write_torch_file

WHOLE = dataclasses.replace(V3, num_hidden_layers=3)
GENERATOR, DISCRIMINATOR = toy_tensors(V3), toy_tensors(WHOLE, "replaced_token_detection")
PAIR = {f"generator.{name}": x for name, x in GENERATOR.items()} | {
    f"discriminator.{name}": x for name, x in DISCRIMINATOR.items()
}


def equal(tensors, arrays):
    return tensors.keys() == arrays.keys() and all((tensors[name].read() == x).all() for name, x in arrays.items())


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_a_microsoft_folder_is_read(name, tmp_path):
    config = CONFIGS[name]
    tensors = {key.replace("deberta.", "bert."): x for key, x in toy_tensors(config, "token_classification").items()}
    identity = {"proj.weight": np.eye(32, dtype="f"), "proj.bias": np.zeros(32, "f")}
    write_microsoft_folder(tmp_path, tensors | identity, config)
    model, _ = load_pretrained(tmp_path, "token_classification", require_tokenizer=False)
    saved = toy_model(config, "token_classification")
    assert same_parameters(model.deberta, saved.deberta)
    assert same_parameters(model.classifier, saved.classifier)
    np.testing.assert_array_equal(model.projection.kernel, np.eye(32))


def test_the_latest_step_of_microsofts_training_is_read(tmp_path):
    latest = "pytorch.model-1000000.bin"
    for step in "000100", "999999", "best":
        write_torch_file(tmp_path / f"pytorch.model-{step}.bin", [("another", np.zeros(1, "f"))])
    write_microsoft_folder(tmp_path, GENERATOR, V3, latest)
    assert weight_file(tmp_path).name == latest
    assert equal(read_folder(tmp_path).tensors, GENERATOR)
    # A file with the usual name takes precedence.
    write_microsoft_folder(tmp_path, GENERATOR, V3)
    assert weight_file(tmp_path).name == "pytorch_model.bin"


def test_a_generator_is_read_from_a_separate_file(tmp_path):
    difference = DISCRIMINATOR[f"{WORDS}.weight"] - GENERATOR[f"{WORDS}.weight"]
    stored = {name: x for name, x in DISCRIMINATOR.items() if name != f"{WORDS}.weight"}
    write_microsoft_folder(tmp_path, stored | {f"{WORDS}._weight": difference}, WHOLE)
    with pytest.raises(InputError, match="only the difference to a generator's tables"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="no generator; expected pytorch_model.generator.bin"):
        read_folder(tmp_path, generator=True)
    write_torch_file(tmp_path / "pytorch_model.generator.bin", GENERATOR.items())
    assert equal(read_folder(tmp_path, generator=True).tensors, GENERATOR)
    table = (difference + GENERATOR[f"{WORDS}.weight"]).astype("f")
    assert equal(read_folder(tmp_path).tensors, DISCRIMINATOR | {f"{WORDS}.weight": table})
    model, _ = load_pretrained(tmp_path, "masked_lm", generator=True, require_tokenizer=False)
    assert model.decoder is not None


def test_a_generator_is_read_with_its_depth_from_wherever_it_is_stored(tmp_path):
    beside = write_microsoft_folder(tmp_path / "beside", DISCRIMINATOR, WHOLE)
    write_torch_file(beside / "pytorch_model.generator.bin", GENERATOR.items())
    one_file = write_microsoft_folder(tmp_path / "one_file", PAIR, WHOLE)
    alone = write_microsoft_folder(tmp_path / "alone", GENERATOR, V3, "pytorch.model-000100.bin")
    save_pretrained(tmp_path / "saved", toy_model(V3))
    for folder, stored_alone in {beside: False, one_file: False, alone: True, tmp_path / "saved": True}.items():
        config, tensors, source = read_generator(folder)
        assert has_generator(folder) == (not stored_alone)
        assert config.num_hidden_layers == 2
        assert source.parent == folder
        np.testing.assert_array_equal(tensors[f"{WORDS}.weight"].read(), GENERATOR[f"{WORDS}.weight"])
    write_microsoft_folder(tmp_path / "discriminator", DISCRIMINATOR, WHOLE)
    with pytest.raises(InputError, match="pytorch_model.bin: a discriminator without its generator"):
        read_generator(tmp_path / "discriminator")


def test_a_pair_in_one_file_is_read_with_the_config_of_each_model(tmp_path):
    write_microsoft_folder(tmp_path, PAIR, WHOLE)
    values = microsoft_values(WHOLE)
    pair = {"generator": values | {"num_hidden_layers": 2}, "discriminator": values, "embedding_sharing": "none"}
    (tmp_path / "model_config.json").write_text(json.dumps(pair))
    generator, discriminator = read_folder(tmp_path, generator=True), read_folder(tmp_path)
    assert (generator.config.num_hidden_layers, discriminator.config.num_hidden_layers) == (2, 3)
    assert equal(generator.tensors, GENERATOR)
    assert equal(discriminator.tensors, DISCRIMINATOR)
