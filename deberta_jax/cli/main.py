"""`deberta-jax COMMAND`: finds the command, reads its options, and says in one line what is wrong with them.

A command is a module of this folder with a function `run`, whose only parameter is a dataclass of options. Where it has
`RECIPES`, name to description and options, its first word is one of them (a `NOUN`, where it has another for them), and
later words change it; options may be a function of those words.
"""

import contextlib
import difflib
import errno
import functools
import importlib
import io
import itertools
import logging
import os
import re
import signal
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from deberta_jax.errors import InputError

# What a file system refuses and its user can mend: places, rights, room.
_TO_MEND = {
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
}
COMMANDS = {
    "pretrain": "train by masked language modelling or replaced-token detection, from text to a model folder",
    "finetune": "train a model on a task: GLUE, SuperGLUE, SQuAD, RACE, NER, or a table of your own",
    "evaluate": "score a model on a task's files by its official metrics",
    "predict": "fill masks, classify, tag, answer or embed texts with a model",
    "convert": "turn a model folder into another form: Hugging Face, Microsoft, or a run to go on from",
    "prepare": "turn text into shards of tokenized rows",
    "tokenizer": "train a SentencePiece tokenizer on text",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 where the user can mend it, after one line that says how."""
    # Read when the libraries behind JAX are loaded: without them they report on themselves.
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR"}.items():
        os.environ.setdefault(name, value)
    _show_warnings()
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "deberta-jax"
    try:
        command = _choose(words, COMMANDS, program, "COMMAND")
        if command is None:
            return 0
        program += f" {command}"
        module = importlib.import_module(f"deberta_jax.cli.{command}")
        (kind,) = (kind for name, kind in typing.get_type_hints(module.run).items() if name != "return")
        recipes, default = getattr(module, "RECIPES", None), None
        if recipes is not None:
            about = {name: text if isinstance(text, str) else text[0] for name, text in recipes.items()}
            recipe = _choose(words, about, program, getattr(module, "NOUN", "RECIPE"))
            if recipe is None:
                return 0
            program = f"{program} {recipe}"
            if hasattr(module, "Selection"):
                default = module.recipe(recipe, _select(module.Selection, words, program))
            else:
                default = recipes[recipe][1]
                default = default(words) if callable(default) else default
        options = _parse(kind, words, program, default)
        # Imported here: a command that only prints its help does without JAX.
        from deberta_jax.training.preemption import StopRequested

        try:
            module.run(options)
        except StopRequested as stop:
            print(f"{program}: {stop}", file=sys.stderr)
            return 130 if stop.signal == signal.SIGINT else 0
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _TO_MEND:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"{program}: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return 0


def _choose(words: list[str], choices: Mapping[str, str], program: str, noun: str) -> str | None:
    """Take the first word, one of `choices`, away; None after printing them if it asks for help."""
    listed = ", ".join(choices)
    if not words:
        raise InputError(f"no {noun.lower()} given; there are {listed}")
    word = words.pop(0)
    if word in ("-h", "--help"):
        width = max(map(len, choices))
        print(f"usage: {program} {noun} [-h] [OPTIONS]\n")
        print("\n".join(f"  {name:{width}}  {description}" for name, description in choices.items()))
        print(f"\n`{program} {noun} --help` lists the options and their defaults.")
        return None
    if word not in choices:
        near = difflib.get_close_matches(word, choices, 1, 0.5)
        raise InputError(f"no {noun.lower()} {word!r}; " + (f"did you mean {near[0]}?" if near else f"try {listed}"))
    return word


def _select(kind: Any, words: Sequence[str], program: str) -> Any:
    """The options that decide a recipe's defaults."""
    import tyro

    return tyro.cli(kind, prog=program, args=words, return_unknown_args=True, add_help=False)[0]


def _parse(kind: Any, words: Sequence[str], program: str, default: Any) -> Any:
    import tyro

    read = functools.partial(tyro.cli, kind, prog=program, **({} if default is None else {"default": default}))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = read(args=words, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_first_sentence(said.getvalue())}; `{program} --help` lists the options") from None
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise InputError(f"{word!r} belongs to no option; `{program} --help` lists the options")
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            read(args=["--help"])
        nearest = max(re.findall(r"--[\w.-]+", said.getvalue()), key=functools.partial(_likeness, word))
        raise InputError(f"no option {word}; did you mean {nearest}? (`{program} --help` lists the options)")
    return options


def _likeness(word: str, name: str) -> float:
    """How like two dotted names are, as a whole and in their last parts; initials, as in --lr, count as the last."""
    short, last = (dotted.lstrip("-").rpartition(".")[2] for dotted in (word, name))
    initials = "".join(part[:1] for part in last.split("-"))
    pairs = (word, name), (short, initials if short == initials else last)
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _first_sentence(box: str) -> str:
    """The message in a box of several lines, as tyro draws it: between title and rule."""
    rows = [row.strip("│| ") for row in re.sub("\x1b" + r"\[[\d;]*m", "", box).splitlines()]
    below_title = itertools.dropwhile(_is_rule, rows[1:])
    message = " ".join(itertools.takewhile(lambda row: not _is_rule(row), below_title))
    # The name of a dataclass that refuses its fields is of no use to who types options.
    message = re.sub(r"^Error parsing [^-]\S*: ", "", message).rstrip(".")
    return message[0].lower() + message[1:]


def _is_rule(row: str) -> bool:
    return not row.strip("─-╰╯")


def _show_warnings() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("deberta_jax")
    logger.handlers, logger.propagate = [handler], False
