"""Several processes as one run: one for each host of a TPU slice or a cluster, on JAX's distributed runtime."""

import jax

from deberta_jax.errors import InputError
from deberta_jax.training.config import ProcessesConfig


def join(config: ProcessesConfig) -> None:
    """Wait for the other processes. Call this before any other function of JAX."""
    if not config.join:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.count, config.index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"processes: cannot join the other processes: {reason}") from error
