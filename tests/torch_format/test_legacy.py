import os

import pytest
from toy_torch_files import HALVES, STORAGES, WORDS, refusal, same, small_state_dict, state_dict, tensor, write_legacy

from deberta_jax.torch_format.file import read_torch_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.bin"


def test_a_view_of_a_storage_is_read(path):
    view = (("a part", 12, 12),)
    part = tensor("0", "FloatStorage", 24, (2, 6), (6, 1), view=view)
    write_legacy(path, state_dict(part=part), {"0": WORDS})
    assert same(read_torch_file(path)["part"].read(), WORDS[2:])


def test_files_of_other_machines_and_with_other_storages_are_refused(path):
    pickled = small_state_dict(view=(None,))
    write_legacy(path, pickled, STORAGES, little_endian=False)
    assert "big-endian" in refusal(path)
    for keys in (["0"], ["0", "1", "1"], ["0", "2"], {"0": 1}, [["0"], "1"]):
        write_legacy(path, pickled, STORAGES, keys=keys)
        assert "does not list the storages" in refusal(path)
    write_legacy(path, pickled, {"0": WORDS[:2], "1": HALVES})
    assert "storage 0 has 96 bytes, expected 12 values" in refusal(path)


def test_the_error_of_a_truncated_file_names_the_first_missing_tensor(path):
    write_legacy(path, small_state_dict(view=(None,)), STORAGES)
    os.truncate(path, path.stat().st_size - 1)
    assert "old ends after byte" in refusal(path)
