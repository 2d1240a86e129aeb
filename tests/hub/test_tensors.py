import argparse
import json
import os
import pickle
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import file_tensors
from deberta_jax.hub.tensors import as_tensor, read_tensors, weight_file, write_safetensors
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.torch_format.file import write_torch_file

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.ones((3, 4), np.float16)[:, ::2],
    "c": np.full((), 3.5),
    "d": np.arange(5).astype(ml_dtypes.bfloat16),
    "e": np.arange(3),
}
TENSORS = {name: as_tensor(array) for name, array in ARRAYS.items()}


def contents(path):
    return {name: tensor.read() for name, tensor in read_tensors(path).items()}


def assert_same(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("max_file_bytes", [10**6, 30])
def test_arrays_of_any_form_are_written_and_read(max_file_bytes, tmp_path):
    write_safetensors(tmp_path, TENSORS, max_file_bytes, texts={"config.json": "{}\n"})
    is_split = max_file_bytes == 30
    assert weight_file(tmp_path).name == ("model.safetensors.index.json" if is_split else "model.safetensors")
    assert_same(contents(weight_file(tmp_path)))
    assert (tmp_path / "config.json").read_text() == "{}\n"


def test_a_torch_file_is_read_if_there_is_no_other(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, ARRAYS.items())
    assert weight_file(tmp_path) == path
    assert_same(contents(path))


def test_a_torch_file_without_tensors_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"config": {"hidden_size": 3}, "step": 7}, protocol=2))
    with pytest.raises(InputError, match="pytorch_model.bin: contains no named tensors"):
        read_tensors(path)


@pytest.mark.reference
@pytest.mark.parametrize("nested", [False, True])
def test_other_values_of_a_torch_file_are_left_out(nested, tmp_path):
    import torch

    state = {"a": torch.arange(3.0), "config": argparse.Namespace(hidden_size=3), "names": ["x"]}
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "pytorch_model.bin")
    np.testing.assert_array_equal(contents(tmp_path / "pytorch_model.bin")["a"], [0, 1, 2])
    assert contents(tmp_path / "pytorch_model.bin").keys() == {"a"}


def test_weight_files_are_searched_in_their_order(tmp_path):
    with pytest.raises(InputError, match=r"no weights; expected model.safetensors or pytorch_model.bin"):
        weight_file(tmp_path)
    for name in ("pytorch_model.bin.index.json", "pytorch_model.bin", "model.safetensors.index.json"):
        (tmp_path / name).write_text("")
        assert weight_file(tmp_path).name == name


def test_a_wrong_index_is_refused(tmp_path):
    write_safetensors(tmp_path, TENSORS, 30)
    index = tmp_path / "model.safetensors.index.json"
    first = json.loads(index.read_text())["weight_map"]["a"]

    def message(file_of):
        index.write_text(json.dumps({"weight_map": file_of}))
        with pytest.raises(InputError) as error:
            read_tensors(index)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "expected a weight_map" in message({})
    assert "1 tensors are not in the listed files: z" in message({"z": first})
    assert "1 of 1 files are missing: other.safetensors" in message({"a": "other.safetensors"})
    assert "refers to files outside its folder: ../a.safetensors" in message({"a": "../a.safetensors"})
    assert "refers to files of an unknown kind: a.txt" in message({"a": "a.txt"})


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.ones(4, np.float32)}, path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="model.safetensors: not a complete safetensors file") as error:
            read_tensors(path)
        assert ("git lfs pull" in str(error.value)) == damaged.startswith(b"version")
    path.write_bytes(whole.replace(b'"F32"', b'"F8_E5M2"'))
    with pytest.raises(InputError, match=r"model.safetensors"):
        read_tensors(path)


# Each dtype is measured in a process of its own, forked after the imports.
LOAD = """
import multiprocessing, sys, jax
from pathlib import Path
from deberta_jax.hub.pretrained import load_pretrained

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def measure(small, large, dtype):
    load_pretrained(Path(small), "masked_lm", param_dtype=dtype, require_tokenizer=False)
    before = peak()
    model, _ = load_pretrained(Path(large), "masked_lm", param_dtype=dtype, require_tokenizer=False)
    jax.block_until_ready(model)
    print((peak() - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(model)), flush=True)

for dtype in ("float32", "bfloat16"):
    process = multiprocessing.get_context("fork").Process(target=measure, args=(*sys.argv[1:], dtype))
    process.start()
    process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from /proc")
def test_loading_takes_little_more_memory_than_the_parameters(tmp_path):
    folders = [str(tmp_path / "small"), str(tmp_path / "large")]
    write_zeros(tmp_path / "small", layers=2, width=128, words=100)
    write_zeros(tmp_path / "large", layers=16, width=512, words=12000)
    # Without the flags of the tests, which make copies slow.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", LOAD, *folders]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    full, half = map(float, ran.stdout.split())
    # With the whole file in memory it would be 2 times the parameters in float32, 3 times in bfloat16.
    assert full < 1.5
    assert half < 2.0


def write_zeros(folder, layers, width, words):
    """A model folder; no tensor of the large one is more than an eighth of it."""
    config = DebertaConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        intermediate_size=4 * width,
        share_att_key=True,
        position_buckets=256,
    )
    abstract = jax.eval_shape(lambda key: MaskedLM(config, key=key), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_safetensors(folder, file_tensors(zeros, config))
