"""Errors that the user can fix, the checks of options that raise them, and short forms of values in messages."""

import itertools
import math
from collections.abc import Iterable

# A message lists this many names at most, and shows this many characters of each.
MAX_LISTED, MAX_CHARACTERS = 20, 200


class InputError(ValueError):
    """Bad input: a `ValueError` whose message is one line that says what is wrong, where, and what to do.

    Commands print it and exit with 2.

    Example:
        >>> import deberta_jax as dj
        >>> dj.DebertaConfig(hidden_size=10, num_attention_heads=3)
        Traceback (most recent call last):
        ...
        deberta_jax.errors.InputError: config: ...
    """


class DivergenceError(InputError):
    """The loss or the gradient of a run was not finite for too many steps."""


class PeerError(Exception):
    """Another process of the run failed or is unreachable: one line. Commands print it and exit with 1."""


class CommandFailed(Exception):
    """A command that was started failed and has reported its error; `code` is its exit code."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"exit code {code}")


class StopRequested(Exception):
    """The run was asked to stop by `signal` (SIGTERM or SIGINT); its state after `step` is saved."""

    def __init__(self, signal: int, step: int):
        self.signal, self.step = signal, step
        super().__init__(f"stopped after step {step}; to resume, run the same command again")


def check_at_least(name: str, value: int | float | None, minimum: int | float) -> None:
    """Raise InputError if the option `name` is set and below `minimum`, or not finite."""
    if value is not None and not minimum <= value < math.inf:
        finite = "" if math.isfinite(value) else " and finite"
        raise InputError(f"{name} is {value}; it must be at least {minimum}{finite}")


def check_fraction(name: str, value: int | float) -> None:
    """Raise InputError if the option `name` is not in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value}; it must be in [0, 1)")


def list_names(names: Iterable[object], separator: str = ", ") -> str:
    """The first names for a message, each shortened, and the number of the others: "a, b, … and 980 more"."""
    names = iter(names)
    listed = [shorten(name) for name in itertools.islice(names, MAX_LISTED)]
    others = sum(1 for _ in names)
    return separator.join(listed) + (f"{separator}… and {others:,} more" if others else "")


def shorten(value: object) -> str:
    """A value as text for a message, at most `MAX_CHARACTERS` of it and in one line."""
    text = str(value)
    shown = text[:MAX_CHARACTERS]
    shown = shown if shown.isprintable() else repr(shown)[1:-1]
    return shown + (f"… ({len(text):,} characters)" if len(text) > MAX_CHARACTERS else "")
