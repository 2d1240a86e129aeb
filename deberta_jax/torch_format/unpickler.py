"""The pickle language read as data: values are built, and nothing that a pickle names is ever imported or called."""

import io
import pickletools
from collections.abc import Callable, Sized
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from deberta_jax.errors import InputError

# A state dict of a thousand tensors takes 60,000 operations, v1's table of byte pairs a million.
MOST_WORK = 5_000_000
_LONGEST_KEY, _LARGEST_BITS = 8, 4096
_LITERALS = frozenset(
    ["BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"]
)
_TEXTS = frozenset(["BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"])
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_SCALARS = (str, int, float, bytes, type(None))
# What a damaged pickle does to its reader; a warning where warnings are errors.
_DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, Warning)


@dataclass(frozen=True)
class Function:
    """What stands in a pickle for a function or a class: `call` is ours, and takes what the pickle passes."""

    call: Callable[..., Any]


def read_pickle(file: io.BytesIO, *, find: Callable[[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """Read the next pickle of `file` (protocol 2 or later), and leave the file behind its end.

    `find` gives the value that stands for a module and a name, a `Function` where it can be called, and `persistent`
    the one for a persistent id; both raise `InputError` for what they do not know. Raises `InputError` for a
    damaged pickle, and for one that would take more than `MOST_WORK` operations and items copied.
    """
    try:
        return _read(file, find, persistent)
    except InputError:
        raise
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {shown(str(error))}"
        raise InputError(f"damaged, or not a PyTorch file ({what}); fetch it again") from error


def shown(text: str) -> str:
    """The beginning of a text out of a file, fit for one line of a message."""
    text = text[:120]
    return text if text.isprintable() else repr(text)


def hashable(key: Any) -> Any:
    """A key as it is; raises TypeError for other than plain values and short tuples: nested ones can hash for ever."""
    parts = key if type(key) is tuple and len(key) <= _LONGEST_KEY else (key,)
    if not all(isinstance(part, _SCALARS) for part in parts):
        raise TypeError(f"a {type(key).__name__} as a key")
    return key


def _read(file: io.BytesIO, find: Callable[[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    work = 0
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        work += 1
        if work > MOST_WORK:
            raise InputError(f"has a pickle of more than {MOST_WORK:,} operations, far more than a state dict takes")
        if name in _TEXTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _LITERALS:
            if type(argument) is int and argument.bit_length() > _LARGEST_BITS:
                raise InputError(f"has a number of {argument.bit_length()} bits")
            stack.append(argument)
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "TUPLE":
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name == "SETITEMS":
            items, stack = stack, below.pop()
            target = _last(stack, dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[hashable(key)] = value
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _last(stack, dict)[hashable(key)] = value
        elif name == "APPENDS":
            items, stack = stack, below.pop()
            _last(stack, list).extend(items)
        elif name == "APPEND":
            value = stack.pop()
            _last(stack, list).append(value)
        elif name == "ADDITEMS":
            items, stack = stack, below.pop()
            _last(stack, set).update(map(hashable, items))
        elif name == "FROZENSET":
            items, stack = stack, below.pop()
            stack.append(frozenset(map(hashable, items)))
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(find(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if type(module) is not str or type(attribute) is not str:
                raise InputError("refers to a name that is no text")
            stack.append(find(module, attribute))
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Function) or type(arguments) is not tuple:
                raise InputError(f"calls a {type(function).__name__}")
            # What is copied counts as work: a few operations could copy one large value again and again.
            work += sum(len(value) for value in arguments if isinstance(value, Sized))
            stack.append(function.call(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], np.dtype):
                if state[1] == ">":
                    raise InputError("holds numbers of a big-endian machine")
            elif type(stack[-1]) is SimpleNamespace:
                work += len(state)
                vars(stack[-1]).update(dict(**state))
            else:
                # Attributes of a dict are torch's `_metadata`, which is no part of the values.
                _last(stack, dict)
        elif name == "STOP":
            if below or len(stack) != 1:
                raise InputError("has a pickle that stops half way")
        elif name not in ("PROTO", "FRAME"):
            raise InputError(f"has the pickle operation {name}, which no file of tensors has")
    return stack[0]


def _last(stack: list, kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise InputError(f"adds to a {type(stack[-1]).__name__} as to a {kind.__name__}")
    return stack[-1]
