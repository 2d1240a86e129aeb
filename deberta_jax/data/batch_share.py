"""The part of every batch that one host reads."""

import dataclasses

from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class BatchShare:
    """One of `count` equal parts of every batch; hosts with the same `index` read the same rows."""

    index: int
    count: int

    def size(self, batch_size: int) -> int:
        """The number of rows in the part; raises InputError if the parts of the batch would not be equal."""
        if batch_size < 1 or batch_size % self.count:
            raise InputError(
                f"a batch of {batch_size} sequences cannot be split evenly over {self.count} hosts; use a multiple of "
                f"{self.count}"
            )
        if not 0 <= self.index < self.count:
            raise InputError(f"the index of a host is {self.index}; it must be from 0 to {self.count - 1}")
        return batch_size // self.count

    def rows(self, batch_size: int) -> slice:
        """The rows of the part, as indices of the batch."""
        size = self.size(batch_size)
        return slice(self.index * size, (self.index + 1) * size)


WHOLE_BATCH = BatchShare(0, 1)
