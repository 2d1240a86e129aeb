"""Why the processes of a run cannot continue, as messages."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from deberta_jax.errors import list_names

RESTART = "to resume, run the same command again in all processes"


def absence(present: Collection[int], count: int, address: str, timeout: float) -> str:
    """Processes did not appear."""
    absent = [index for index in range(count) if index not in present]
    noun = "process" if len(absent) == 1 else "processes"
    return (
        f"{noun} {list_names(absent)} of {count} did not appear at {address} within {timeout:g} s; start all processes"
    )


def difference(everyone: Mapping[int, Mapping[str, Any]], name_of: Callable[[int], str]) -> str:
    """Names have other values in another process than in process 0, each with both values; empty if there is none."""
    lines = []
    for name in dict.fromkeys(name for values in everyone.values() for name in values):
        first = everyone[0].get(name, "absent")
        others = ((index, everyone[index].get(name, "absent")) for index in sorted(everyone))
        if other := next(((index, value) for index, value in others if value != first), None):
            lines.append(f"{name} is {first} in {name_of(0)} and {other[1]} in {name_of(other[0])}")
    return f"the processes differ: {list_names(lines, '; ')}; start the same command everywhere" if lines else ""
