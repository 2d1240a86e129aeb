"""The format of `torch.save` before PyTorch 1.6, and plain pickles."""

import io
import os
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from deberta_jax.errors import InputError
from deberta_jax.torch_format.archive import MAX_PICKLE_BYTES
from deberta_jax.torch_format.names import find_name
from deberta_jax.torch_format.storage import Storage, parse_storage_id
from deberta_jax.torch_format.unpickler import printable, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_legacy(path: Path, file: BinaryIO) -> Any:
    """The object in a legacy file or in a plain pickle; raises `InputError` (without the path).

    A legacy file consists of five pickles (magic number, protocol, machine, value, storage keys) and the storages, each
    after the number of its values.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    read_plain = partial(read_pickle, pickles, find_name=find_name, load_persistent=_refuse_storage)
    value = read_plain()
    if type(value) is not int or value != _MAGIC:
        if pickles.tell() != size:
            raise InputError(f"not a PyTorch file: {size - pickles.tell():,} bytes follow its pickle")
        return value
    protocol, machine = read_plain(), read_plain()
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise InputError("an unknown version of the PyTorch format: damaged; download the file again")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise InputError("written on a big-endian machine; load and save it with PyTorch on a little-endian one")
    storages: dict[str, Storage] = {}

    def load_persistent(identity: Any) -> tuple[Storage, int]:
        dtype, key, count, view = parse_storage_id(identity, 6)
        if key not in storages:
            storages[key] = Storage(path, printable(key), dtype, count * dtype.itemsize)
        # A view is a part of a storage: key, first value, number of values.
        first = 0 if view is None else view[1]
        if type(first) is not int:
            raise TypeError("a view without a first value")
        return storages[key].check_size(dtype, count), first * dtype.itemsize

    value = read_pickle(pickles, find_name=find_name, load_persistent=load_persistent)
    keys = read_plain()
    _locate_storages(file, pickles.tell(), keys, storages)
    return value


def _refuse_storage(identity: Any) -> Any:
    raise InputError("refers to the storage of a tensor where none can be: damaged")


def _locate_storages(file: BinaryIO, start: int, keys: Any, storages: dict[str, Storage]) -> None:
    """Set the position of each storage; they follow each other from byte `start`, in the order of `keys`."""
    if type(keys) is not list or {type(key) for key in keys} - {str, int} or sorted(map(str, keys)) != sorted(storages):
        raise InputError("does not list the storages that its tensors use: damaged; download the file again")
    size = file.seek(0, os.SEEK_END)
    for key in map(str, keys):
        storage = storages[key]
        file.seek(min(start, size))
        count = file.read(8)
        storage.start = start + 8
        if len(count) == 8:
            storage.check_size(storage.dtype, int.from_bytes(count, "little"))
        start = storage.start + storage.size
