"""`deberta-jax COMMAND`: choose the command, read its options, run it, and report an error in one line.

A command is a module of this folder with a function `run`, whose only parameter is a dataclass of options. The table
`COMMANDS` names the module that declares the options. `--help` imports that module only, so it does not import JAX.
"""

import dataclasses
import difflib
import errno
import importlib
import importlib.metadata
import logging
import os
import platform
import signal
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deberta_jax.cli.limits import raise_open_files
from deberta_jax.cli.parse import WIDTH, parse, parse_known
from deberta_jax.cli.termination import Terminated, terminable
from deberta_jax.errors import CommandFailed, InputError, PeerError, StopRequested, shorten
from deberta_jax.printing import (
    FirstOfEqualWarnings,
    PrintableFormatter,
    discard,
    open_closed_streams,
    print_message,
    printable_stdout,
)  # fmt: skip
from deberta_jax.processes.config import ProcessesConfig
from deberta_jax.processes.exit import exit_process
from deberta_jax.processes.join import current_group, end_group, is_suspected, leave_group

# Errors of a full or broken disk, and of limits, which may come without a file's name.
_SYSTEM_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE
}  # fmt: skip
# Commands that give results, each as the word after the program's name.
_RESULTS = ["evaluate"], ["predict"]
_DESCRIPTION = "DeBERTa v1, v2 and v3 in JAX: pretrain, fine-tune, evaluate, predict."


@dataclasses.dataclass(frozen=True)
class _Processes:
    processes: ProcessesConfig = dataclasses.field(default_factory=ProcessesConfig)


class Command(NamedTuple):
    """A command's description, and the module that declares its options.

    The module has `OPTIONS`, a dataclass. If the command has recipes, it has instead `RECIPES`, name to description,
    and `recipe(name, selection)`, which returns the options that a recipe starts with. `selection` is an instance of
    `Selection`, a dataclass of the options that decide them, or None without such a class. `NOUN` is what the command
    calls its recipes, RECIPE by default.
    """

    description: str
    options: str


