"""The rows of every batch that one host reads."""

import dataclasses

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class BatchShare:
    """Some of `count` equal parts of every batch, by index; several hosts may read the same part."""

    parts: tuple[int, ...]
    count: int

    def rows(self, batch_size: int) -> Int[np.ndarray, "rows"]:
        """Indices of rows of the batch, ascending; raises InputError if the parts of the batch would not be equal."""
        if batch_size < 1 or batch_size % self.count:
            raise InputError(
                f"a batch of {batch_size} sequences cannot be split into {self.count} equal parts for devices or "
                f"hosts; use a multiple of {self.count}"
            )
        if not self.parts or not all(0 <= part < self.count for part in self.parts):
            raise InputError(
                f"parts {list(self.parts)} of a batch were requested; they must be from 0 to {self.count - 1}"
            )
        return np.arange(batch_size).reshape(self.count, -1)[sorted(self.parts)].ravel()


WHOLE_BATCH = BatchShare((0,), 1)
