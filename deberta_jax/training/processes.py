"""Several processes as one run: one for each host of a pod slice or a cluster, on JAX's own runtime."""

import jax

from deberta_jax.errors import InputError
from deberta_jax.training.config import ProcessesConfig as ProcessesConfig


def join(config: ProcessesConfig) -> None:
    """Wait for the other processes; to be called before anything else of JAX."""
    if not config.join:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.count, config.index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"processes: cannot join the others: {reason}") from error
