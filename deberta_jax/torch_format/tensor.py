"""A tensor in a file of PyTorch's: where its values lie, and what stands for the names by which pickles rebuild it."""

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.unpickler import Function, hashable, shown

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
_DTYPES = {str(dtype): dtype for dtype in STORAGES.values()} | {
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_MOST_AXES = 32


@dataclass(eq=False)
class Storage:
    """The bytes that one or several tensors lie in; `checksum` is 0 where the file has none."""

    path: Path
    key: str
    dtype: np.dtype
    size: int
    # Of an old file known only after its pickle.
    start: int = 0
    checksum: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file: its `shape` and `dtype` are known, its values are read when asked for.

    Tensors that are tied in the file have the same `storage`. `strides` and `offset` are in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    offset: int
    storage: Storage

    def read(self) -> np.ndarray:
        """Its values, contiguous; raises `InputError` where the file no longer holds them.

        Where a tensor fills its storage, as most do, its checksum is verified if the file has one (the zip format).
        """
        data = np.empty(self._reach, np.uint8)
        try:
            with open(self.storage.path, "rb") as file:
                file.seek(self.storage.start + self.offset)
                count = file.readinto(data.data)
        except OSError as error:
            raise InputError(f"{self.storage.path}: {self.name} could not be read ({error.strerror})") from None
        if count != len(data):
            raise InputError(f"{self.storage.path}: {self.name} is cut short; the file has changed since it was opened")
        if self.storage.checksum and len(data) == self.storage.size and zlib.crc32(data.data) != self.storage.checksum:
            raise InputError(
                f"{self.storage.path}: {self.name} does not match its checksum: damaged; fetch the file again"
            )
        return np.asarray(np.ndarray(self.shape, self.dtype, data, strides=self.strides), order="C")

    def check(self, file_size: int) -> None:
        """Raise `InputError` (without the path) unless all of it lies in its storage and that in the file."""
        size = self.storage.size
        if len(self.shape) > _MOST_AXES or min([*self.shape, *self.strides, self.offset]) < 0:
            raise InputError(f"{self.name} has a negative size, stride or offset, or too many axes: damaged")
        if self.storage.start + size > file_size:
            raise InputError(
                f"{self.name} ends beyond the {file_size} bytes of the file, which is cut short; fetch it again"
            )
        values = math.prod(length or 1 for length in self.shape)
        # Of no values numpy allows other axes of any reasonable length; a few values can be repeated by a stride of 0.
        room = 2**48 if 0 in self.shape else size
        if values * self.dtype.itemsize > room or (self._reach and self.offset + self._reach > size):
            what = f"{self.dtype} of shape {shown(str(self.shape))}"
            raise InputError(f"{self.name}, {what}, exceeds its storage of {size} bytes: damaged")

    @property
    def _reach(self) -> int:
        """How many bytes lie from its first value to the end of its last."""
        if 0 in self.shape:
            return 0
        steps = (stride * (length - 1) for stride, length in zip(self.strides, self.shape, strict=True))
        return sum(steps) + self.dtype.itemsize


def known_name(module: str, name: str) -> Any:
    """What stands for a name in a pickle: an exact pair of module and name, and never the thing itself.

    A persistent id has to stand for a pair: a `Storage` and the byte of it at which offsets begin to count. Raises
    `InputError` for all other names.
    """
    if (module, name) in _KNOWN:
        return _KNOWN[module, name]
    if module.endswith("deberta.config") and name in ("ModelConfig", "AbsModelConfig"):
        return _KNOWN["argparse", "Namespace"]
    raise InputError(f"refers to {shown(module)}.{shown(name)}, which a file of tensors has no use for; not read")


def _tensor(found: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None, metadata: Any = None) -> Tensor:
    storage, first = found
    dtype = storage.dtype if dtype is None else dtype
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype) or len(shape) != len(strides):
        raise TypeError("a tensor of other than a storage, a type, a shape and strides")
    if any(type(number) is not int for number in (offset, *shape, *strides)):
        raise TypeError("a tensor with other than numbers for its place and shape")
    if metadata:
        raise InputError("holds a tensor that is conjugate or negative in name only")
    strides = tuple(stride * dtype.itemsize for stride in strides)
    start = first + offset * dtype.itemsize
    return Tensor(f"a tensor in storage {storage.key}", tuple(shape), dtype, strides, start, storage)


def _tensor_v2(
    found: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    return _tensor(found, offset, shape, strides, None, metadata)


def _tensor_v3(
    found: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    return _tensor(found, offset, shape, strides, dtype, metadata)


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    if function is not _KNOWN["torch._utils", "_rebuild_tensor_v2"]:
        raise TypeError("a tensor of an unknown class")
    return _tensor_v2(*arguments)


def _number_type(name: Any, *_: Any) -> np.dtype:
    if not re.fullmatch(r"[<|]?([biu][1248]|f[248])", name):
        raise InputError(f"refers to the numpy type {shown(name)}, which is not that of a number")
    return np.dtype(name)


def _number(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype):
        raise TypeError("a number of no type")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _namespace() -> SimpleNamespace:
    return SimpleNamespace()


def _dict() -> dict:
    return {}


def _no_bytes() -> bytes:
    return b""


_SET = Function(lambda items: set(map(hashable, items)))
_KNOWN: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Function(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(lambda tensor, *_: tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_tensor_with_attributes),
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch", "Size"): Function(tuple),
    ("torch", "device"): Function(lambda kind, *_: kind),
    ("torch.storage", "UntypedStorage"): np.dtype(np.uint8),
    **{("torch", name): dtype for name, dtype in (STORAGES | _DTYPES).items()},
    **{("torch.cuda", name): dtype for name, dtype in STORAGES.items()},
    ("collections", "OrderedDict"): Function(_dict),
    ("argparse", "Namespace"): Function(_namespace),
    ("builtins", "set"): _SET,
    # Protocol 2 has the names of Python 2, and no bytes.
    ("__builtin__", "set"): _SET,
    ("__builtin__", "bytes"): Function(_no_bytes),
    ("_codecs", "encode"): Function(lambda text, encoding: text.encode("latin-1")),
    ("numpy", "dtype"): Function(_number_type),
    ("numpy.core.multiarray", "scalar"): Function(_number),
    ("numpy._core.multiarray", "scalar"): Function(_number),
}
