"""Bytes that a compiled program reads from and writes to the main memory of a device."""

import re
from collections.abc import Iterable

from deberta_jax.planning.hlo import ArrayShape, Computation, Instruction, Program, users

# Instructions that move nothing. What "-done" ends was counted at "-start".
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "optimization-barrier", "domain", "add-dependency", "iota", "get-dimension-size"),
}
_FREE_CALLS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound)"')
# Instructions that read only part of their first operand, as much as they return.
_SLICES = {"dynamic-slice", "slice", "gather"}


def memory_bytes(program: Program) -> int:
    """Operands read and results written by one run of a program; the body of a loop counts once per trip.

    Slices count as the part that is read, updates in place as the part that is written, and arrays in the fast memory
    of a TPU core not at all. A kernel counts each operand and result once, even if it reads some several times.
    """
    return sum(times * _instruction_bytes(program, inside, x) for inside, x, times in program.executed())


def _instruction_bytes(program: Program, computation: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or _FREE_CALLS.search(instruction.attributes):
        return 0
    operands = [_arrays(computation, name) for name in instruction.operands]
    result = _total(instruction.arrays)
    if opcode in ("copy-start", "slice-start"):
        # The result holds the source, the target and a counter.
        return _total(instruction.arrays[:2])
    if opcode.endswith("-start"):
        return result
    if opcode in _SLICES:
        return 2 * result
    if opcode == "dynamic-update-slice":
        return 2 * _total(operands[1])
    if opcode == "scatter":
        return 3 * _total(operands[-1])
    if opcode == "fusion":
        return _fusion_bytes(program, instruction, operands)
    return result + sum(map(_total, operands))


def _fusion_bytes(program: Program, fusion: Instruction, operands: list[tuple[ArrayShape, ...]]) -> int:
    body = program.computations[fusion.called("calls")[0]]
    parameters = {
        int(x.attributes[1 : x.attributes.index(")")]): x for x in body.instructions.values() if x.opcode == "parameter"
    }
    read = sum(_read_bytes(body, parameters[number], operand) for number, operand in enumerate(operands))
    results = fusion.arrays
    roots = [body.root]
    if body.root.opcode == "tuple":
        roots = [body.instructions[name] for name in body.root.operands if name in body.instructions]
    written = 0
    for array, root in zip(results, roots, strict=False):
        root = _source(body, root)
        in_place = root.opcode == "dynamic-update-slice" and array.space == 0
        written += _update_bytes(body, root) if in_place else _total([array] if root.opcode != "parameter" else [])
    return read + written


def _read_bytes(body: Computation, parameter: Instruction, operand: Iterable[ArrayShape]) -> int:
    """The bytes that a fusion reads of an operand: all, or the slices that it takes."""
    whole, read = _total(operand), 0
    if not whole:
        return 0
    for user, is_first in _readers(body, parameter.name):
        if user.opcode in _SLICES and is_first:
            read += sum(array.bytes for array in user.arrays)
        elif user.opcode != "tuple" and not (user.opcode == "dynamic-update-slice" and is_first):
            return whole
    return min(read, whole)


def _readers(body: Computation, name: str) -> Iterable[tuple[Instruction, bool]]:
    """The instructions that read a value, through bitcasts, and whether it is their first operand."""
    for user in users(body, name):
        if user.opcode == "bitcast":
            yield from _readers(body, user.name)
        else:
            yield user, user.operands[0] == name and user.operands.count(name) == 1


def _source(body: Computation, instruction: Instruction) -> Instruction:
    """The instruction that a bitcast renames."""
    while instruction.opcode == "bitcast" and instruction.operands[0] in body.instructions:
        instruction = body.instructions[instruction.operands[0]]
    return instruction


def _update_bytes(body: Computation, update: Instruction) -> int:
    return sum(array.bytes for array in _arrays(body, update.operands[1]))


def _arrays(computation: Computation, name: str) -> tuple[ArrayShape, ...]:
    instruction = computation.instructions.get(name)
    return () if instruction is None else instruction.arrays


def _total(arrays: Iterable[ArrayShape]) -> int:
    """The bytes in the main memory."""
    return sum(array.bytes for array in arrays if array.space == 0)
