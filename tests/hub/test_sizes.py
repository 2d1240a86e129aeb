"""Files with impossible sizes, names and values are refused at once, in one short line."""

import dataclasses
import json
import time

import numpy as np
import pytest
from toy_folders import V3, toy_model, toy_tensors
from toy_torch_files import state_dict, tensor, write_zip

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.torch_format.file import write_torch_file

HEAD = "sequence_classification"
SIZES = [
    {"num_hidden_layers": 10**6},
    {"num_hidden_layers": 9999},
    {"num_labels": 10**10},
    {"num_labels": 10**6},
    {"pad_token_id": 10**12},
    {"hidden_size": 10**9},
    {"hidden_size": 10**4000},
    {"hidden_size": 2**20, "pooler_hidden_size": 2**20},
    {"vocab_size": 10**12},
    {"vocab_size": 2**28},
    {"intermediate_size": 10**30},
    {"intermediate_size": 2**28},
    {"position_buckets": 10**9},
    {"max_relative_positions": 10**15},
    {"max_position_embeddings": 10**18},
    {"num_attention_heads": 10**9},
    {"conv_kernel_size": 10**9 + 1},
    {"conv_kernel_size": 9999},
    {"type_vocab_size": 10**12},
    {"embedding_size": 10**12},
    {"layer_norm_eps": float("nan")},
    {"initializer_range": float("inf")},
    {"id2label": {str(index): "x" * 100 for index in range(20_000)}},
    {"id2label": {"x" * 10**6: "x"}},
    {"hidden_act": "z" * 10**6},
    {"problem_type": "z" * 10**6},
    {"model_type": "z" * 10**6},
    {"pos_att_type": ["z" * 10**5] * 100},
    {"norm_rel_ebd": "z" * 10**6},
    {"hidden_size": ["z" * 10**6]},
]


@pytest.fixture
def folder(tmp_path):
    save_pretrained(tmp_path / "model", toy_model(V3, HEAD))
    return tmp_path / "model"


def refusal(folder, head=HEAD):
    with pytest.raises(InputError) as error:
        load_pretrained(folder, head, require_tokenizer=False)
    message = str(error.value)
    assert message.isprintable() and len(message) < 5000
    return message


@pytest.mark.parametrize("values", SIZES, ids=lambda values: next(iter(values)))
def test_impossible_sizes_are_refused_before_anything_is_allocated(values, folder):
    path = folder / "config.json"
    config = {
        key: x for key, x in json.loads(path.read_text()).items() if "num_labels" not in values or key != "id2label"
    }
    path.write_text(json.dumps(config | values))
    start = time.monotonic()
    refusal(folder)
    # The limit is a second; the tests check the shapes of every call, which takes longer.
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":' * 100_000, "nested more than 100 levels"),
        ("[" * 5000 + "]" * 5000, "nested more than 100 levels"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "nested more than 100 levels"),
        ('{"a": ' + '{"b": ' * 120 + "1" + "}" * 121, "nested more than 100 levels"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "an integer of thousands of digits"),
        ('{"vocab_size": -' + "9" * 5000 + "}", "an integer of thousands of digits"),
        ("[]", "expected a JSON object, found list"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_later_code_could_not_handle_is_refused(name, text, problem, folder):
    if "index" in name:
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(text)
    assert f"{name}: " in (message := refusal(folder)) and problem in message


def test_json_of_usual_depth_is_read(tmp_path):
    (tmp_path / "f.json").write_text('{"a": ' + "[" * 90 + "]" * 90 + "}")
    assert read_json(tmp_path / "f.json")["a"]
    (tmp_path / "f.json").write_text(json.dumps({"wide": [{"x": [index]} for index in range(10_000)]}))
    assert len(read_json(tmp_path / "f.json")["wide"]) == 10_000


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../x.safetensors", "a/x.safetensors", "", ".", "..", "a\\x.safetensors", "C:x.safetensors"),
        *(3, None, ["x.safetensors"], "x\n.safetensors", "x\0.safetensors", "x" * 300 + ".safetensors"),
    ],
)
def test_an_index_may_only_name_files_of_its_folder(name, folder):
    weight_map = dict.fromkeys(toy_tensors(V3, HEAD), "model.safetensors") | {"a": name}
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "index.json: refers to files outside its folder: " in refusal(folder)


def test_thousands_of_wrong_names_are_counted(folder):
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(50_000)}}))
    assert "50000 of 50000 files are missing" in (message := refusal(folder)) and "… and 49,980 more" in message
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"../{i}" for i in range(50_000)}}))
    assert "… and 49,980 more" in refusal(folder)
    index.unlink()
    named = {f"{'x' * 1000}{index}": np.zeros(1, np.float32) for index in range(1000)}
    write_torch_file(folder / "pytorch_model.bin", (dict(toy_tensors(V3, HEAD)) | named).items())
    assert "1000 tensors do not fit the model" in (message := refusal(folder)) and "… and 980 more" in message


def test_labels_of_a_long_list_are_counted(folder):
    labels = [f"label {index}" for index in range(1000)]
    model = toy_model(dataclasses.replace(V3, labels=tuple(labels)), HEAD)
    save_pretrained(folder, model)
    with pytest.raises(InputError, match="labels must differ from each other, not .* and 981 more"):
        load_pretrained(folder, HEAD, labels=[*labels, "label 0"], require_tokenizer=False)


def test_a_tensor_that_claims_more_than_its_file_is_refused(folder):
    (folder / "model.safetensors").unlink()
    huge = tensor("0", "FloatStorage", 2**40, (2**20, 2**20), (2**20, 1))
    write_zip(folder / "pytorch_model.bin", state_dict(**{"embeddings.word_embeddings.weight": huge}), {"0": bytes(8)})
    assert "storage 0 has 8 bytes" in refusal(folder)
