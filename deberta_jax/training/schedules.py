"""Learning-rate schedules: the factor on the peak learning rate after a number of updates.

The schedules whose names begin with `warmup_` follow the original implementation (docs/numerics.md, "Optimizers and
schedules"). They exist to reproduce its runs.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.training.config import ScheduleName

Scalar = Float[Array, ""]


def number_of_steps(length: float, total: int) -> float:
    """Steps of a warm-up or a decay: `length` itself from 1 on, below 1 that fraction of `total`."""
    return length if length >= 1 else length * total


def linear(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """Linear warm-up to 1, then linear decay to `final` at step `total`; constant after that."""
    return _warmup_factor(step, warmup) * (final + (1 - final) * (1 - _decay_progress(step, total, warmup)))


def cosine(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """Linear warm-up to 1, then cosine decay to `final` at step `total`; constant after that."""
    decay = 0.5 * (1 + jnp.cos(math.pi * _decay_progress(step, total, warmup)))
    return _warmup_factor(step, warmup) * (final + (1 - final) * decay)


def constant(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """Linear warm-up to 1; constant after that."""
    return _warmup_factor(step, warmup)


def wsd(step: Scalar, total: int, warmup: float, final: float, decay: float) -> Scalar:
    """Warm-up, a stable rate of 1, and a decay to `final` in the last `decay` steps (Hu et al. 2024, section 4).

    The decay is 1 - sqrt of its progress (Hägele et al. 2024, section 3). Until it starts, the rate does not depend on
    `total`: a run can be extended, and its decay can start from any checkpoint of the stable phase.
    """
    progress = jnp.clip((step - (total - decay)) / decay, 0, 1) if decay else jnp.zeros_like(step)
    return _warmup_factor(step, warmup) * (1 - (1 - final) * jnp.sqrt(progress))


def warmup_linear(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's default. The decay starts at step 0, so the rate jumps down at the end of the warm-up."""
    x = _cycle_progress(step, total)
    return _original_warmup(x, total, warmup, (1 - final) * (1 - x) + final)


def warmup_linear_shift(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's linear schedule whose decay starts at the end of the warm-up, without a jump."""
    x = _cycle_progress(step, total)
    return _original_warmup(x, total, warmup, (1 - final) * (1 - _progress_after_warmup(x, total, warmup)) + final)


def warmup_cosine(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's cosine over the whole run. It ignores `final` and jumps like `warmup_linear`."""
    x = _cycle_progress(step, total)
    return _original_warmup(x, total, warmup, 0.5 * (1 + jnp.cos(math.pi * x)))


def warmup_linear_cosine(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's cosine whose decay starts at the end of the warm-up, without a jump."""
    x = _cycle_progress(step, total)
    decay = 0.5 * (1 + jnp.cos(math.pi * _progress_after_warmup(x, total, warmup)))
    return _original_warmup(x, total, warmup, (1 - final) * jnp.maximum(decay, 0) + final)


def warmup_cyclic_linear_cosine(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's four cosine stairs. It does not restart after `total` steps."""
    stairs = 4
    fraction = warmup / total
    rest = total - int(total * fraction)
    elapsed = step - int(rest * fraction)
    period = rest // stairs
    stair = jnp.floor(elapsed / period)
    drop = jnp.where(stair % 2 == 0, 1.0, -1.0) * jnp.cos(math.pi * elapsed / period) - 1
    scale = 1 - stair / stairs + drop / (2 * stairs)
    return _original_warmup(step / total, total, warmup, (1 - final) * jnp.maximum(scale, 0) + final)


def warmup_constant(step: Scalar, total: int, warmup: float, final: float) -> Scalar:
    """The original's constant schedule. It warms up again after `total` steps."""
    return _original_warmup(_cycle_progress(step, total), total, warmup, jnp.ones_like(step))


# A function of the step, the number of steps, the steps of the warm-up, and the final factor.
Schedule = Callable[[Scalar, int, float, float], Scalar]
# All but `wsd`, which has one more argument.
SCHEDULES: dict[ScheduleName, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "warmup_linear": warmup_linear,
    "warmup_linear_shift": warmup_linear_shift,
    "warmup_cosine": warmup_cosine,
    "warmup_linear_cosine": warmup_linear_cosine,
    "warmup_cyclic_linear_cosine": warmup_cyclic_linear_cosine,
    "warmup_constant": warmup_constant,
}


def _warmup_factor(step: Scalar, warmup: float) -> Scalar:
    # step + 1, so that the first update does not have a learning rate of 0.
    return jnp.minimum(1.0, (step + 1) / warmup) if warmup else jnp.ones_like(step)


def _decay_progress(step: Scalar, total: int, warmup: float) -> Scalar:
    return jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)


def _cycle_progress(step: Scalar, total: int) -> Scalar:
    return (step % total) / total


def _progress_after_warmup(x: Scalar, total: int, warmup: float) -> Scalar:
    return (x - warmup / total) / (1 - warmup / total)


def _original_warmup(x: Scalar, total: int, warmup: float, after_warmup: Scalar) -> Scalar:
    # Compare in steps: x * total is an integer up to rounding error.
    return jnp.where(jnp.round(x * total) < warmup, x * total / max(warmup, 1e-30), after_warmup)
