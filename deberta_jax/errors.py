"""Errors that the user can fix, and the checks of options that raise them."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Commands print it and exit with 2."""


class StopRequested(Exception):
    """The run was asked to stop by `signal` (SIGTERM or SIGINT); its state after `step` is saved."""

    def __init__(self, signal: int, step: int):
        self.signal, self.step = signal, step
        super().__init__(f"stopped after step {step}; to resume, run the same command again")


def listed(names: Iterable[object], limit: int = 20) -> str:
    """Names for a message, separated by commas; after `limit` of them only their number is given."""
    texts = [str(name) for name in names]
    rest = f", … ({len(texts):,} in total)" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest


def check_at_least(name: str, value: int | float | None, minimum: int | float) -> None:
    """Raise InputError if the option `name` is set and below `minimum`."""
    if value is not None and value < minimum:
        raise InputError(f"{name} is {value}; it must be at least {minimum}")


def check_fraction(name: str, value: int | float) -> None:
    """Raise InputError if the option `name` is not in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value}; it must be in [0, 1)")
