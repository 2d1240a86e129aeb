"""PyTorch files written operation by operation, valid and malformed ones."""

import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.torch_format.file import read_torch_file

WORDS = np.arange(24, dtype=np.float32).reshape(4, 6)
HALVES = np.asarray([1.5, -2], ml_dtypes.bfloat16)
STORAGES = {"0": WORDS, "1": HALVES}
STORAGE_BYTES = {key: data.tobytes() for key, data in STORAGES.items()}
# The tensors of `small_state_dict`.
EXPECTED = {
    "words": WORDS,
    "tied": WORDS,
    "transposed": WORDS.T,
    "slice": WORDS[1:3, 2:4],
    "scalar": WORDS[0, 3],
    "empty": WORDS[:0],
    "old": HALVES,
    "halves": HALVES,
}


def literal(value):
    """The operations that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, kind, count, shape, strides, offset=0, view=(), function="_rebuild_tensor_v2"):
    """The operations that rebuild one tensor, as torch writes them."""
    storage = b"(" + literal("storage") + f"ctorch\n{kind}\n".encode()
    storage += b"".join(map(literal, (key, "cpu", count, *view))) + b"tQ"
    numbers = b"".join(map(literal, (offset, tuple(shape), tuple(strides))))
    more = b"" if function == "_rebuild_tensor" else b"\x89)"
    return f"ctorch._utils\n{function}\n(".encode() + storage + numbers + more + b"tR"


def state_dict(**entries):
    return b"\x80\x02}(" + b"".join(literal(name) + operations for name, operations in entries.items()) + b"u."


def small_state_dict(view=()):
    """A pickle of tied, transposed, sliced, scalar and empty tensors over `STORAGES`."""

    def words(shape, strides, offset=0):
        return tensor("0", "FloatStorage", 24, shape, strides, offset, view)

    return state_dict(
        words=words((4, 6), (6, 1)),
        tied=words((4, 6), (6, 1)),
        transposed=words((6, 4), (1, 6)),
        slice=words((2, 2), (6, 1), 8),
        scalar=words((), (), 3),
        empty=words((0, 6), (6, 1)),
        old=tensor("1", "BFloat16Storage", 2, (2,), (1,), 0, view, "_rebuild_tensor"),
        halves=tensor("1", "BFloat16Storage", 2, (2,), (1,), 0, view),
    )


def write_zip(path, pickled, storages=(), compression=zipfile.ZIP_STORED, **entries):
    contents = {"data.pkl": pickled, **entries, **{f"data/{key}": data for key, data in dict(storages).items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), bytes(data), compression)


def write_legacy(path, pickled, storages=(), keys=None, little_endian=True):
    machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4}}
    storages = dict(storages)
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
    parts += [pickled, pickle.dumps(list(storages) if keys is None else keys, 2)]
    parts += [data.size.to_bytes(8, "little") + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join(parts))


def write_plain(path, pickled):
    path.write_bytes(pickled)


def same(array, expected):
    return (
        array.dtype == expected.dtype
        and array.shape == expected.shape
        and array.flags.c_contiguous
        and np.array_equal(array, expected)
    )


def refusal(path):
    """The one line of the error with which a file is refused."""
    with pytest.raises(InputError) as error:
        read_torch_file(path)
    line = str(error.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < len(str(path)) + 400
    return line
