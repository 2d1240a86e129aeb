"""The tensors of a model's files: where they lie, what they are, and each read when it is wanted."""

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
import safetensors.numpy

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.torch_format.file import Tensor as TorchTensor
from deberta_jax.torch_format.file import read_torch_file

SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
INDEX = "{}.index.json"
# The first of these that is there is taken, the others are left.
WEIGHTS = (SAFE, INDEX.format(SAFE), TORCH, INDEX.format(TORCH))
# A larger model is split over several files, each written from memory as a whole.
MOST_BYTES = 2 * 10**9


@runtime_checkable
class Tensor(Protocol):
    """Shape and dtype of a tensor in a file; its bytes are read when `read` is called."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Made:
    """A tensor that is computed when it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        return self.make()


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of a safetensors file; the file is open, and mapped, only while it is read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        with safetensors.safe_open(self.path, "numpy") as file:
            return file.get_tensor(self.name)


def as_tensor(array: np.ndarray) -> Made:
    """An array as a tensor."""
    return Made(array.shape, array.dtype, lambda: array)


def weight_file(folder: Path) -> Path:
    """The file that holds a folder's weights, or the index of several: safetensors before Microsoft's.

    Without them it is what Microsoft's training saves at each of some steps, the latest.
    """
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        found = sorted(folder.glob("pytorch.model-*.bin"), key=_numbers, reverse=True)
    if not found:
        raise InputError(f"{folder}: holds no weights; {SAFE} or {TORCH} is wanted, or the index of several such files")
    return found[0]


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file or of the files that an index names; what is no tensor is left out.

    No more than headers is read. Raises InputError for files that are damaged, missing or no weight files.
    """
    if path.name.endswith(".json"):
        return _indexed(path)
    if path.suffix == ".safetensors":
        return _safe(path)
    content = read_torch_file(path)
    if isinstance(content, Mapping) and not any(isinstance(value, TorchTensor) for value in content.values()):
        # Training scripts wrap what they save.
        wrapped = [content[key] for key in ("state_dict", "model", "module") if isinstance(content.get(key), Mapping)]
        content = wrapped[0] if wrapped else content
    if not isinstance(content, Mapping) or not any(isinstance(value, TorchTensor) for value in content.values()):
        raise InputError(f"{path}: holds no tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, TorchTensor)}


def _indexed(path: Path) -> dict[str, Tensor]:
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{path}: an index has a weight_map from tensors to files")
    if beyond := sorted({str(name) for name in places.values() if Path(str(name)).name != name}):
        raise InputError(f"{path}: names files outside its folder: {', '.join(beyond)}")
    files = {name: path.parent / name for name in sorted(set(places.values()))}
    if others := [name for name in files if Path(name).suffix not in (".safetensors", ".bin")]:
        raise InputError(f"{path}: names files that hold no tensors: {', '.join(others)}")
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise InputError(f"{path}: {len(missing)} of {len(files)} files are missing: {', '.join(missing)}")
    read = {name: read_tensors(file) for name, file in files.items()}
    if lost := [name for name, file in places.items() if name not in read[file]]:
        raise InputError(f"{path}: {len(lost)} tensors are not in the files it names: {', '.join(lost)}")
    return {name: read[file][name] for name, file in places.items()}


def _safe(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _Stored(path, name, tuple(part.get_shape()), _dtype(path, name, part.get_dtype()))
                for name, part in slices.items()
            }
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}){_pointer(path)}") from None


def _dtype(path: Path, name: str, written: str) -> np.dtype:
    import ml_dtypes

    known: dict[str, Any] = {
        **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
        **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
        "BF16": ml_dtypes.bfloat16,
        "BOOL": "bool",
    }
    if written not in known:
        raise InputError(f"{path}: {name} is of type {written}, which is not read")
    return np.dtype(known[written])


def _pointer(path: Path) -> str:
    """What to say where a file was never fetched from git's large file storage."""
    with path.open("rb") as file:
        is_pointer = file.read(40).startswith(b"version https://git-lfs")
    return ": this is a git-lfs pointer; fetch the file it stands for (`git lfs pull`)" if is_pointer else ""


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    most_bytes: int = MOST_BYTES,
    *,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write `model.safetensors`, or several files and their index where they are larger than `most_bytes`.

    `beside` are texts by their file names. Everything is written before anything that stood there is replaced; what is
    in one file is in memory at once.
    """
    groups = _groups(tensors, most_bytes)
    files = [SAFE] if len(groups) == 1 else _new_names(folder, len(groups))
    texts = dict(beside or {})
    if len(groups) > 1:
        texts[INDEX.format(SAFE)] = json.dumps(_index(tensors, dict(zip(files, groups, strict=True))), indent=2) + "\n"
    partials = {name: folder / f"{name}.partial" for name in [*files, *texts]}
    try:
        for name, group in zip(files, groups, strict=True):
            # Anything but contiguous arrays is written wrongly, without a word.
            arrays = {tensor: np.ascontiguousarray(tensors[tensor].read()) for tensor in group}
            arrays = {tensor: array.reshape(tensors[tensor].shape) for tensor, array in arrays.items()}
            safetensors.numpy.save_file(arrays, partials[name], metadata={"format": "pt"})
            # The library lets no one else read it.
            partials[name].chmod(0o666 & ~_umask())
        for name, text in texts.items():
            partials[name].write_text(text, encoding="utf-8")
        # The index last: until then it names the former files.
        for name, partial in partials.items():
            os.replace(partial, folder / name)
    except (OSError, safetensors.SafetensorError) as error:
        where = folder / files[0]
        raise InputError(f"{where}: could not be written ({error}); what stood there is unchanged") from None
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    _drop_others(folder, keep=[*files, *texts])


def _groups(tensors: Mapping[str, Tensor], most_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + _bytes(tensor) > most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += _bytes(tensor)
    return groups


def _new_names(folder: Path, number: int) -> list[str]:
    """Names of several files, none of which is there: an interruption leaves the former ones whole."""
    for attempt in itertools.count():
        mark = f"-{attempt}" if attempt else ""
        names = [f"model{mark}-{part + 1:05}-of-{number:05}.safetensors" for part in range(number)]
        if not any((folder / name).exists() for name in names):
            break
    return names


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _index(tensors: Mapping[str, Tensor], groups: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    places = {name: file for file, names in groups.items() for name in names}
    return {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": places}


def _drop_others(folder: Path, keep: list[str]) -> None:
    """Take away the safetensors files of a model that stood here before: beside the new ones they would be read."""
    former = [*folder.glob("model-*of-*.safetensors"), folder / SAFE, folder / INDEX.format(SAFE)]
    for path in former:
        if path.name not in keep:
            path.unlink(missing_ok=True)
