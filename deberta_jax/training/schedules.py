"""Learning-rate schedules: the scale of the peak learning rate after a number of updates."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.training.config import ScheduleName

Step = Float[Array, ""]
Scale = Float[Array, ""]


def warmup_steps(warmup: float, total: int) -> float:
    """A warm-up of one or more is a number of steps, below one a part of the run (spec 7.3)."""
    return warmup if warmup >= 1 else warmup * total


def linear(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """Up to 1 at the end of the warm-up, then straight down to `ends` at `total`, where it stays."""
    return _warmed(step, warmup) * (ends + (1 - ends) * (1 - _decayed(step, total, warmup)))


def cosine(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """Up to 1 at the end of the warm-up, then half a cosine down to `ends` at `total`, where it stays."""
    fall = 0.5 * (1 + jnp.cos(math.pi * _decayed(step, total, warmup)))
    return _warmed(step, warmup) * (ends + (1 - ends) * fall)


def constant(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """Up to 1 at the end of the warm-up, then 1."""
    return _warmed(step, warmup)


def warmup_linear(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's default: not re-based, so it jumps down at the end of the warm-up (spec 7.3)."""
    x = _wrapped(step, total)
    return _original_warmup(x, total, warmup, (1 - ends) * (1 - x) + ends)


def warmup_linear_shift(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's continuous linear schedule (spec 7.3)."""
    x = _wrapped(step, total)
    return _original_warmup(x, total, warmup, (1 - ends) * (1 - _rebased(x, total, warmup)) + ends)


def warmup_cosine(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's cosine over the whole run, without regard to `ends`; jumps like `warmup_linear` (spec 7.3)."""
    x = _wrapped(step, total)
    return _original_warmup(x, total, warmup, 0.5 * (1 + jnp.cos(math.pi * x)))


def warmup_linear_cosine(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's re-based cosine (spec 7.3)."""
    x = _wrapped(step, total)
    fall = 0.5 * (1 + jnp.cos(math.pi * _rebased(x, total, warmup)))
    return _original_warmup(x, total, warmup, (1 - ends) * jnp.maximum(fall, 0) + ends)


def warmup_cyclic_linear_cosine(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's four cosine stairs; does not wrap after `total` (spec 7.3)."""
    stairs = 4
    part = warmup / total
    rest = total - int(total * part)
    late = step - int(rest * part)
    period = rest // stairs
    stair = jnp.floor(late / period)
    fall = jnp.where(stair % 2 == 0, 1.0, -1.0) * jnp.cos(math.pi * late / period) - 1
    scale = 1 - stair / stairs + fall / (2 * stairs)
    return _original_warmup(step / total, total, warmup, (1 - ends) * jnp.maximum(scale, 0) + ends)


def warmup_constant(step: Step, total: int, warmup: float, ends: float) -> Scale:
    """The original's constant schedule: warms up anew after `total` steps (spec 7.3)."""
    return _original_warmup(_wrapped(step, total), total, warmup, jnp.ones_like(step))


SCHEDULES: dict[ScheduleName, Callable[[Step, int, float, float], Scale]] = {
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


def _warmed(step: Step, warmup: float) -> Scale:
    # The first update is not wasted on a learning rate of 0.
    return jnp.minimum(1.0, (step + 1) / warmup) if warmup else jnp.ones_like(step)


def _decayed(step: Step, total: int, warmup: float) -> Scale:
    return jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)


def _wrapped(step: Step, total: int) -> Scale:
    return (step % total) / total


def _rebased(x: Scale, total: int, warmup: float) -> Scale:
    return (x - warmup / total) / (1 - warmup / total)


def _original_warmup(x: Scale, total: int, warmup: float, after: Scale) -> Scale:
    # Compared in steps: x * total is a whole number up to rounding, and half a unit is far from it.
    return jnp.where(jnp.round(x * total) < warmup, x * total / max(warmup, 1e-30), after)
