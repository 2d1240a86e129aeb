import argparse
import json
import pickle
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from deberta_jax.errors import InputError
from deberta_jax.hub.tensors import as_tensor, read_tensors, weight_file, write_safetensors
from deberta_jax.torch_format.file import write_torch_file

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.ones((3, 4), np.float16)[:, ::2],
    "c": np.full((), 3.5),
    "d": np.arange(5).astype(ml_dtypes.bfloat16),
    "e": np.arange(3),
}


def contents(path):
    return {name: tensor.read() for name, tensor in read_tensors(path).items()}


def assert_same(read):
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("most_bytes", [10**6, 30])
def test_arrays_of_any_form_are_written_and_read(most_bytes, tmp_path):
    write_safetensors(tmp_path, {name: as_tensor(array) for name, array in ARRAYS.items()}, most_bytes)
    assert weight_file(tmp_path).name == ("model.safetensors" if most_bytes > 30 else "model.safetensors.index.json")
    assert_same(contents(weight_file(tmp_path)))


def test_a_torch_file_is_read_where_there_is_no_other(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, ((name, array) for name, array in ARRAYS.items()))
    assert weight_file(tmp_path) == path
    assert_same(contents(path))


def test_what_is_no_tensor_is_left_out(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"config": {"hidden_size": 3}, "step": 7}, file, protocol=2)
    with pytest.raises(InputError, match="pytorch_model.bin: holds no tensors by name"):
        read_tensors(path)


@pytest.mark.reference
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_config_beside_the_tensors_of_a_torch_file_is_left_out(wrapped, tmp_path):
    import torch

    state = {"a": torch.arange(3.0), "config": argparse.Namespace(hidden_size=3), "names": ["x"]}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "pytorch_model.bin")
    np.testing.assert_array_equal(contents(tmp_path / "pytorch_model.bin")["a"], [0, 1, 2])
    assert contents(tmp_path / "pytorch_model.bin").keys() == {"a"}


def test_files_are_looked_for_in_their_order(tmp_path):
    with pytest.raises(InputError, match=r"holds no weights; model.safetensors or pytorch_model.bin is wanted"):
        weight_file(tmp_path)
    for name in ("pytorch_model.bin.index.json", "pytorch_model.bin", "model.safetensors.index.json"):
        (tmp_path / name).write_text("")
        assert weight_file(tmp_path).name == name


def test_an_index_that_lies_is_refused(tmp_path):
    write_safetensors(tmp_path, {name: as_tensor(array) for name, array in ARRAYS.items()}, 30)
    index = tmp_path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())

    def message(places):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(InputError) as caught:
            read_tensors(index)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    first = whole["weight_map"]["a"]
    assert "has a weight_map" in message({})
    assert "1 tensors are not in the files it names: z" in message({"z": first})
    assert "1 of 1 files are missing: other.safetensors" in message({"a": "other.safetensors"})
    assert "names files outside its folder: ../a.safetensors" in message({"a": "../a.safetensors"})


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.ones(4, np.float32)}, path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="model.safetensors: not a whole safetensors file") as caught:
            read_tensors(path)
        assert ("git lfs pull" in str(caught.value)) == damaged.startswith(b"version")
    path.write_bytes(whole.replace(b'"F32"', b'"F8_E5M2"').replace(whole[:8], whole[:8]))
    with pytest.raises(InputError, match=r"model.safetensors"):
        read_tensors(path)


LOAD = """
import sys, jax
import deberta_jax as dj
from deberta_jax.model.masked_lm import MaskedLM

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

warm, _ = dj.from_pretrained(sys.argv[1], "masked_lm")
before = peak()
model, _ = dj.from_pretrained(sys.argv[2], "masked_lm", param_dtype=sys.argv[3])
jax.block_until_ready(model)
print((peak() - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(model)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
# To hold the whole file too would be twice the parameters in float32, three times in bfloat16.
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1.5), ("bfloat16", 2.0)])
def test_loading_takes_little_more_memory_than_the_parameters(dtype, most, large_folder):
    small = large_folder.parent / "small"
    command = [sys.executable, "-c", LOAD, str(small), str(large_folder), dtype]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < most


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """260 MB of parameters, of which the largest tensor is an eighth; and a folder of the same form, small."""
    from deberta_jax.config import DebertaConfig
    from deberta_jax.hub.layout import file_tensors
    from deberta_jax.model.masked_lm import MaskedLM

    root = tmp_path_factory.mktemp("large")
    for name, layers, width, words in (("small", 2, 128, 100), ("large", 20, 512, 16000)):
        config = DebertaConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=8,
            intermediate_size=4 * width,
            share_att_key=True,
            position_buckets=256,
        )
        zeros = jax.tree.map(
            lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
            jax.eval_shape(lambda key, config=config: MaskedLM(config, key=key), jax.random.key(0)),
        )
        folder = root / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        write_safetensors(folder, file_tensors(zeros, config))
    return root / "large"
