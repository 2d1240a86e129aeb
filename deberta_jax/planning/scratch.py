"""Memory that the CPU runtime allocates inside fusions, which XLA's own analysis leaves out."""

from deberta_jax.planning.hlo import Computation, Program

# YNN, XLA's library of CPU kernels, computes a fusion operation by operation, with an array for each result.
_KIND = '"kind":"__ynn_fusion"'
_WITHOUT_ARRAYS = {"parameter", "constant", "bitcast", "reshape", "broadcast", "tuple", "get-tuple-element"}


def scratch_bytes(program: Program) -> int:
    """The intermediate results of the largest fusion that the CPU runtime computes outside XLA's buffers."""
    fusions = {
        name
        for _, instruction, _ in program.executed()
        if instruction.opcode == "fusion" and _KIND in instruction.attributes
        for name in instruction.called("calls")
    }
    return max((_intermediate_bytes(program.computations[name]) for name in fusions), default=0)


def _intermediate_bytes(computation: Computation) -> int:
    """The bytes of all results but the last."""
    return sum(
        array.bytes
        for instruction in computation.instructions.values()
        if instruction.opcode not in _WITHOUT_ARRAYS and not instruction.is_root
        for array in instruction.arrays
    )
