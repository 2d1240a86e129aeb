"""A tensor of a PyTorch file, described by its position; its values are read on request."""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.torch_format.storage import Storage
from deberta_jax.torch_format.unpickler import printable

_MAX_AXES = 32


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file: `shape` and `dtype` are known, the values are read by `read`.

    Tensors that are tied in the file share the same `storage`. `strides` and `offset` are in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    offset: int
    storage: Storage

    def read(self) -> np.ndarray:
        """Read the values as a contiguous array; raises `InputError` if the file has changed.

        The checksum, which only the zip format has, is verified if the tensor fills its storage, as most tensors do.
        """
        path = self.storage.path
        data = np.empty(self._extent, np.uint8)
        try:
            with open(path, "rb") as file:
                file.seek(self.storage.start + self.offset)
                count = file.readinto(data.data)
        except OSError as error:
            raise InputError(f"{path}: {self.name} cannot be read ({error.strerror})") from None
        if count != len(data):
            raise InputError(f"{path}: {self.name} is cut short; the file has changed since it was opened")
        if self.storage.checksum and len(data) == self.storage.size and zlib.crc32(data.data) != self.storage.checksum:
            raise InputError(f"{path}: {self.name} does not match its checksum: damaged; download the file again")
        return np.asarray(np.ndarray(self.shape, self.dtype, data, strides=self.strides), order="C")

    def check(self, file_size: int) -> None:
        """Raise `InputError` (without the path) unless the storage contains the tensor and the file the storage."""
        size = self.storage.size
        if len(self.shape) > _MAX_AXES or min([*self.shape, *self.strides, self.offset]) < 0:
            raise InputError(f"{self.name} has a negative size, stride or offset, or too many axes: damaged")
        if self.storage.start + size > file_size:
            raise InputError(
                f"{self.name} ends after byte {file_size}, the end of the file: cut short; download the file again"
            )
        values = math.prod(length or 1 for length in self.shape)
        # A stride of 0 could repeat a few values any number of times; numpy limits the axes of an empty tensor too.
        limit = 2**48 if 0 in self.shape else size
        if values * self.dtype.itemsize > limit or (self._extent and self.offset + self._extent > size):
            tensor = f"{self.name}, {self.dtype} of shape {printable(str(self.shape))}"
            raise InputError(f"{tensor}, exceeds its storage of {size} bytes: damaged")

    @property
    def _extent(self) -> int:
        """The number of bytes from the start of the first value to the end of the last."""
        if 0 in self.shape:
            return 0
        steps = (stride * (length - 1) for stride, length in zip(self.strides, self.shape, strict=True))
        return sum(steps) + self.dtype.itemsize
