"""A reader of pickles that only builds values: it never imports or calls what a pickle names.

The standard library's `pickle.Unpickler` is not used, because its hooks cover names and persistent ids only: a pickle
of a hundred bytes can keep it hashing nested tuples for years, and nine bytes can make it allocate gigabytes. This
reader counts every operation and every copied item, so that time and memory stay bounded for any file.
"""

import io
import pickletools
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from deberta_jax.errors import InputError

# A state dict of a thousand tensors takes 60,000 operations, the byte pairs of v1 a million.
MAX_OPERATIONS = 5_000_000
_MAX_KEY_LENGTH, _MAX_INTEGER_BITS = 8, 4096
_LITERALS = frozenset(
    [
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    ]
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(["PROTO", "FRAME"])
_SCALARS = (str, int, float, bytes, type(None))
# What a damaged pickle raises in its reader; Warning, because tests turn warnings into errors.
_DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, Warning)


@dataclass(frozen=True)
class Function:
    """The replacement of a function or class that a pickle names; `call` is ours and receives the pickled arguments."""

    call: Callable[..., Any]


def read_pickle(
    file: io.BytesIO, *, find_name: Callable[[str, str], Any], load_persistent: Callable[[Any], Any]
) -> Any:
    """Read the next pickle of `file` (protocol 2 or later) and leave the file position behind it.

    `find_name` returns the value for a module and a name, a `Function` for what can be called. `load_persistent`
    returns the value for a persistent id. Both raise `InputError` for what they do not know. Raises `InputError` for a
    damaged pickle, and for one that needs more than `MAX_OPERATIONS` operations and copied items.
    """
    try:
        return _Machine(find_name, load_persistent).run(file)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {printable(str(error))}"
        raise InputError(f"damaged, or not a PyTorch file ({reason}); download it again") from error


def printable(text: str) -> str:
    """The beginning of a text from a file, safe to print in one line of a message."""
    text = text[:120]
    return text if text.isprintable() else repr(text)


def check_key(key: Any) -> Any:
    """Return a key of a dict or set; raises TypeError unless it is a scalar or a short tuple of scalars.

    Hashing a deeply nested tuple takes exponential time.
    """
    parts = key if type(key) is tuple and len(key) <= _MAX_KEY_LENGTH else (key,)
    if not all(isinstance(part, _SCALARS) for part in parts):
        raise TypeError(f"a {type(key).__name__} as a key")
    return key


@dataclass(frozen=True)
class Opaque:
    """An object of a class that is not needed to read tensors; its state is left out. `name` is that of the class."""

    name: str


@dataclass
class _Machine:
    """The state of one pickle: the stack above the last mark, the stacks below the open marks, and the memo."""

    find_name: Callable[[str, str], Any]
    load_persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    marked: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    work: int = 0

    def run(self, file: io.BytesIO) -> Any:
        argument: Any
        # The most frequent operations are handled here, without a call.
        for opcode, argument, _ in pickletools.genops(file):
            self.work += 1
            if self.work > MAX_OPERATIONS:
                raise InputError(f"contains a pickle of more than {MAX_OPERATIONS:,} operations, too many for tensors")
            name = opcode.name
            if name in _LITERALS:
                if type(argument) is int and argument.bit_length() > _MAX_INTEGER_BITS:
                    raise InputError(f"contains a number of {argument.bit_length()} bits")
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name in _TUPLES:
                self.stack.append(tuple(self.pop(_TUPLES[name])))
            elif name == "GLOBAL":
                module, _, attribute = argument.partition(" ")
                self.stack.append(self.find_name(module, attribute))
            elif name in _OPERATIONS:
                _OPERATIONS[name](self)
            elif name not in _IGNORED:
                raise InputError(f"contains the pickle operation {name}, which files of tensors never use")
        return self.stack[0]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def pop(self, count: int) -> list[Any]:
        """The last `count` values, in the order in which they were pushed."""
        if len(self.stack) < count:
            raise IndexError("pop from an empty stack")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise InputError(f"adds items to a {type(self.stack[-1]).__name__}, not to a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is Opaque:
            return
        target = self.last(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def append_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not Opaque:
            self.last(list).extend(items)

    def add_items(self, items: list[Any]) -> None:
        self.last(set).update(map(check_key, items))

    def find_name_on_stack(self) -> None:
        module, attribute = self.pop(2)
        if type(module) is not str or type(attribute) is not str:
            raise InputError("refers to a name that is not text")
        self.stack.append(self.find_name(module, attribute))

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise InputError(f"calls a {type(function).__name__}")
        # Copied items count as work: a few operations could copy one large value again and again.
        self.work += sum(len(value) for value in arguments if isinstance(value, Sized))
        self.stack.append(function.call(*arguments))

    def set_state(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is Opaque:
            return
        if isinstance(self.stack[-1], np.dtype):
            if state[1] == ">":
                raise InputError("contains numbers of a big-endian machine")
        elif type(self.stack[-1]) is SimpleNamespace:
            self.work += len(state)
            vars(self.stack[-1]).update(dict(**state))
        else:
            # The attributes of a dict are torch's `_metadata`, which is not part of the values.
            self.last(dict)

    def stop(self) -> None:
        if self.marked or len(self.stack) != 1:
            raise InputError("contains an incomplete pickle")


_OPERATIONS: dict[str, Callable[[_Machine], Any]] = {
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    "TUPLE": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    "SETITEMS": lambda machine: machine.set_items(machine.pop_to_mark()),
    "SETITEM": lambda machine: machine.set_items(machine.pop(2)),
    "APPENDS": lambda machine: machine.append_items(machine.pop_to_mark()),
    "APPEND": lambda machine: machine.append_items(machine.pop(1)),
    "ADDITEMS": lambda machine: machine.add_items(machine.pop_to_mark()),
    "FROZENSET": lambda machine: machine.push(frozenset(map(check_key, machine.pop_to_mark()))),
    "STACK_GLOBAL": _Machine.find_name_on_stack,
    "BINPERSID": lambda machine: machine.push(machine.load_persistent(machine.stack.pop())),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_state,
    "STOP": _Machine.stop,
}
