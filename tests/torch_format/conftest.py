import pytest
from toy_torch_files import STORAGE_BYTES, STORAGES, small_state_dict, write_legacy, write_zip


@pytest.fixture(params=["zip", "legacy"])
def file(request, tmp_path):
    """The tensors `EXPECTED` in both formats."""
    path = tmp_path / "pytorch_model.bin"
    if request.param == "zip":
        write_zip(path, small_state_dict(), STORAGE_BYTES, byteorder=b"little")
    else:
        write_legacy(path, small_state_dict(view=(None,)), STORAGES)
    return path
