"""The smallest number of micro-batches whose step fits in memory, by compiling."""

from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from deberta_jax.errors import InputError
from deberta_jax.planning.compiled_step import CompiledStep
from deberta_jax.planning.configuration import with_accumulation
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.pretraining.program import ANY_VOCABULARY, batch_rows
from deberta_jax.sharding import batch_parts

Compile = Callable[[int], CompiledStep]


def accumulations(config: PretrainConfig, mesh: Mesh) -> list[int]:
    """All numbers of micro-batches that divide the batch of a run, from the smallest."""
    rows = config.training.batch_size // batch_parts(mesh)
    return [
        number
        for number in range(1, rows + 1)
        if rows % number == 0 and _has_rows(with_accumulation(config, number), mesh)
    ]


def smallest_accumulation(candidates: Sequence[int], compile_with: Compile, capacity: int) -> dict[int, CompiledStep]:
    """Compile steps with different numbers of micro-batches until the smallest number that fits is known.

    More micro-batches never need more memory than fewer, except for the gradients that two or more add up. Returns the
    compiled steps; the smallest number that fits is the smallest with `fits`, and if none fits the largest was tried.
    """
    steps: dict[int, CompiledStep] = {}
    # Candidate `low` does not fit, candidate `high` does.
    low, high, index = -1, len(candidates), 0
    while high - low > 1:
        number = candidates[index]
        steps[number] = compile_with(number)
        if steps[number].fits:
            high = index
        else:
            low = index
        expected = _expected(candidates, steps, capacity)
        index = min(max(expected, low + 1), high - 1)
    return steps


def first_fit(steps: dict[int, CompiledStep]) -> int | None:
    """The smallest number of micro-batches that fits."""
    return min((number for number, step in steps.items() if step.fits), default=None)


def _expected(candidates: Sequence[int], steps: dict[int, CompiledStep], capacity: int) -> int:
    """The position of the first candidate that should fit: temporary memory is a constant and a part per sequence."""
    numbers = sorted(steps)[-2:]
    peaks = [steps[number].memory.peak for number in numbers]
    if len(numbers) == 1:
        memory = steps[numbers[0]].memory
        constant, part = float(memory.state), float(memory.temporary * numbers[0])
    else:
        part = (peaks[0] - peaks[1]) / (1 / numbers[0] - 1 / numbers[1])
        constant = peaks[0] - part / numbers[0]
    fitting = (index for index, number in enumerate(candidates) if constant + part / number <= capacity)
    return next(fitting, len(candidates) - 1)


def _has_rows(config: PretrainConfig, mesh: Mesh) -> bool:
    """Whether each micro-batch has sequences of all kinds of the objective."""
    try:
        batch_rows(config, ANY_VOCABULARY, mesh)
    except InputError:
        return False
    return True
