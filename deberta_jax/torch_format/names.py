"""The names that a pickle may refer to, and the values that replace them."""

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.storage import STORAGE_DTYPES, Storage
from deberta_jax.torch_format.tensor import Tensor
from deberta_jax.torch_format.unpickler import Function, Opaque, check_key, printable

_DTYPES = {str(dtype): dtype for dtype in STORAGE_DTYPES.values()} | {
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def find_name(module: str, name: str) -> Any:
    """The replacement of an exact pair of module and name; the named object itself is never imported.

    A persistent id must give a pair: a `Storage`, and the byte of it at which offsets begin. Raises `InputError` for
    any other name.
    """
    if (module, name) in _REPLACEMENTS:
        return _REPLACEMENTS[module, name]
    if module.endswith("deberta.config") and name in ("ModelConfig", "AbsModelConfig"):
        return _REPLACEMENTS["argparse", "Namespace"]
    reference = f"{printable(module)}.{printable(name)}"
    if module.partition(".")[0] in _OPAQUE_PACKAGES or (module, name) in _OPAQUE:
        return Function(lambda *_: Opaque(reference))
    if reference in _QUANTIZED:
        raise InputError("contains weights quantized by PyTorch; load it with PyTorch and save its weights as float32")
    hint = "; save `model.state_dict()` instead of the model" if module.startswith("torch.nn.modules.") else ""
    raise InputError(f"refers to {reference}, which files of tensors never need; the file was not loaded{hint}")


def _rebuild_tensor(
    stored: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None, metadata: Any = None
) -> Tensor:
    storage, first = stored
    dtype = storage.dtype if dtype is None else dtype
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype) or len(shape) != len(strides):
        raise TypeError("a tensor without a valid storage, type, shape and strides")
    if any(type(number) is not int for number in (offset, *shape, *strides)):
        raise TypeError("a tensor whose offset, shape or strides are not integers")
    if metadata:
        raise InputError("contains a lazily conjugated or negated tensor")
    strides = tuple(stride * dtype.itemsize for stride in strides)
    start = first + offset * dtype.itemsize
    return Tensor(f"a tensor in storage {storage.key}", tuple(shape), dtype, strides, start, storage)


def _rebuild_tensor_v2(
    stored: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    return _rebuild_tensor(stored, offset, shape, strides, None, metadata)


def _rebuild_tensor_v3(
    stored: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    return _rebuild_tensor(stored, offset, shape, strides, dtype, metadata)


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    if function is not _REPLACEMENTS["torch._utils", "_rebuild_tensor_v2"]:
        raise TypeError("a tensor of an unknown class")
    return _rebuild_tensor_v2(*arguments)


def _numpy_dtype(name: Any, *_: Any) -> Any:
    if re.fullmatch(r"[<|]?[USMmV][0-9]{1,9}|[<|]?[Mm]8\[.*\]", name):
        return Opaque("numpy.dtype")
    if not re.fullmatch(r"[<|]?([biu][1248]|f[248])", name):
        raise InputError(f"refers to the numpy type {printable(name)}, which is not a number")
    return np.dtype(name)


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    if isinstance(dtype, Opaque):
        return dtype
    if not isinstance(dtype, np.dtype):
        raise TypeError("a number without a type")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _namespace() -> SimpleNamespace:
    return SimpleNamespace()


def _dict() -> dict:
    return {}


def _empty_bytes() -> bytes:
    return b""


# Training programs save objects of these packages beside the weights: settings, schedules, callbacks.
_OPAQUE_PACKAGES = frozenset(
    [
        *("transformers", "accelerate", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
        *("omegaconf", "deepspeed", "sentence_transformers", "DeBERTa"),
    ]
)
_TYPES = "bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "slice", "str"
_OPAQUE = frozenset(
    [
        *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
        *(("pathlib._local", name) for name in ("Path", "PosixPath", "WindowsPath")),
        *(("datetime", name) for name in ("datetime", "date", "timedelta", "timezone")),
        *(("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")),
        *(("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"), ("numpy", "ndarray")),
        *(("torch._C", "Generator"), ("torch", "Generator"), ("uuid", "UUID"), ("decimal", "Decimal")),
        *((module, name) for module in ("builtins", "__builtin__") for name in _TYPES),
    ]
)
_QUANTIZED = ("torch._utils._rebuild_qtensor",)
_SET = Function(lambda items: set(map(check_key, items)))
_REPLACEMENTS: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Function(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(lambda tensor, *_: tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_rebuild_from_type),
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch", "Size"): Function(tuple),
    ("torch", "device"): Function(lambda kind, *_: kind),
    ("torch.storage", "UntypedStorage"): np.dtype(np.uint8),
    **{("torch", name): dtype for name, dtype in (STORAGE_DTYPES | _DTYPES).items()},
    **{("torch.cuda", name): dtype for name, dtype in STORAGE_DTYPES.items()},
    ("collections", "OrderedDict"): Function(_dict),
    ("collections", "defaultdict"): Function(lambda *_: {}),
    ("collections", "Counter"): Function(lambda *items: dict(*items)),
    ("argparse", "Namespace"): Function(_namespace),
    ("builtins", "set"): _SET,
    # Protocol 2 uses the names of Python 2 and has no operation for bytes.
    ("__builtin__", "set"): _SET,
    ("__builtin__", "bytes"): Function(_empty_bytes),
    ("_codecs", "encode"): Function(lambda text, encoding: text.encode("latin-1")),
    ("numpy", "dtype"): Function(_numpy_dtype),
    ("numpy.core.multiarray", "scalar"): Function(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): Function(_numpy_scalar),
}
