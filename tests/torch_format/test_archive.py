import zipfile

import numpy as np
import pytest
from toy_torch_files import STORAGE_BYTES, WORDS, literal, refusal, small_state_dict, state_dict, tensor, write_zip

from deberta_jax.torch_format.archive import MAX_PICKLE_BYTES


@pytest.mark.parametrize(
    ("operations", "problem"),
    [
        (tensor("0", "FloatStorage", 23, (1,), (1,)), "storage 0 has 96 bytes, expected 23 values of type float32"),
        (tensor("0", "DoubleStorage", 24, (1,), (1,)), "storage 0 has 96 bytes, expected 24 values of type float64"),
        (tensor("0", "FloatStorage", -24, (1,), (1,)), "storage 0 has an impossible size"),
        (tensor("7", "FloatStorage", 24, (1,), (1,)), "storage 7 is missing"),
        (tensor("../../etc/passwd", "FloatStorage", 24, (1,), (1,)), "storage ../../etc/passwd is missing"),
        (tensor("0", "FloatStorage", 24, (2, 2), (1,)), "a tensor without a valid"),
        (tensor("0", "FloatStorage", 24, ("a",), (1,)), "damaged"),
        (tensor("0", "FloatStorage", 24, (1,), (1,), view=(None,)), "something other than values and tensors"),
        (literal("module") + b"Q", "something other than values and tensors"),
    ],
)
def test_a_damaged_storage_is_refused(operations, problem, tmp_path):
    write_zip(tmp_path / "f.bin", state_dict(w=operations), {"0": WORDS.tobytes()})
    assert problem in refusal(tmp_path / "f.bin")


def test_other_zip_files_are_refused(tmp_path):
    path, pickled, storages = tmp_path / "f.bin", small_state_dict(), STORAGE_BYTES
    write_zip(path, pickled, storages, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    write_zip(path, pickled, storages, byteorder=b"big")
    assert "big-endian" in refusal(path)
    write_zip(path, pickled, storages, **{"constants.pkl": b""})
    assert "TorchScript" in refusal(path)
    np.savez(tmp_path / "f.npz", words=WORDS)
    assert "PyTorch did not write: expected exactly one data.pkl" in refusal(tmp_path / "f.npz")
    write_zip(path, pickled, storages)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", bytes(96))
    assert "two entries have the same name" in refusal(path)
    write_zip(path, pickled, storages)
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(contents)
    assert "encrypted" in refusal(path)
    write_zip(path, bytes(MAX_PICKLE_BYTES + 1))
    assert "has 67,108,865 bytes, the limit is" in refusal(path)
