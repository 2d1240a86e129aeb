"""The collectives of a compiled program: how many run in a step, and how much each device sends."""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from deberta_jax.planning.hlo import Instruction, Program

# Bytes that a device of a group of n sends, from the bytes of the operands x and of the results y, if no byte is sent
# over a link twice: each device passes on parts of 1/n along a ring.
_SENT: dict[str, Callable[[int, int, int], float]] = {
    "all-gather": lambda x, y, n: y * (n - 1) / n,
    "all-reduce": lambda x, y, n: 2 * x * (n - 1) / n,
    "reduce-scatter": lambda x, y, n: x * (n - 1) / n,
    "all-to-all": lambda x, y, n: x * (n - 1) / n,
    "ragged-all-to-all": lambda x, y, n: x * (n - 1) / n,
    "collective-permute": lambda x, y, n: x,
    "collective-broadcast": lambda x, y, n: x,
}
# XLA for TPU writes a reduce-scatter as a fusion with this name around an all-reduce and its slices.
_REDUCE_SCATTER = "all-reduce-scatter"
# Between slices, each host sends and receives over the network.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}')
_BETWEEN = " between slices"
_CHAIN = re.compile(r'chain_id="(\d+)"')


class Collective(NamedTuple):
    """All collectives of a kind: how many run in a step, and the bytes that each device sends in them."""

    kind: str
    number: int
    bytes: float


def is_between_slices(kind: str) -> bool:
    """Whether collectives of a kind cross the network between slices."""
    return kind.endswith(_BETWEEN)


def collectives(program: Program, num_devices: int) -> list[Collective]:
    """The collectives of a program on `num_devices` devices, by kind; the body of a loop counts once per trip."""
    counts: dict[str, int] = {}
    sent: dict[str, float] = {}

    def add(kind: str, times: int, volume: float) -> None:
        counts[kind] = counts.get(kind, 0) + times
        sent[kind] = sent.get(kind, 0.0) + times * volume

    # XLA for TPU spreads one collective over a chain of fusions.
    chains: set[tuple[str, str]] = set()
    for computation, instruction, times in program.executed():
        if transfer := _transfer(instruction):
            kind, slices = transfer
            whole = instruction.arrays[0].bytes
            add(kind + _BETWEEN, times, _SENT[kind](whole, whole * slices, slices))
        for kind, collective in _collectives_of(program, instruction):
            chain = _CHAIN.search(collective.attributes)
            name = (computation.name, chain[1] if chain else collective.name)
            size = group_size(collective, num_devices)
            if name in chains or size == 1:
                continue
            chains.add(name)
            add(kind, times, sent_bytes(kind, collective, size))
    return [Collective(kind, counts[kind], sent[kind]) for kind in sorted(counts)]


def _transfer(instruction: Instruction) -> tuple[str, int] | None:
    """The kind of a collective between slices and their number, for the instruction that sends; None for others."""
    match = _TRANSFER.search(instruction.attributes) if instruction.opcode == "send" else None
    kind = match[1].lower().replace("_", "-") if match else None
    if kind not in _SENT:
        return None
    slices = _SLICES.search(instruction.attributes)
    parts = [part.split(":") for part in slices[1].split(",")] if slices else []
    return kind, max(sum(int(part[-1]) - int(part[0]) + 1 for part in parts), 2)


def _collectives_of(program: Program, instruction: Instruction) -> Iterator[tuple[str, Instruction]]:
    """An instruction that is a collective, or those inside a fusion, with their kinds."""
    if kind := _kind(instruction.opcode):
        yield kind, instruction
    elif instruction.opcode == "fusion":
        for name in instruction.called("calls"):
            for inner in program.computations[name].instructions.values():
                kind = _kind(inner.opcode)
                if kind == "all-reduce" and name.startswith(_REDUCE_SCATTER):
                    kind = "reduce-scatter"
                if kind:
                    yield kind, inner


def _kind(opcode: str) -> str | None:
    """The kind of collective of an opcode; "-done" ends one that was counted at "-start"."""
    kind = opcode.removesuffix("-start")
    return kind if kind in _SENT else None


def sent_bytes(kind: str, collective: Instruction, group: int) -> float:
    """The bytes that each device of a group sends in one collective."""
    result = collective.arrays
    if collective.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        # The result holds the operands too; a permutation adds two counters.
        result = tuple(array for array in result if array.sizes)
        result = result[len(result) // 2 :]
    total = sum(array.bytes for array in result)
    if kind == "all-gather":
        return _SENT[kind](total // group, total, group)
    # An all-reduce that is sliced afterwards has results as large as its operands.
    is_scattered = kind == "reduce-scatter" and collective.opcode.startswith("reduce-scatter")
    return _SENT[kind](total * group if is_scattered else total, total, group)


def group_size(collective: Instruction, num_devices: int) -> int:
    """The number of devices in each group of a collective."""
    text = collective.attributes
    if "source_target_pairs=" in text:
        return num_devices
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        # A part of an axis is written 'axis':(1)2: two devices, in steps of one.
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return match[1].count(",") + 1
    return num_devices
