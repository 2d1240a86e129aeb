"""The options of a run with several processes."""

import dataclasses

from deberta_jax.errors import InputError, check_at_least


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """Options of a run with several processes, which all run the same command on the same files."""

    join: bool = False
    """Join other processes; on Cloud TPU, Slurm, Open MPI and Kubernetes their addresses are detected."""
    coordinator: str | None = None
    """HOST:PORT at which the first process listens, where it is not detected."""
    count: int | None = None
    """Number of processes; required with coordinator."""
    index: int | None = None
    """Index of this process, from 0; required with coordinator."""
    timeout: float = 60.0
    """Seconds after which a process that does not appear or respond ends the run."""

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not (self.join and all(given)):
            raise InputError(
                "processes: coordinator, count and index require each other and join; give all four, or join alone"
            )
        check_at_least("processes.count", self.count, 1)
        check_at_least("processes.timeout", self.timeout, 3)
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise InputError(
                f"processes.index is {self.index}; it must be from 0 to {self.count - 1} (processes.count - 1)"
            )
