"""The zip format of `torch.save` (PyTorch 1.6 and later): one entry with a pickle, and one for each storage."""

import io
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.names import find_name
from deberta_jax.torch_format.storage import STORAGE_DTYPES, Storage, parse_storage_id
from deberta_jax.torch_format.unpickler import printable, read_pickle

MAX_PICKLE_BYTES = 64 * 2**20
ZIP_MAGIC = b"PK\x03\x04"
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
# What `zipfile` raises for a damaged directory.
_DAMAGE = (zipfile.BadZipFile, ValueError, LookupError, ArithmeticError, NotImplementedError, struct.error)


@dataclass(frozen=True)
class _Entry:
    """An uncompressed entry of a zip file."""

    name: str
    start: int
    size: int
    checksum: int

    @classmethod
    def locate(cls, file: BinaryIO, info: zipfile.ZipInfo) -> "_Entry":
        """Find where the contents begin, which only the local header of the entry determines."""
        name = printable(info.filename)
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(f"entry {name} is compressed or encrypted, which PyTorch never does; it was not loaded")
        offset = max(info.header_offset, 0)
        file.seek(offset)
        header = file.read(30)
        lengths = struct.unpack("<HH", header[26:]) if len(header) == 30 and header.startswith(ZIP_MAGIC) else (0, 0)
        if file.read(lengths[0]).decode("utf-8", "replace") != info.orig_filename:
            raise InputError(f"entry {name} is not where the directory lists it: damaged; download the file again")
        return cls(name, offset + 30 + sum(lengths), info.file_size, info.CRC)

    def read(self, file: BinaryIO) -> bytes:
        if self.size > MAX_PICKLE_BYTES:
            raise InputError(f"entry {self.name} has {self.size:,} bytes, the limit is {MAX_PICKLE_BYTES:,}")
        file.seek(self.start)
        contents = file.read(self.size)
        if self.checksum not in (0, zlib.crc32(contents)):
            raise InputError(f"entry {self.name} does not match its checksum: damaged; download the file again")
        return contents


def read_archive(path: Path, file: BinaryIO) -> Any:
    """The object in an archive; raises `InputError` (without the path) for anything PyTorch does not write."""
    infos = _directory(file)
    pickles = [name for name in infos if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise InputError("a zip file that PyTorch did not write: expected exactly one data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in infos:
        raise InputError("a TorchScript program; expected a state dict written by `torch.save`")
    order = infos.get(f"{prefix}byteorder")
    if order and _Entry.locate(file, order).read(file) != b"little":
        raise InputError("written on a big-endian machine; load and save it with PyTorch on a little-endian one")
    storages: dict[str, Storage] = {}

    def load_persistent(identity: Any) -> tuple[Storage, int]:
        dtype, key, count = parse_storage_id(identity, 5)
        if key not in storages:
            if f"{prefix}data/{key}" not in infos:
                raise InputError(f"storage {printable(key)} is missing: damaged; download the file again")
            entry = _Entry.locate(file, infos[f"{prefix}data/{key}"])
            storages[key] = Storage(path, printable(key), dtype, entry.size, entry.start, entry.checksum)
        return storages[key].check_size(dtype, count), 0

    contents = _Entry.locate(file, infos[pickles[0]]).read(file)
    return read_pickle(io.BytesIO(contents), find_name=find_name, load_persistent=load_persistent)


def _directory(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise InputError(f"a damaged or truncated zip file ({printable(str(error))}); download it again") from None
    infos = {info.filename: info for info in entries}
    if len(infos) < len(entries):
        raise InputError("a zip file that PyTorch did not write: two entries have the same name")
    return infos


def write_archive(path: Path, tensors: Iterable[tuple[str, np.ndarray]], *, target: Path) -> None:
    """Write a state dict; raises `InputError`, which names `target`, for unsupported dtypes and repeated names."""
    written: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, array) in enumerate(tensors):
            dtype = array.dtype.newbyteorder("<")
            if dtype not in _STORAGE_NAMES:
                raise InputError(f"{target}: {name} has dtype {dtype}, for which PyTorch has no storage type")
            if name in written:
                raise InputError(f"{target}: two tensors are named {name}")
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


def _state_dict_pickle(written: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
    """A pickle that rebuilds an OrderedDict of tensors; tensor i uses storage i."""

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
