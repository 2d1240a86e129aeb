"""`pytorch_model.bin` and `bpe_encoder.bin`, read and written without PyTorch; no code of a file is executed."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.files import replace_file
from deberta_jax.torch_format.archive import ZIP_MAGIC, read_archive, write_archive
from deberta_jax.torch_format.legacy import read_legacy
from deberta_jax.torch_format.tensor import Tensor
from deberta_jax.torch_format.unpickler import printable


def read_torch_file(path: str | Path) -> Any:
    """The object of a `torch.save` or `pickle.dump` file: plain values and containers, each tensor as a `Tensor`.

    Both formats of `torch.save` are read: zip (PyTorch 1.6 and later) and legacy. No code of the file is executed: the
    reader knows how to rebuild tensors, containers and numbers, and nothing else. DeBERTa's configs and
    `argparse.Namespace` become a `SimpleNamespace`. Raises `InputError` for any other name, and for a damaged file:
    before anything is returned, every tensor is checked to lie within the file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            _refuse_other_files(head)
            value = read_archive(path, file) if head.startswith(ZIP_MAGIC) else read_legacy(path, file)
            _name_and_check(value, file.seek(0, os.SEEK_END))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__
    except (OSError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return value


def write_torch_file(path: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a state dict that `torch.load` reads; on an error the previous file, if any, is unchanged.

    The arrays are taken one at a time, so that a generator needs memory for one only. Raises `InputError` for a dtype
    that PyTorch has no storage type for, and for repeated names.
    """
    path = Path(path)
    replace_file(path, lambda temporary: write_archive(temporary, tensors, target=path))


def _refuse_other_files(head: bytes) -> None:
    text = head.lstrip().lower()
    problem = ""
    if not head:
        problem = "the file is empty; download it again"
    elif head.startswith(b"version https://git-lfs"):
        problem = "a git-lfs pointer; download the real file (`git lfs pull`)"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        problem = "a web page, not a PyTorch file; download the real file"
    elif head[257:262] == b"ustar":
        problem = "the tar format of PyTorch 0.1; load and save it with a later PyTorch"
    elif not head.startswith((ZIP_MAGIC, b"\x80")):
        problem = f"not a PyTorch file: it begins with {head[:8]!r}"
    if problem:
        raise InputError(problem)


def _name_and_check(value: Any, file_size: int) -> None:
    """Name each tensor after its key and check its position, however deeply it is nested."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            item.check(file_size)
        item = vars(item) if isinstance(item, SimpleNamespace) else item
        if id(item) in seen or not isinstance(item, (dict, list, tuple)):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            item.update(
                {key: replace(entry, name=printable(str(key))) for key, entry in item.items() if type(entry) is Tensor}
            )
            item = list(item.values())
        pending.extend(reversed(item))
