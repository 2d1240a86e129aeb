"""Storages: the byte ranges of a PyTorch file that tensors refer to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.unpickler import printable

STORAGE_DTYPES = {
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


@dataclass(eq=False)
class Storage:
    """The bytes of one or several tensors; `checksum` is 0 if the file contains none."""

    path: Path
    key: str
    dtype: np.dtype
    size: int
    # In the legacy format the position is known only after the pickle was read.
    start: int = 0
    checksum: int = 0

    def check_size(self, dtype: np.dtype, count: int) -> "Storage":
        """Return the storage; raises InputError unless it has exactly the bytes of `count` values."""
        if self.size != count * dtype.itemsize:
            mismatch = f"has {self.size} bytes, expected {count} values of type {dtype}"
            raise InputError(f"storage {self.key} {mismatch}: damaged; download the file again")
        return self


def parse_storage_id(identity: Any, length: int) -> tuple:
    """The dtype, key and number of values of a persistent id; in the legacy format also the view."""
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise InputError("contains something other than values and tensors, or is damaged; the file was not loaded")
    dtype, key, _, count, *view = identity[1:]
    if not isinstance(dtype, np.dtype) or type(key) not in (str, int) or type(count) is not int:
        raise TypeError("a storage without a type, key or size")
    if not 0 <= count < 2**48:
        raise InputError(f"storage {printable(str(key))} has an impossible size: damaged")
    return dtype, str(key), count, *view
