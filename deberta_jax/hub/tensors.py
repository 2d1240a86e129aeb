"""The tensors of a model's weight files: position, shape and dtype are known, values are read on request."""

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.files import is_file_name, read_json, replace_file
from deberta_jax.hub.foreign import folder_files, other_weights
from deberta_jax.hub.training_checkpoints import state_dict, without_wrapper
from deberta_jax.torch_format.file import read_torch_file

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
INDEX = "{}.index.json"
# The first of these that exists is read, the others are ignored.
WEIGHT_FILES = (SAFETENSORS, INDEX.format(SAFETENSORS), TORCH, INDEX.format(TORCH))
# A larger model is split into several files; each is in memory while it is written.
MAX_FILE_BYTES = 2 * 10**9
_DTYPES: dict[str, Any] = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": ml_dtypes.bfloat16,
    "BOOL": "bool",
    # Quantized weights, which `hub.quantized` describes.
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


# A file, and the function that writes its content to another path.
_Writer = tuple[Path, Callable[[Path], object]]


@runtime_checkable
class Tensor(Protocol):
    """Shape and dtype of a tensor; its values are read when `read` is called."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class ComputedTensor:
    """A tensor that `compute` returns whenever it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    compute: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        return self.compute()


@dataclasses.dataclass(frozen=True)
class _StoredTensor:
    """A tensor of a safetensors file; the file is open, and mapped, only while it is read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        with safetensors.safe_open(self.path, "numpy") as file:
            return file.get_tensor(self.name)


def as_tensor(array: np.ndarray) -> ComputedTensor:
    """An array as a tensor."""
    return ComputedTensor(array.shape, array.dtype, lambda: array)


def weight_file(folder: Path) -> Path:
    """The weight file of a folder, or the index of several; safetensors take precedence over `.bin`.

    Microsoft's training saves `pytorch.model-STEP.bin`; without any other file the latest of these is taken.
    """
    candidates = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not candidates:
        candidates = sorted(folder.glob("pytorch.model-*.bin"), key=_numbers, reverse=True)
    if not candidates:
        other = (
            other_weights(folder_files(folder)) or f"expected {SAFETENSORS} or {TORCH}, or the index of several files"
        )
        raise InputError(f"{folder}: no weights; {other}")
    return candidates[0]


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file, or of the files that an index lists; other values are left out.

    Only headers are read. Names are without the prefixes of wrappers such as `module.`. Raises InputError for files
    that are damaged, missing or not weight files.
    """
    tensors = _read_file(path)
    # The names in an adapter are those of the model that it is for, in its wrapper.
    return tensors if path.name.startswith("adapter_model.") else without_wrapper(tensors, path)


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.name.endswith(".json"):
        return _read_index(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return dict(state_dict(read_torch_file(path), path))


def _read_index(path: Path) -> dict[str, Tensor]:
    file_of = read_json(path).get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise InputError(f"{path}: expected a weight_map from tensors to files")
    if outside := sorted({str(name) or "''" for name in file_of.values() if not is_file_name(name)}):
        raise InputError(f"{path}: refers to files outside its folder: {list_names(outside)}")
    files = {name: path.parent / name for name in sorted(set(file_of.values()))}
    if others := [name for name in files if Path(name).suffix not in (".safetensors", ".bin")]:
        raise InputError(f"{path}: refers to files of an unknown kind: {list_names(others)}")
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise InputError(f"{path}: {len(missing)} of {len(files)} files are missing: {list_names(missing)}")
    tensors = {name: _read_file(file) for name, file in files.items()}
    if absent := [name for name, file in file_of.items() if name not in tensors[file]]:
        raise InputError(f"{path}: {len(absent)} tensors are not in the listed files: {list_names(absent)}")
    return {name: tensors[file][name] for name, file in file_of.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _StoredTensor(path, name, tuple(part.get_shape()), _dtype(path, name, part.get_dtype()))
                for name, part in slices.items()
            }
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}){_pointer_hint(path)}") from None


def _dtype(path: Path, name: str, code: str) -> np.dtype:
    if code not in _DTYPES:
        raise InputError(f"{path}: {shorten(name)} has the unsupported type {code}; convert the weights to float32")
    return np.dtype(_DTYPES[code])


def _pointer_hint(path: Path) -> str:
    """The rest of the message if the file was never downloaded from git's large file storage."""
    with path.open("rb") as file:
        is_pointer = file.read(40).startswith(b"version https://git-lfs")
    return ": it is a git-lfs pointer; download the real file (`git lfs pull`)" if is_pointer else ""


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    max_file_bytes: int = MAX_FILE_BYTES,
    *,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write `model.safetensors`, or several files and their index if the tensors exceed `max_file_bytes`.

    `texts` are further files, by name. Every file is written before the first previous file is replaced, and the index
    is replaced last. The tensors of one file are in memory at once.
    """
    groups = _groups(tensors, max_file_bytes)
    names = [SAFETENSORS] if len(groups) == 1 else _new_names(folder, len(groups))
    writers: list[_Writer] = []
    for name, group in zip(names, groups, strict=True):
        writers.append((folder / name, partial(_write_file, tensors={tensor: tensors[tensor] for tensor in group})))
    texts = dict(texts or {})
    if len(groups) > 1:
        texts[INDEX.format(SAFETENSORS)] = json.dumps(_index(tensors, names, groups), indent=2) + "\n"
    writers += [(folder / name, partial(Path.write_text, data=text, encoding="utf-8")) for name, text in texts.items()]
    _replace_files(writers)
    _remove_previous(folder, keep=[*names, *texts])


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file; on an error the previous file is unchanged."""
    _replace_files([(path, partial(_write_file, tensors=tensors))])


def _replace_files(writers: Sequence[_Writer]) -> None:
    """Write all files under temporary names, then replace the previous files in the order given.

    The calls are nested, the last file outermost: it is written first and replaced last.
    """
    if not writers:
        return
    *others, (path, write) = writers

    def write_all(temporary: Path) -> None:
        write(temporary)
        _replace_files(others)

    replace_file(path, write_all)


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # The library silently writes wrong values for arrays that are not contiguous.
    arrays = {name: np.ascontiguousarray(tensor.read()).reshape(tensor.shape) for name, tensor in tensors.items()}
    try:
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from None
    # The library makes the file readable by its owner only.
    path.chmod(0o666 & ~_umask())


def _groups(tensors: Mapping[str, Tensor], max_file_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + _bytes(tensor) > max_file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += _bytes(tensor)
    return groups


def _new_names(folder: Path, count: int) -> list[str]:
    """Names of `count` files that do not exist yet, so that an interruption leaves the previous files complete."""
    for attempt in itertools.count():
        mark = f"-{attempt}" if attempt else ""
        names = [f"model{mark}-{part + 1:05}-of-{count:05}.safetensors" for part in range(count)]
        if not any((folder / name).exists() for name in names):
            break
    return names


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _index(tensors: Mapping[str, Tensor], names: Sequence[str], groups: Iterable[Iterable[str]]) -> dict[str, Any]:
    file_of = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
    return {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": file_of}


def _remove_previous(folder: Path, keep: Sequence[str]) -> None:
    """Remove the safetensors files of a previous model, which would be read together with the new ones."""
    previous = [*folder.glob("model-*of-*.safetensors"), folder / SAFETENSORS, folder / INDEX.format(SAFETENSORS)]
    for path in previous:
        if path.name not in keep:
            path.unlink(missing_ok=True)
