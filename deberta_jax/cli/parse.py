"""Options from the command line, read by tyro; an error is one line.

tyro reports errors as events of its private module `tyro._errors`, and lists options through its deprecated
`get_parser`. Both are used in this file only. Without them tyro prints its own messages, and nothing is suggested.
"""

import contextlib
import difflib
import functools
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Generator, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import tyro

from deberta_jax.errors import InputError

events: ModuleType | None
try:
    from tyro import _errors as events
except ImportError:
    events = None

WIDTH = 80
# What Python says of a word that is no number, and what the option expects.
_CONVERSIONS = {
    r"could not convert string to float: ('.*?')": "a number",
    r"invalid literal for int\(\) with base 10: ('.*?')": "an integer",
}
# tyro does not wrap the usage and the description. It prints this in place of the description.
_PLACEHOLDER = "<description>"
Options = TypeVar("Options")


class _Captured(io.StringIO):
    """Captures output for `terminal`; tyro reads its encoding and whether it is interactive."""

    def __init__(self, terminal: Any):
        super().__init__()
        self.terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.terminal.encoding

    def isatty(self) -> bool:
        return self.terminal.isatty()


def parse(kind: type[Options], words: Sequence[str], program: str, default: Options | None = None) -> Options | None:
    """Parse all options of a dataclass; None if `words` ask for help, which is printed.

    Raises InputError for options that are unknown, missing or wrong.
    """
    rest: dict[str, Any] = {} if default is None else {"default": default}
    output = _Captured(sys.stdout)
    with _narrow() as width, _one_line_errors(kind, program, rest):
        try:
            with contextlib.redirect_stdout(output):
                return tyro.cli(kind, prog=program, args=words, description=_PLACEHOLDER, **rest)
        except SystemExit as stop:
            if stop.code:
                raise
    usage, _, options = output.getvalue().partition(_PLACEHOLDER)
    indent = " " * len("usage: ")
    usage = textwrap.fill(usage.strip(), width, subsequent_indent=indent, break_on_hyphens=False)
    text = "\n\n".join([usage, _description(kind, width), options.strip("\n")])
    encoding = output.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
    return None


def parse_known(kind: type[Options], words: Sequence[str], program: str) -> Options:
    """Parse the options of a dataclass and ignore all others, `--help` too."""
    with _one_line_errors(kind, program, {}):
        options, _ = tyro.cli(kind, prog=program, args=words, return_unknown_args=True, add_help=False)
    return options


class Option(NamedTuple):
    """An option, or a positional argument, as `--help` lists it."""

    names: tuple[str, ...]
    """The names of an option, such as --mask and --no-mask; empty for a positional argument."""
    values: str
    """What it takes, such as INT, {mlm,rtd} or [STR [STR ...]]; empty for a flag."""
    help: str
    """The help text, which ends with the default."""


class OptionGroup(NamedTuple):
    """The options of one dataclass, such as `data`; the group of the command is named "options"."""

    title: str
    description: str
    options: tuple[Option, ...]


def option_groups(kind: Any, default: Any = None) -> list[OptionGroup]:
    """All options of a dataclass; empty if tyro does not list them."""
    rest = {} if default is None else {"default": default}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        get_parser = getattr(tyro.extras, "get_parser", None)
        groups = get_parser(kind, add_help=False, **rest)._action_groups if get_parser else []
    return [
        OptionGroup(group.title or "", group.description or "", tuple(map(_option, group._group_actions)))
        for group in groups
        if group._group_actions
    ]


def _option(action: Any) -> Option:
    # A percent sign is written twice for argparse.
    return Option(tuple(action.option_strings), action.metavar or "", str(action.help).replace("%%", "%"))


def option_help(kind: Any, default: Any = None) -> dict[str, str]:
    """The long options of a dataclass, each with its help line, which ends with the default."""
    options = [option for group in option_groups(kind, default) for option in group.options]
    return {name: option.help for option in options for name in option.names if name.startswith("--")}


def _description(kind: Any, width: int) -> str:
    """The docstring of a dataclass, in lines of at most `width` columns."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), width) for paragraph in paragraphs)


@contextlib.contextmanager
def _narrow() -> Generator[int, None, None]:
    """Make tyro write at most 80 columns, on wider terminals and in files too."""
    before, width = os.environ.get("COLUMNS"), min(WIDTH, max(40, shutil.get_terminal_size().columns))
    os.environ["COLUMNS"] = str(width)
    try:
        yield width
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _one_line_errors(kind: Any, program: str, rest: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Raise InputError where tyro would print a message and exit."""

    def report(event: Any) -> None:
        if unknown := _unknown(event):
            raise InputError(_unknown_message(unknown, option_help(kind, **rest), program))
        if message := _message(event):
            raise InputError(f"{message}; `{program} --help` lists the options")

    return events.on_parse_error(report) if events else contextlib.nullcontext()


def _unknown(event: Any) -> str | None:
    """The first word that is neither an option nor the value of one."""
    words = getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None)
    return words[0].partition("=")[0] if words else None


def _message(event: Any) -> str | None:
    """The error message of an event; None for an unknown type of event."""
    assert events is not None
    argument = getattr(event, "argument", None)
    name = _name(argument) if argument else ""
    if isinstance(event, events.MissingArgs):
        return f"missing {', '.join(_name(missing.arg) for missing in event.missing_arguments)}"
    if isinstance(event, events.InvalidChoice):
        return f"{name} cannot be {event.value!r}; choose {', '.join(event.choices)}"
    if isinstance(event, events.BadValue):
        return f"{name} needs a value" if event.reason == "too_few_values" else f"{name} takes no value"
    if isinstance(event, events.InstantiationFailure):
        message = _conversion(event.message)
        return f"{name}: {message}" if argument else message
    return None


def _conversion(message: str) -> str:
    """Why a word has the wrong type, in one line."""
    for pattern, expected in _CONVERSIONS.items():
        if match := re.search(pattern, message):
            return f"expected {expected}, not {match[1]}"
    return message.partition("\n")[0]


def _name(argument: Any) -> str:
    return argument.lowered.metavar if argument.is_positional() else argument.display_name()


def _unknown_message(word: str, names: Iterable[str], program: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}; `{program} --help` lists the options"
    names = list(names)
    # Several groups of options can have one of this name.
    nearest = sorted(name for name in names if name.rpartition(".")[2] == word.lstrip("-"))
    nearest = nearest or sorted(names, key=functools.partial(_likeness, word))[-1:]
    suggestion = f"did you mean {' or '.join(nearest)}? (`{program} --help` lists the options)"
    return f"no option {word}; " + (suggestion if nearest else f"`{program} --help` lists the options")


def _likeness(word: str, name: str) -> float:
    """How alike two dotted names are, as a whole and in their last parts; initials, as in --lr, count as the last."""
    short, last = (dotted.lstrip("-").rpartition(".")[2] for dotted in (word, name))
    initials = "".join(part[:1] for part in last.split("-"))
    pairs = (word, name), (short, initials if short == initials else last)
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
