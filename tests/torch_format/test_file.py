import argparse
import os
import pickle
import tracemalloc
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_torch_files import (
    EXPECTED,
    HALVES,
    STORAGE_BYTES,
    STORAGES,
    WORDS,
    refusal,
    same,
    small_state_dict,
    state_dict,
    tensor,
    write_legacy,
    write_zip,
)

from deberta_jax.errors import InputError
from deberta_jax.torch_format.file import read_torch_file, write_torch_file
from deberta_jax.torch_format.storage import STORAGE_DTYPES
from deberta_jax.torch_format.tensor import Tensor

ARRAYS = {
    **{
        f"{np.dtype(dtype)}": np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?", "c8", "c16", ml_dtypes.bfloat16)
    },
    "transposed": WORDS.T,
    "slice": WORDS[1:3, 2:4],
    "scalar": WORDS[0, 3].reshape(()),
    "empty": np.zeros((3, 0, 2), np.float32),
    "big-endian": WORDS.astype(">f4"),
    "ein Näme": HALVES,
}


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(400), "the tar format of PyTorch 0.1"),
        (b"Not Found", "not a PyTorch file"),
        (bytes(1000), "not a PyTorch file"),
        (pickle.dumps({"a": 1}, 2) + b"more", "4 bytes follow its pickle"),
        (pickle.dumps({"a": 1}, 0), "not a PyTorch file"),
    ],
)
def test_other_kinds_of_files_are_named_in_the_error(contents, problem, tmp_path):
    (tmp_path / "f.bin").write_bytes(contents)
    assert problem in refusal(tmp_path / "f.bin")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.bin")
    assert "Is a directory" in refusal(tmp_path)


def test_a_file_truncated_anywhere_is_refused(file):
    whole = file.read_bytes()
    for length in {*range(0, len(whole), 7), *range(len(whole) - 40, len(whole))}:
        file.write_bytes(whole[:length])
        refusal(file)


def read_all(path):
    """The arrays of a file, or None if it is refused in one line."""
    try:
        value = read_torch_file(path)
        entries = value.items() if isinstance(value, dict) else ()
        return {name: entry.read() for name, entry in entries if isinstance(entry, Tensor)}
    except InputError as error:
        message = str(error)
    assert message.startswith(str(path)) and "\n" not in message
    return None


def with_changed_byte(contents, position, flip):
    changed = bytearray(contents)
    changed[int(position * len(changed))] ^= flip
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def zip_contents(folder):
    pickled = state_dict(
        words=tensor("0", "FloatStorage", 24, (4, 6), (6, 1)), halves=tensor("1", "BFloat16Storage", 2, (2,), (1,))
    )
    write_zip(folder / "whole.bin", pickled, STORAGE_BYTES, byteorder=b"little")
    return (folder / "whole.bin").read_bytes()


@pytest.fixture(scope="module")
def legacy_contents(folder):
    write_legacy(folder / "whole.bin", small_state_dict(view=(None,)), STORAGES)
    return (folder / "whole.bin").read_bytes()


@settings(max_examples=400, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_a_zip_file_is_refused_or_changes_nothing(folder, zip_contents, position, flip):
    (folder / "f.bin").write_bytes(with_changed_byte(zip_contents, position, flip))
    arrays = read_all(folder / "f.bin")
    assert arrays is None or all(same(arrays[name], EXPECTED[name]) for name in ("words", "halves"))


@settings(max_examples=400, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_a_legacy_file_gives_an_error_or_other_values(folder, legacy_contents, position, flip):
    (folder / "f.bin").write_bytes(with_changed_byte(legacy_contents, position, flip))
    read_all(folder / "f.bin")


@settings(max_examples=200, deadline=None)
@given(start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]), rest=st.binary(max_size=200))
def test_random_bytes_raise_input_errors_only(folder, start, rest):
    (folder / "f.bin").write_bytes(start + rest)
    read_all(folder / "f.bin")