COMMANDS = {
    "pretrain": Command(
        "train by masked language modeling or replaced-token detection", "deberta_jax.pretraining.recipes"
    ),
    "plan": Command(
        "compile a pretraining run for a TPU slice or GPUs that you do not have: memory, time and cost",
        "deberta_jax.planning.options",
    ),
    "finetune": Command(
        "train a model on a task: GLUE, SuperGLUE, SQuAD, RACE, NER, or your own table",
        "deberta_jax.finetuning.recipes",
    ),
    "evaluate": Command(
        "evaluate a model, or an ensemble, on a task's files by the official metrics",
        "deberta_jax.cli.evaluate_options",
    ),
    "predict": Command(
        "fill masks, classify, tag, answer or embed texts with a model", "deberta_jax.cli.predict_options"
    ),
    "convert": Command(
        "convert a model to the format of Hugging Face or Microsoft, or to a run", "deberta_jax.cli.convert_options"
    ),
    "upload": Command("upload a model folder to the Hugging Face hub", "deberta_jax.cli.upload"),
    "prepare": Command("tokenize text and write it as shards for pretraining", "deberta_jax.cli.prepare"),
    "tokenizer": Command("train a SentencePiece tokenizer on text", "deberta_jax.cli.tokenizer"),
    "launch": Command("run pretrain or finetune as several processes on this machine", "deberta_jax.cli.launch"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 after an error that the user can fix, reported in one line.

    130 after Ctrl-C, 141 if the reader of the output closed it, 1 if another process of the run has ended. After
    SIGTERM 0, as the same command continues; but 143 if the command was to give results, which are incomplete.
    """
    # The libraries behind JAX read these when they are loaded; without them they log their own start.
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR"}.items():
        os.environ.setdefault(name, value)
    open_closed_streams()
    _log_to_stderr()
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = ["deberta-jax"]
    try:
        with terminable():
            _run(words, program)
        sys.stdout.flush()
        leave_group()
    except BaseException as error:
        return end_command(error, program, words)
    return 0


def end_command(error: BaseException, program: Sequence[str], words: Sequence[str]) -> int:
    """Report what ended a command, end the other processes of its run, and return the exit code."""
    outcome = _outcome(error, program)
    if outcome is None and is_suspected(error) and current_group():
        outcome = 1, f"the processes cannot communicate: {shorten(error)}; to resume, run the same command again"
    if outcome is None:
        text = traceback.format_exception_only(error)[-1].strip()
        if not end_group(error, text, 1, _processes(program, words)):
            raise error
        traceback.print_exception(error)
        exit_process(1)
    code, message = outcome
    if isinstance(error, StopRequested) and code == 0:
        # All processes stop after the same step.
        leave_group()
        in_group = False
    else:
        in_group = end_group(error, message, code, _processes(program, words))
    if message:
        print_message(f"{' '.join(program)}: {message}")
    if in_group:
        exit_process(code)
    return code


def _outcome(error: BaseException, program: Sequence[str]) -> tuple[int, str] | None:
    """The exit code and the message for an error; None for one that is not expected."""
    match error:
        case InputError():
            return 2, str(error)
        case PeerError():
            return 1, str(error)
        case CommandFailed():
            return error.code, ""
        case StopRequested():
            return 130 if error.signal == signal.SIGINT else 0, str(error)
        case Terminated():
            return 128 + signal.SIGTERM if program[1:2] in _RESULTS else 0, str(error)
        case KeyboardInterrupt():
            return 130, "interrupted; to continue, run the same command again"
        case BrokenPipeError():
            # The reader of the output, such as `head`, has seen enough. Python must not flush what is left.
            discard(sys.stdout)
            return 141, ""
        case OSError() if error.filename is not None or error.errno in _SYSTEM_ERRORS:
            where = "" if error.filename is None else f"{error.filename}: "
            return 2, f"{where}{error.strerror}"
    return None


def _processes(program: Sequence[str], words: Sequence[str]) -> ProcessesConfig | None:
    """The processes of a command whose options could not be read, if it joins others."""
    if program[1:2] not in (["pretrain"], ["finetune"]) or "--processes.join" not in words:
        return None
    try:
        return parse_known(_Processes, words, " ".join(program)).processes
    except InputError:
        return None


def _run(words: list[str], program: list[str]) -> None:
    """Read the options of one command and run it; `program` gets the names of the command and its recipe."""
    if words[:1] == ["--version"]:
        print(_version())
        return
    name = _choose(words, {name: command.description for name, command in COMMANDS.items()}, program, "COMMAND")
    if name is None:
        return
    options, config = importlib.import_module(COMMANDS[name].options), None
    if hasattr(options, "RECIPES"):
        recipe = _choose(words, options.RECIPES, program, getattr(options, "NOUN", "RECIPE"))
        if recipe is None:
            return
        selected = hasattr(options, "Selection")
        selection = parse_known(options.Selection, words, " ".join(program)) if selected else None
        default: Any = options.recipe(recipe, selection)
        config = parse(type(default), words, " ".join(program), default)
    else:
        config = parse(options.OPTIONS, words, " ".join(program))
    if config is not None:
        raise_open_files()
        with printable_stdout():
            importlib.import_module(f"deberta_jax.cli.{name}").run(config)


def _choose(words: list[str], choices: Mapping[str, str], program: list[str], noun: str) -> str | None:
    """Move the first word, one of `choices`, to `program`; None if it asks for help, which is printed."""
    listed = ", ".join(choices)
    if not words:
        raise InputError(f"no {noun.lower()} given; choose {listed}")
    word = words.pop(0)
    if word in ("-h", "--help"):
        _print_choices(choices, " ".join(program), noun)
        return None
    if word not in choices:
        near = difflib.get_close_matches(word, choices, 1, 0.5)
        if os.path.exists(word) and not near:
            raise InputError(f"no {noun.lower()} {word!r}; a path is the value of an option, such as --model or --data")
        raise InputError(f"no {noun.lower()} {word!r}; " + (f"did you mean {near[0]}?" if near else f"choose {listed}"))
    program.append(word)
    return word


def _print_choices(choices: Mapping[str, str], program: str, noun: str) -> None:
    print(f"usage: {program} {noun} [-h] [OPTIONS]\n")
    if noun == "COMMAND":
        print(f"{_DESCRIPTION}\n")
    column = max(map(len, choices)) + 4
    for name, description in choices.items():
        print(textwrap.fill(f"  {name:{column - 2}}{description}", WIDTH, subsequent_indent=" " * column))
    print(f"\n`{program} {noun} --help` lists the options and their defaults.")
    if noun == "COMMAND":
        print(f"`{program} --version` prints the versions of this package, JAX and Python.")


def _version() -> str:
    ours, jax = (importlib.metadata.version(name) for name in ("deberta-jax", "jax"))
    return f"deberta-jax {ours} (jax {jax}, Python {platform.python_version()})"


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter())
    # Each evaluation of a run warns of the same texts.
    handler.addFilter(FirstOfEqualWarnings())
    logger = logging.getLogger("deberta_jax")
    logger.handlers, logger.propagate = [handler], False
