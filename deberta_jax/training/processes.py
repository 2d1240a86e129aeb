"""Several processes as one run: one for each host of a pod slice or a cluster, on JAX's own runtime."""

import dataclasses

import jax

from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """`join` makes this process one of several that run the same command on the same files.

    On Cloud TPU, Slurm, Open MPI and Kubernetes JAX finds the others by itself. Elsewhere `coordinator` is HOST:PORT of
    the first process, `count` how many there are and `index` which of them this is, from 0.
    """

    join: bool = False
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not (self.join and all(given)):
            raise InputError("processes: join, coordinator, count and index go together, or join alone")


def join(config: ProcessesConfig) -> None:
    """Wait for the other processes; to be called before anything else of JAX."""
    if not config.join:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.count, config.index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"processes: cannot join the others: {reason}") from error
