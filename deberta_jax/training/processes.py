"""Several processes as one run: one for each host of a TPU slice or a cluster, on JAX's distributed runtime."""

import dataclasses

import jax

from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """Options of a run with several processes, all of which run the same command on the same files."""

    join: bool = False
    """Join other processes; JAX finds them on Cloud TPU, Slurm, Open MPI and Kubernetes."""
    coordinator: str | None = None
    """HOST:PORT of the first process, where JAX cannot find it."""
    count: int | None = None
    """Number of processes; required with coordinator."""
    index: int | None = None
    """Index of this process, from 0; required with coordinator."""

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not (self.join and all(given)):
            raise InputError(
                "processes: coordinator, count and index require each other and join; give all four, or join alone"
            )


def join(config: ProcessesConfig) -> None:
    """Wait for the other processes. Call this before any other function of JAX."""
    if not config.join:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.count, config.index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"processes: cannot join the other processes: {reason}") from error
