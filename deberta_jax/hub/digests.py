"""Digests of weights, which tell whether two folders contain the same model."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from deberta_jax.hub.tensors import Tensor


def tensors_sha256(files: Iterable[Mapping[str, Tensor] | None]) -> str:
    """A digest of names, shapes, dtypes and values of the tensors of some files, None where there is no file.

    Empty if there is none at all.
    """
    sha256, any_file = hashlib.sha256(), False
    for number, tensors in enumerate(files):
        any_file |= tensors is not None
        for name, tensor in sorted((tensors or {}).items()):
            sha256.update(f"{number} {name} {tensor.shape} {tensor.dtype}".encode())
            sha256.update(np.ascontiguousarray(tensor.read()).tobytes())
    return sha256.hexdigest() if any_file else ""
