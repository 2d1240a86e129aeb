"""Values that all processes of a run must share."""

from collections.abc import Callable, Mapping
from typing import Any


def differing(everyone: Mapping[int, Mapping[str, Any]], name_of: Callable[[int], str]) -> list[str]:
    """The names whose values differ between process 0 and another one, each with both values."""
    lines = []
    for name in dict.fromkeys(name for values in everyone.values() for name in values):
        first = everyone[0].get(name, "absent")
        others = ((index, everyone[index].get(name, "absent")) for index in sorted(everyone))
        for index, value in others:
            if value != first:
                lines.append(f"{name} is {first} in {name_of(0)} and {value} in {name_of(index)}")
                break
    return lines
