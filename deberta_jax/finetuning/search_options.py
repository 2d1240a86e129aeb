"""The names of the options that a search varies, and the values that the command line gives for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from deberta_jax.errors import InputError


class Searched(NamedTuple):
    """An option that a search varies: its label with the unit, and the values that are allowed."""

    label: str
    requirement: str
    is_valid: Callable[[float], bool]
    # Where the value is in the options of a run.
    field: tuple[str, ...]
    is_integer: bool = False


SEARCHED = {
    "rate": Searched("learning rate", "above 0", lambda value: value > 0, ("optimizer", "learning_rate")),
    "epochs": Searched(
        "epochs (passes over the data)", "above 0 and at most 10000", lambda value: 0 < value <= 1e4, ("epochs",)
    ),
    "layer-decay": Searched(
        "layer decay (factor per layer)", "above 0 and at most 1", lambda value: 0 < value <= 1,
        ("optimizer", "layer_decay"),
    ),
    "batch-size": Searched(
        "batch size (examples)", "a whole number from 1", lambda value: value >= 1 and value == int(value),
        ("batch_size",), True,
    ),
    "warmup": Searched(
        "warm-up (steps, or a share of the run below 1)", "at least 0", lambda value: value >= 0,
        ("optimizer", "warmup"),
    ),
    "dropout": Searched(
        "dropout before the classifier (probability)", "at least 0 and below 1", lambda value: 0 <= value < 1,
        ("head_dropout",),
    ),
}  # fmt: skip


def parse_search(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The values of each option to search; () for the published values.

    A word is a name, several names separated by commas, or NAME=VALUE,VALUE. Raises InputError for another name, a name
    given twice, and a value that the option does not allow.
    """
    searched: dict[str, tuple[float, ...]] = {}
    for word in words:
        name, is_valued, values = word.partition("=")
        for part in [name] if is_valued else name.split(","):
            if part not in SEARCHED:
                raise InputError(f"search: no option {part!r}; the options are {', '.join(SEARCHED)}")
            if part in searched:
                raise InputError(f"search: {part} is given twice; list each option once")
            searched[part] = _parse_values(part, values) if is_valued else ()
    return searched


def _parse_values(name: str, text: str) -> tuple[float, ...]:
    option = SEARCHED[name]
    values: list[float] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and option.is_valid(value)):
            raise InputError(f"search: {name} cannot be {part!r}; each value must be {option.requirement}")
        values.append(value)
    return tuple(dict.fromkeys(values))


def check_search(words: Sequence[str], trials: int, seeds: int) -> None:
    """Raise InputError for options of a search that do not fit each other."""
    if parse_search(words) and seeds > 1:
        raise InputError("search and seeds are both set; search first, then train the best options with --seeds")
    if trials < 1:
        raise InputError(f"trials is {trials}; it must be at least 1")


def describe_options(options: Mapping[str, float | None]) -> str:
    """The options of a trial in one line: "rate 2e-05, epochs 3"."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in options.items())


def format_value(value: float | None) -> str:
    """A value as text; an option that is not set has the value of the model."""
    return "model's" if value is None else f"{value:g}"


def option_word(name: str) -> str:
    """The option of the command line that a searched option sets."""
    return "--" + ".".join(SEARCHED[name].field).replace("_", "-")
