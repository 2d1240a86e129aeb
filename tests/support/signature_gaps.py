"""The public signatures that contain Any, one per line."""

import collections.abc
import inspect
import sys
import typing
from collections.abc import Iterator

import jax
import optax

import deberta_jax

# Types of other packages, some of which contain Any.
FOREIGN = {*typing.get_args(jax.typing.DTypeLike), *typing.get_args(optax.OptState)}
PUBLIC = {name: getattr(deberta_jax, name) for name in deberta_jax.__all__}
BUILT_IN = {list, dict, tuple, set, frozenset, type}
GENERIC = BUILT_IN | {
    collections.abc.Callable,
    collections.abc.Collection,
    collections.abc.Iterable,
    collections.abc.Iterator,
}
GENERIC |= {collections.abc.Mapping, collections.abc.Sequence}
CALLED = ("__init__", "__call__", "__getitem__")


def gaps(hint: object, names: dict[str, object]) -> Iterator[str]:
    """Where a type says nothing: Any, no annotation, or a generic type without its parameters."""
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        hint = eval(hint, names)
    if isinstance(hint, list | tuple):
        for part in hint:
            yield from gaps(part, names)
    elif typing.get_origin(hint) is typing.Literal or hint in FOREIGN:
        return
    elif hint in (typing.Any, inspect.Parameter.empty):
        yield "Any"
    elif typing.is_typeddict(hint):
        yield from gaps(list(hint.__annotations__.values()), names)
    elif args := typing.get_args(hint):
        yield from gaps(args, names)
    elif hint in GENERIC or (isinstance(hint, type) and getattr(hint, "__parameters__", ())):
        yield f"{hint} without parameters"


def function_gaps(name: str, function: collections.abc.Callable[..., object]) -> Iterator[str]:
    """The gaps in the signature of a function, or in those of its overloads."""
    function = inspect.unwrap(function)
    names = PUBLIC | vars(sys.modules[function.__module__])
    for variant in map(inspect.unwrap, typing.get_overloads(function) or [function]):
        signature = inspect.signature(variant)
        hints = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        hints = {key: hint for key, hint in hints.items() if key not in ("self", "cls")}
        if function.__name__ != "__init__":
            hints["the result"] = signature.return_annotation
        yield from (f"{name}, {key}: {gap}" for key, hint in hints.items() for gap in gaps(hint, names))


def class_gaps(name: str, kind: type) -> Iterator[str]:
    """The gaps in the fields and methods of a class of the package, and of those it inherits from."""
    for owner in (owner for owner in kind.__mro__ if owner.__module__.startswith("deberta_jax")):
        names = PUBLIC | vars(sys.modules[owner.__module__])
        for field, hint in inspect.get_annotations(owner).items():
            yield from (f"{name}.{field}: {gap}" for gap in gaps(hint, names) if not field.startswith("_"))
        for method, value in vars(owner).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if inspect.isfunction(function) and (method in CALLED or not method.startswith("_")):
                yield from function_gaps(f"{name}.{method}", function)


if __name__ == "__main__":
    for name, value in PUBLIC.items():
        if inspect.isclass(value):
            lines = class_gaps(name, value)
        elif callable(value):
            lines = function_gaps(name, value)
        else:
            continue
        for line in lines:
            print(line)
