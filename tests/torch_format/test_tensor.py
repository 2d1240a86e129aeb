import os

import pytest
from toy_torch_files import EXPECTED, WORDS, literal, refusal, same, state_dict, tensor, write_legacy, write_zip

from deberta_jax.errors import InputError
from deberta_jax.torch_format.file import read_torch_file


def test_tensors_have_the_written_shapes_dtypes_and_values(file):
    tensors = read_torch_file(file)
    assert list(tensors) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert tensors[name].name == name
        assert (tensors[name].shape, tensors[name].dtype) == (expected.shape, expected.dtype)
        assert same(tensors[name].read(), expected)


def test_tied_tensors_share_one_storage(file):
    tensors = read_torch_file(file)
    assert tensors["words"].storage is tensors["tied"].storage
    assert tensors["words"].storage is not tensors["halves"].storage


def test_values_are_read_on_request_and_a_changed_file_is_detected(file):
    tensors = read_torch_file(file)
    os.truncate(file, 40)
    with pytest.raises(InputError, match="words is cut short"):
        tensors["words"].read()
    file.unlink()
    with pytest.raises(InputError, match="words cannot be read"):
        tensors["words"].read()


def test_a_parameter_is_read_as_its_tensor(tmp_path):
    words = tensor("0", "FloatStorage", 24, (24,), (1,))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + words + b"\x88)tR"
    with_state = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + words + b"\x88)}tR"
    write_zip(tmp_path / "f.bin", state_dict(a=parameter, b=with_state), {"0": WORDS.tobytes()})
    for entry in read_torch_file(tmp_path / "f.bin").values():
        assert same(entry.read(), WORDS.reshape(-1))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 6), (6, 1), 1),
        ((5, 6), (6, 1), 0),
        ((2, 2), (24, 1), 0),
        ((1,), (1,), 24),
        ((1,), (1,), -1),
        ((-1,), (1,), 0),
        ((2,), (-1,), 5),
        ((10**12,), (0,), 0),
        ((25,), (0,), 0),
        ((0, 2**60), (1, 1), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused_by_name(write, shape, strides, offset, tmp_path):
    view = () if write is write_zip else (None,)
    pickled = state_dict(good=tensor("0", "FloatStorage", 24, (24,), (1,), 0, view))
    pickled = pickled[:-2] + literal("bad.one") + tensor("0", "FloatStorage", 24, shape, strides, offset, view) + b"u."
    write(tmp_path / "f.bin", pickled, {"0": WORDS if write is write_legacy else WORDS.tobytes()})
    assert "bad.one" in refusal(tmp_path / "f.bin")
