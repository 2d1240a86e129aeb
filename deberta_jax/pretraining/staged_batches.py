"""The batches of a run whose sequences change their length."""

from collections.abc import Callable, Sequence

from deberta_jax.data.batches import ArrayBatch, TrainingBatches
from deberta_jax.pretraining.curriculum import Stage, stage_at


class StagedBatches:
    """The batches `start`, `start` + 1, ... of a run; `open_stage(i, k)` yields batches k, k + 1, ... of stage i."""

    def __init__(self, stages: Sequence[Stage], open_stage: Callable[[int, int], TrainingBatches], start: int):
        self._stages, self._open_stage = stages, open_stage
        self._next = start
        self._current: int | None = None
        self._batches: TrainingBatches | None = None

    def __next__(self) -> ArrayBatch:
        number = stage_at(self._stages, self._next)
        if self._batches is None or number != self._current:
            self.close()
            self._batches = self._open_stage(number, self._next - self._stages[number].start)
            self._current = number
        self._next += 1
        return next(self._batches)

    def close(self) -> None:
        """Stop the threads and processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
