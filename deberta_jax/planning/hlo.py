"""Compiled programs as XLA prints them: computations, instructions, and how often each one runs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](?:\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BITS = re.compile(r"(\d+)")
# The names under which a conditional calls its branches.
_BRANCHES = "branch_computations", "true_computation", "false_computation"


class ArrayShape(NamedTuple):
    """An array: its type, its sizes, and its memory space, 0 for the main memory of a device."""

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Its size without padding; tokens and opaque values have none."""
        if self.dtype == "pred":
            bits = 8
        elif self.dtype in ("token", "opaque"):
            bits = 0
        else:
            digits = _BITS.search(self.dtype)
            bits = int(digits[1]) if digits else 0
        return math.prod(self.sizes) * bits // 8


class Instruction(NamedTuple):
    """An instruction: the arrays of its result, the names of its operands, and its attributes as text."""

    name: str
    opcode: str
    arrays: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False

    def called(self, kind: str) -> list[str]:
        """The names of the computations that it calls as `kind`, such as "body" or "calls"."""
        match = re.search(rf"\b{kind}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return [] if match is None else [name.strip(" %") for name in match[1].strip("{}").split(",")]


class Computation(NamedTuple):
    """Instructions by name, in the order of the text."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction that gives the result."""
        return next(x for x in self.instructions.values() if x.is_root)


class Program(NamedTuple):
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: str

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Each instruction outside fusions, its computation, and how often one run of the program executes it.

        The body of a loop runs once per trip, and its condition is left out. Of a conditional, the branch with the most
        instructions runs.
        """
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                yield from self._executed(instruction.called("body")[0], times * self.trips(instruction))
            elif instruction.opcode == "conditional":
                branches = [branch for kind in _BRANCHES for branch in instruction.called(kind)]
                longest = max(branches, key=lambda branch: len(self.computations[branch].instructions))
                yield from self._executed(longest, times)
            elif instruction.opcode in ("call", "async-start"):
                for called in instruction.called("to_apply") + instruction.called("calls"):
                    yield from self._executed(called, times)
            else:
                yield computation, instruction, times

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs: as XLA states it, or the bound of its counter; 1 if unknown."""
        if match := _TRIPS.search(loop.attributes):
            return int(match[1])
        condition = self.computations[loop.called("condition")[0]]
        constants = [
            int(match[1])
            for instruction in condition.instructions.values()
            if instruction.opcode == "constant" and (match := re.match(r"\((\d+)\)", instruction.attributes))
        ]
        return constants[0] if len(constants) == 1 else 1


def parse_program(text: str) -> Program:
    """Read the text of a compiled program (`compiled.as_text()`)."""
    computations: dict[str, Computation] = {}
    entry, name = "", ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, instructions = header[2], {}
            computations[name] = Computation(name, instructions)
            entry = name if header[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(match[2], match[3], bool(match[1]))
            if instruction is not None:
                instructions[instruction.name] = instruction
        elif line == "}":
            name = ""
    return Program(computations, entry)


def parse_arrays(text: str) -> tuple[ArrayShape, ...]:
    """The arrays of a shape: one, or those of a tuple."""
    arrays = []
    for match in _ARRAY.finditer(text):
        space = _SPACE.search(match[0])
        sizes = tuple(int(size) for size in match[2].split(",") if size)
        arrays.append(ArrayShape(match[1], sizes, int(space[1]) if space else 0))
    return tuple(arrays)


def _parse_instruction(name: str, text: str, is_root: bool) -> Instruction | None:
    """`text` is what follows the equals sign: a shape, an opcode, operands in parentheses, and attributes."""
    shape_end = _tuple_end(text) if text.startswith("(") else 0
    match = _OPCODE.search(text, shape_end)
    if match is None:
        return None
    start = match.end() - 1
    end = _tuple_end(text, start)
    operands = tuple(_NAME.findall(text[start:end]))
    # The value of a constant is between the parentheses.
    rest = text[start:] if match[1] in ("constant", "parameter") else text[end:]
    return Instruction(name, match[1], parse_arrays(text[: match.start()]), operands, rest, is_root)


def _tuple_end(text: str, start: int = 0) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "(":
            depth += 1
        elif text[position] == ")":
            depth -= 1
            if depth == 0:
                return position + 1
    return len(text)


def users(computation: Computation, name: str) -> Sequence[Instruction]:
    """The instructions of a computation that read a value."""
    return [x for x in computation.instructions.values() if name in x.operands]