def test_written_tensors_are_read_back(tmp_path):
    write_torch_file(tmp_path / "f.bin", ARRAYS.items())
    tensors = read_torch_file(tmp_path / "f.bin")
    assert list(tensors) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert same(tensors[name].read(), expected.astype(expected.dtype.newbyteorder("<")))
    assert os.listdir(tmp_path) == ["f.bin"]


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    write_torch_file(tmp_path / "a.bin", ARRAYS.items())
    write_torch_file(tmp_path / "b.bin", ARRAYS.items())
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    def failing():
        yield "words", WORDS
        raise InputError("the source is damaged")

    write_torch_file(tmp_path / "f.bin", {"old": HALVES}.items())
    for tensors, message in [
        (failing(), "^the source is damaged"),
        ([("a", WORDS), ("a", WORDS)], "f.bin: two tensors are named a"),
        ([("a", np.zeros(2, np.uint16))], "f.bin: a has dtype uint16, for which PyTorch has no storage type"),
    ]:
        with pytest.raises(InputError, match=message):
            write_torch_file(tmp_path / "f.bin", tensors)
    assert list(read_torch_file(tmp_path / "f.bin")) == ["old"] and os.listdir(tmp_path) == ["f.bin"]
    with pytest.raises(InputError, match="cannot be written"):
        write_torch_file(tmp_path / "none" / "f.bin", [])


def test_reading_and_writing_need_memory_for_one_tensor_only(tmp_path):
    tensors = ((f"layer.{number}", np.full((512, 512), number, np.float32)) for number in range(16))
    tracemalloc.start()
    try:
        write_torch_file(tmp_path / "f.bin", tensors)
        for number, entry in enumerate(read_torch_file(tmp_path / "f.bin").values()):
            assert (entry.read() == number).all()
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.reference
@pytest.mark.parametrize("new", [True, False])
def test_files_of_torch_are_read_as_torch_reads_them(new, torch, tmp_path):
    words = torch.randn(7, 5)
    values = {
        "words": words,
        "tied": words,
        "transposed": words.T,
        "slice": words[2:4, 1:3],
        "steps": words[:, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "empty vector": torch.empty(0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "layer": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict(),
        "list": [torch.ones(2, dtype=torch.int16), (torch.zeros(1),)],
        "dtype": torch.bfloat16,
        "size": words.shape,
        "config": argparse.Namespace(hidden=3),
    }
    for dtype in (*map(str, STORAGE_DTYPES.values()), *["uint16", "float8_e5m2"] * new):
        values[dtype] = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    values["slice of halves"] = values["bfloat16"][1:]
    values["slice of integers"] = values["uint16"][1:] if new else torch.ones(2)
    torch.save(values, tmp_path / "f.bin", _use_new_zipfile_serialization=new)
    loaded = read_torch_file(tmp_path / "f.bin")

    def check(value, expected):
        if isinstance(expected, torch.Tensor):
            array = value.read()
            expected = expected.detach().contiguous()
            assert array.dtype == np.dtype(str(expected.dtype).removeprefix("torch."))
            assert array.shape == expected.shape
            assert array.tobytes() == expected.reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(expected, dict):
            assert list(value) == list(expected)
            for key in expected:
                check(value[key], expected[key])
        elif isinstance(expected, (list, tuple)) and not isinstance(expected, torch.Size):
            for pair in zip(value, expected, strict=True):
                check(*pair)

    check(loaded, values)
    assert loaded["tied"].storage is loaded["transposed"].storage
    assert loaded["size"] == (7, 5) and loaded["config"].hidden == 3 and loaded["dtype"] == ml_dtypes.bfloat16


@pytest.mark.reference
def test_a_file_without_checksums_is_read(torch, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"words": torch.from_numpy(WORDS)}, tmp_path / "f.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_torch_file(tmp_path / "f.bin")["words"].read(), WORDS)


@pytest.mark.reference
@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_written_files(mmap, torch, tmp_path):
    write_torch_file(tmp_path / "f.bin", ARRAYS.items())
    loaded = torch.load(tmp_path / "f.bin", weights_only=True, mmap=mmap)
    assert list(loaded) == list(ARRAYS) and isinstance(loaded, OrderedDict)
    for name, expected in ARRAYS.items():
        if name == "big-endian":
            expected = expected.astype("<f4")
        assert str(loaded[name].dtype) == f"torch.{expected.dtype}" and loaded[name].shape == expected.shape
        assert loaded[name].reshape(-1).view(torch.uint8).numpy().tobytes() == expected.tobytes()
