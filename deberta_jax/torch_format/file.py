"""`pytorch_model.bin` and `bpe_encoder.bin`, read and written without PyTorch and without running what they hold."""

import io
import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.tensor import STORAGES, Storage, Tensor, known_name
from deberta_jax.torch_format.unpickler import read_pickle, shown

MOST_PICKLE_BYTES = 64 * 2**20
_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}


def read_torch_file(path: str | Path) -> Any:
    """The object of a `torch.save` or `pickle.dump` file: plain values and containers, and each tensor as a `Tensor`.

    Both formats of `torch.save` are read, that of 1.6 (zip) and the one before. Nothing of the file is run, and of
    what it names only the rebuilding of tensors, containers and numbers is known; DeBERTa's configs and
    `argparse.Namespace` become a `SimpleNamespace`. Raises `InputError` for all else, by name, and for a damaged file:
    every tensor is checked to lie in the file before anything is returned.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            _refuse_other_files(head)
            value = _read_zip(path, file) if head.startswith(_ZIP) else _read_legacy(path, file)
            _name_and_check(value, file.seek(0, os.SEEK_END))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__
    except (OSError, OverflowError) as error:
        raise InputError(f"{path}: could not be read ({getattr(error, 'strerror', None) or error})") from None
    return value


def write_torch_file(path: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a state dict that `torch.load` reads; the file is complete or, on an error, as it was before.

    The arrays are taken one at a time, so that a generator of them needs memory for one. Raises `InputError` for a type
    that PyTorch has no storage of, and for a name that comes twice.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    written: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            for number, (name, array) in enumerate(tensors):
                dtype = array.dtype.newbyteorder("<")
                if dtype not in _STORAGE_NAMES:
                    raise InputError(f"{path}: {name} is of type {dtype}, of which PyTorch has no storage")
                if name in written:
                    raise InputError(f"{path}: {name} comes twice")
                written[name] = (dtype, array.shape)
                data = np.asarray(array, dtype, order="C").reshape(-1).view(np.uint8).data
                entry = zipfile.ZipInfo(f"archive/data/{number}")
                with archive.open(entry, "w", force_zip64=data.nbytes >= 2**31) as storage:
                    storage.write(data)
            for entry_name, contents in {
                "version": b"3\n",
                "byteorder": b"little",
                "data.pkl": _state_dict_pickle(written),
            }.items():
                archive.writestr(zipfile.ZipInfo(f"archive/{entry_name}"), contents)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error}); what stood there is unchanged") from None
    finally:
        partial.unlink(missing_ok=True)


def _refuse_other_files(head: bytes) -> None:
    start = head.lstrip().lower()
    what = ""
    if not head:
        what = "is empty; fetch it again"
    elif head.startswith(b"version https://git-lfs"):
        what = "is a git-lfs pointer; fetch the real file (`git lfs pull`)"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page, not a PyTorch file; fetch the real file"
    elif head[257:262] == b"ustar":
        what = "is in the tar format of PyTorch 0.1; load it with PyTorch and save it again"
    elif not head.startswith((_ZIP, b"\x80")):
        what = f"is not a PyTorch file, which does not begin with {head[:8]!r}"
    if what:
        raise InputError(what)


@dataclass(frozen=True)
class _Entry:
    """An entry of a zip file, stored as it is."""

    name: str
    start: int
    size: int
    checksum: int

    @classmethod
    def of(cls, file: BinaryIO, info: zipfile.ZipInfo) -> "_Entry":
        """Find where an entry begins, which only the header before it tells."""
        name = shown(info.filename)
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(f"entry {name} is compressed or encrypted, which PyTorch's never are; not read")
        offset = max(info.header_offset, 0)
        file.seek(offset)
        header = file.read(30)
        lengths = struct.unpack("<HH", header[26:]) if len(header) == 30 and header.startswith(_ZIP) else (0, 0)
        if file.read(lengths[0]).decode("utf-8", "replace") != info.orig_filename:
            raise InputError(f"entry {name} is not where it should be: damaged; fetch the file again")
        return cls(name, offset + 30 + sum(lengths), info.file_size, info.CRC)

    def read(self, file: BinaryIO) -> bytes:
        if self.size > MOST_PICKLE_BYTES:
            raise InputError(f"entry {self.name} has {self.size:,} bytes, over {MOST_PICKLE_BYTES:,}")
        file.seek(self.start)
        contents = file.read(self.size)
        if self.checksum not in (0, zlib.crc32(contents)):
            raise InputError(f"entry {self.name} does not match its checksum: damaged; fetch it again")
        return contents


def _read_zip(path: Path, file: BinaryIO) -> Any:
    """The directory of the archive, an entry with the pickle and one entry for each storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            twice = len(infos) < len(archive.infolist())
    except (zipfile.BadZipFile, ValueError, LookupError, ArithmeticError, NotImplementedError, struct.error) as error:
        raise InputError(f"a zip file cut short or damaged ({shown(str(error))}); fetch it again") from None
    pickles = [name for name in infos if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1 or twice:
        raise InputError("a zip file that PyTorch did not write: one data.pkl and no name twice is wanted")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in infos:
        raise InputError("is a TorchScript program; a state dict written by `torch.save` is wanted")
    order = infos.get(f"{prefix}byteorder")
    if order and _Entry.of(file, order).read(file) != b"little":
        raise InputError("written on a big-endian machine; load it with PyTorch on another and save it again")
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> tuple[Storage, int]:
        dtype, key, count = _storage_identity(identity, 5)
        if key not in storages:
            if f"{prefix}data/{key}" not in infos:
                raise InputError(f"storage {shown(key)} is missing: damaged; fetch it again")
            entry = _Entry.of(file, infos[f"{prefix}data/{key}"])
            storages[key] = Storage(path, shown(key), dtype, entry.size, entry.start, entry.checksum)
        return _checked(storages[key], dtype, count), 0

    contents = _Entry.of(file, infos[pickles[0]]).read(file)
    return read_pickle(io.BytesIO(contents), find=known_name, persistent=persistent)


def _read_legacy(path: Path, file: BinaryIO) -> Any:
    """Five pickles, then the storages, each after a count of its values; or one pickle alone."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(MOST_PICKLE_BYTES))
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> tuple[Storage, int]:
        dtype, key, count, view = _storage_identity(identity, 6)
        if key not in storages:
            storages[key] = Storage(path, shown(key), dtype, count * dtype.itemsize)
        # A view is a part of a storage: its key, the value it begins at and how many it has.
        first = 0 if view is None else view[1]
        if type(first) is not int:
            raise TypeError("a view that begins nowhere")
        return _checked(storages[key], dtype, count), first * dtype.itemsize

    def no_storage(identity: Any) -> Any:
        raise InputError("names the storage of a tensor where there can be none: damaged")

    def plain() -> Any:
        return read_pickle(pickles, find=known_name, persistent=no_storage)

    value = plain()
    if type(value) is not int or value != _LEGACY_MAGIC:
        if pickles.tell() != size:
            raise InputError(f"not a PyTorch file: {size - pickles.tell():,} bytes follow its pickle")
        return value
    protocol, machine = plain(), plain()
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise InputError("of a format that PyTorch has never had: damaged; fetch it again")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise InputError("written on a big-endian machine; load it with PyTorch on another and save it again")
    value = read_pickle(pickles, find=known_name, persistent=persistent)
    keys = plain()
    if type(keys) is not list or {type(key) for key in keys} - {str, int} or sorted(map(str, keys)) != sorted(storages):
        raise InputError("lists other storages than its tensors have: damaged; fetch it again")
    start = pickles.tell()
    for key in map(str, keys):
        storage = storages[key]
        file.seek(min(start, size))
        count = file.read(8)
        storage.start = start + 8
        if len(count) == 8:
            _checked(storage, storage.dtype, int.from_bytes(count, "little"))
        start = storage.start + storage.size
    return value


def _storage_identity(identity: Any, length: int) -> tuple:
    """Type, key and count of values, and of an old file's storage what it is a view of."""
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise InputError("holds something other than values and tensors, or is damaged; not read")
    dtype, key, _, count, *view = identity[1:]
    if not isinstance(dtype, np.dtype) or type(key) not in (str, int) or type(count) is not int:
        raise TypeError("a storage of no type, key or size")
    if not 0 <= count < 2**48:
        raise InputError(f"storage {shown(str(key))} has an impossible size: damaged")
    return dtype, str(key), count, *view


def _checked(storage: Storage, dtype: np.dtype, count: int) -> Storage:
    if storage.size != count * dtype.itemsize:
        what = f"should hold {count} values of type {dtype} and has {storage.size} bytes"
        raise InputError(f"storage {storage.key} {what}: damaged; fetch it again")
    return storage


def _name_and_check(value: Any, file_size: int) -> None:
    """Name each tensor by its key and check where it lies, whatever it is nested in."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            item.check(file_size)
        item = vars(item) if isinstance(item, SimpleNamespace) else item
        if id(item) in seen or not isinstance(item, (dict, list, tuple)):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            item.update(
                {key: replace(entry, name=shown(str(key))) for key, entry in item.items() if type(entry) is Tensor}
            )
            item = list(item.values())
        waiting.extend(reversed(item))


def _state_dict_pickle(written: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
    """A pickle that rebuilds an OrderedDict of tensors, the i-th of them on storage i."""

    def literal(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    ordered_dict = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", ordered_dict, b"("]
    for number, (name, (dtype, shape)) in enumerate(written.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts += [
            literal(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + literal("storage") + b"ctorch\n" + _STORAGE_NAMES[dtype].encode() + b"\n",
            literal(str(number)) + literal("cpu") + literal(math.prod(shape)) + b"tQ",
            literal(0) + literal(shape) + literal(strides) + literal(False) + ordered_dict + b"tR",
        ]
    return b"".join([*parts, b"u."])
