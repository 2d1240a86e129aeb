"""Floating-point operations of a program, counted in its jaxpr."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of all matrix products and convolutions, over all devices; a scan counts its body once per iteration.

    XLA's own count includes a scanned body only once (jax issue 18672). `arguments` may be `ShapeDtypeStruct`s. A
    `while` of unknown length counts as one iteration and a `cond` as its largest branch. Where a program has a branch
    per platform, the first counts, because the model's work is the same on all.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond":
        return inner[0] if parameters.get("branches_platforms") else max(inner)
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid) * sum(inner)
    if name == "shard_map":
        return parameters["mesh"].size * sum(inner)
    return sum(inner)


def _inner_jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr
