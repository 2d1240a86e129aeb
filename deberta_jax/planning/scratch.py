"""Memory that the CPU runtime allocates inside fusions, which XLA's own analysis leaves out."""

import itertools

from deberta_jax.planning.hlo import Computation, Program

# YNN, XLA's library of CPU kernels, computes a fusion operation by operation, with an array for each result.
_KIND = '"kind":"__ynn_fusion"'
_WITHOUT_ARRAYS = {"parameter", "constant", "broadcast"}
# Their results are the arrays of their operands.
_VIEWS = {"bitcast", "reshape", "tuple", "get-tuple-element"}


def scratch_bytes(program: Program) -> int:
    """The largest memory of a fusion for intermediate results that the CPU runtime computes outside XLA's buffers."""
    fusions = {
        name
        for _, instruction, _ in program.executed()
        if instruction.opcode == "fusion" and _KIND in instruction.attributes
        for name in instruction.called("calls")
    }
    return max((_intermediate_bytes(program.computations[name]) for name in fusions), default=0)


def _intermediate_bytes(computation: Computation) -> int:
    """The largest sum of results in use at the same time, without the last result; each is freed after its last use."""
    instructions = list(computation.instructions.values())
    owners: dict[str, str] = {}
    last_use: dict[str, int] = {}
    for number, instruction in enumerate(instructions):
        view = instruction.opcode in _VIEWS and bool(instruction.operands)
        owners[instruction.name] = owners[instruction.operands[0]] if view else instruction.name
        last_use |= {owners[operand]: number for operand in instruction.operands}
    result = owners[computation.root.name]
    changes = [0] * (len(instructions) + 1)
    for number, instruction in enumerate(instructions):
        if instruction.opcode in _WITHOUT_ARRAYS | _VIEWS or instruction.name == result:
            continue
        size = sum(array.bytes for array in instruction.arrays)
        changes[number] += size
        changes[last_use.get(instruction.name, number) + 1] -= size
    return max(itertools.accumulate(changes))
