"""The command line: how options are read, and that every error is one line with exit code 2."""

import dataclasses
import errno
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from deberta_jax.cli import main as entry
from deberta_jax.cli import parse
from deberta_jax.cli.main import COMMANDS, Command, main
from deberta_jax.errors import InputError, StopRequested


@dataclasses.dataclass(frozen=True)
class Inner:
    """Options with a prefix."""

    length: int = 8
    """The length."""

    def __post_init__(self) -> None:
        if self.length > 100:
            raise InputError(f"inner.length is {self.length}, the table ends at 100")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a toy command. This description is long enough that it does not fit on one line of the help."""

    files: tuple[str, ...]
    """The files."""
    folder: Path = Path("here")
    """The folder."""
    batch_size: int = 3
    """The batch size."""
    check: bool = False
    """Whether to check."""
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The option that decides a default of the recipes."""

    folder: Path | None = None


# What the toy command does for a file of this name.
FAILURES = {
    "missing.txt": InputError("missing.txt: no such file"),
    "interrupted.txt": KeyboardInterrupt(),
    "sigint.txt": StopRequested(signal.SIGINT, 7),
    "sigterm.txt": StopRequested(signal.SIGTERM, 7),
    "forbidden.txt": PermissionError(errno.EACCES, "Permission denied", "/a/file"),
    "full.txt": OSError(errno.ENOSPC, "No space left on device"),
    "network.txt": ConnectionError("refused"),
    "pipe.txt": BrokenPipeError(),
}


@pytest.fixture
def received(monkeypatch) -> list:
    """The options that the commands were run with: "toy", and "chosen", which has the recipe "small"."""
    options_received: list = []

    def run(options: Options) -> None:
        options_received.append(options)
        if options.files and options.files[0] in FAILURES:
            raise FAILURES[options.files[0]]

    def recipe(name: str, selection: Selection) -> Options:
        return Options(("default.txt",), batch_size=50 if selection.folder else 3)

    for name, members in {
        "toy": {"OPTIONS": Options},
        "chosen": {"RECIPES": {"small": "a small one"}, "Selection": Selection, "recipe": recipe},
    }.items():
        module = ModuleType(f"deberta_jax.cli.{name}")
        vars(module).update(members, run=run)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(entry.COMMANDS, name, Command("a toy", module.__name__))
    return options_received


def test_options_reach_the_command(received):
    assert main(["toy", "--files", "a", "b", "--inner.length", "5", "--check"]) == 0
    assert received == [Options(("a", "b"), check=True, inner=Inner(5))]


def test_options_change_the_defaults_of_a_recipe(received):
    assert main(["chosen", "small", "--batch-size", "7"]) == 0
    assert received == [Options(("default.txt",), batch_size=7)]


def test_defaults_of_a_recipe_depend_on_its_selection(received):
    assert main(["chosen", "small", "--check", "--folder", "there"]) == 0
    assert received == [Options(("default.txt",), folder=Path("there"), batch_size=50, check=True)]


def test_an_unknown_option_that_several_groups_have_names_all_of_them():
    names = ["--epochs", "--optimizer.learning-rate", "--awp.learning-rate"]
    message = parse._unknown_message("--learning-rate", names, "toy")
    assert message.startswith(
        "no option --learning-rate; did you mean --awp.learning-rate or --optimizer.learning-rate?"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "deberta-jax: no command given; choose "),
        ("tpy", "deberta-jax: no command 'tpy'; did you mean toy?"),
        ("qqqq", "deberta-jax: no command 'qqqq'; choose "),
        ("chosen", "deberta-jax chosen: no recipe given; choose small"),
        ("chosen smal", "deberta-jax chosen: no recipe 'smal'; did you mean small?"),
        ("chosen .", "deberta-jax chosen: no recipe '.'; a path is the value of an option, such as --model or --data"),
        ("chosen small --folder", "deberta-jax chosen small: --folder needs a value; "),
        ("toy --files a --fodler x", "deberta-jax toy: no option --fodler; did you mean --folder?"),
        ("toy --flies a", "deberta-jax toy: no option --flies; did you mean --files?"),
        ("toy --files a --length 3", "deberta-jax toy: no option --length; did you mean --inner.length?"),
        ("toy --files a --inner.lenght=3", "deberta-jax toy: no option --inner.lenght; did you mean --inner.length?"),
        ("toy --files a --other.batch-sise 3", "deberta-jax toy: no option --other.batch-sise; did you mean --batch"),
        ("chosen small word", "deberta-jax chosen small: unexpected argument 'word'; "),
        ("toy", "deberta-jax toy: missing --files; `deberta-jax toy --help` lists the options"),
        ("toy --files a --batch-size many", "deberta-jax toy: --batch-size: expected an integer, not"),
        ("toy --files a --batch-size", "deberta-jax toy: --batch-size needs a value; "),
        ("toy --files a --batch-size 0", "deberta-jax toy: batch_size is 0; it must be at least 1"),
        ("toy --files a --inner.length 101", "deberta-jax toy: inner.length is 101, the table ends at 100"),
        ("toy --files missing.txt", "deberta-jax toy: missing.txt: no such file"),
        ("toy --files forbidden.txt", "deberta-jax toy: /a/file: Permission denied"),
        ("toy --files full.txt", "deberta-jax toy: No space left on device"),
        ("convert a b --to paper", "deberta-jax convert: --to cannot be 'paper'; choose huggingface, microsoft"),
        ("convert", "deberta-jax convert: missing SOURCE, TARGET; "),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(received, capsys, line, message):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_line_is_the_same_on_every_terminal(received, monkeypatch, encoding):
    errors = io.StringIO()
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["toy", "--files", "a", "--batch-size", "many"]) == 2
    assert errors.getvalue() == (
        "deberta-jax toy: --batch-size: expected an integer, not 'many'; `deberta-jax toy --help` lists the options\n"
    )


def test_without_the_private_module_of_tyro_its_own_message_is_printed(received, monkeypatch, capsys):
    monkeypatch.setattr(parse, "events", None)
    assert main(["toy", "--files", "a", "--batch-size", "7"]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["toy", "--files", "a", "--batch-size", "many"])
    assert stop.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("interrupted.txt", 130, "interrupted; to continue, run the same command again"),
        ("sigint.txt", 130, "stopped after step 7; to resume, run the same command again"),
        ("sigterm.txt", 0, "stopped after step 7; to resume, run the same command again"),
    ],
)
def test_a_stopped_command_reports_how_to_resume(received, capsys, file, code, message):
    assert main(["toy", "--files", file]) == code
    assert capsys.readouterr().err == f"deberta-jax toy: {message}\n"


def test_an_error_that_is_not_the_users_is_raised(received):
    with pytest.raises(ConnectionError):
        main(["toy", "--files", "network.txt"])


def test_help_lists_commands_recipes_and_options_with_defaults(received, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["chosen", "--help"]) == 0
    assert "a small one" in capsys.readouterr().out
    assert main(["chosen", "small", "--help", "--folder", "there"]) == 0
    out = capsys.readouterr().out
    for part in ("--inner.length INT", "The length. (default: 8)", "(default: default.txt)", "(default: 50)"):
        assert part in out
    assert "The options of a toy command." in out
    assert not received


def test_help_is_printed_on_an_ascii_terminal(received, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(Options, "__doc__", "The λ of a toy.")
    assert main(["toy", "--help"]) == 0
    text = terminal.buffer.getvalue().decode("ascii")
    assert "The ? of a toy." in text and "--inner.length INT" in text


def test_the_version_names_jax_and_python(capsys):
    assert main(["--version"]) == 0
    pattern = r"deberta-jax \d+\.\d+\.\d+ \(jax \d+\.\d+\.\d+, Python 3\.\d+\.\d+\)\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


def helps() -> list[list[str]]:
    """Each command, with its last recipe if it has some, and the lists of commands and of recipes."""
    words: list[list[str]] = [[], ["pretrain"]]
    for name, command in COMMANDS.items():
        recipes = getattr(import_module(command.options), "RECIPES", ())
        words.append([name, *list(recipes)[-1:]])
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_line(command):
    options = import_module(COMMANDS[command].options)
    recipes = getattr(options, "RECIPES", None)
    if recipes:
        selection = options.Selection() if hasattr(options, "Selection") else None
        default = options.recipe(next(iter(recipes)), selection)
        texts = parse.option_help(type(default), default)
    else:
        texts = parse.option_help(options.OPTIONS)
    without = [name for name, text in texts.items() if re.fullmatch(r"\((default:.*|required|unset.*)\)|", text)]
    assert without == []


MEASURE = """
import resource, sys
from deberta_jax.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(code, "jax" in sys.modules, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


@pytest.mark.parametrize("words", helps(), ids=" ".join)
def test_help_has_80_columns_and_takes_less_than_two_seconds_of_cpu_time_without_jax(words):
    command = [sys.executable, "-c", MEASURE, *words, "--help"]
    wide = os.environ | {"COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=wide)
    code, with_jax, seconds = result.stderr.split()
    assert (code, with_jax) == ("0", "False")
    assert float(seconds) < 2
    lines = result.stdout.splitlines()
    assert lines[0].startswith(" ".join(["usage: deberta-jax", *words]))
    assert [line for line in lines if len(line) > 80] == []


def test_help_that_nobody_reads_to_the_end_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "deberta_jax", "finetune", "mnli", "--help"]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.parametrize(
    "line",
    [
        "pretrain tiny --data.files {file} --folder /proc/nope",
        "tokenizer --files {file} --vocabulary 300 --output /proc/nope/spm.model",
    ],
)
def test_a_folder_that_cannot_be_created_is_refused_in_one_line(line, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog and eats what it finds there.\n" * 20)
    assert main(line.format(file=file).split()) == 2
    error = capsys.readouterr().err
    assert "/proc/nope" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "convert {missing} {folder}/model",
        "pretrain tiny --data.files {missing} --folder {folder}/run",
        "finetune mnli --model {missing} --data {missing} --folder {folder}/run",
        "evaluate mnli --model {missing} --data {missing} --folder {folder}/run",
        "predict {missing} --text hello --output {folder}/out/out.jsonl",
        "prepare --files {missing} --tokenizer {missing} --output {folder}/shards",
        "tokenizer --files {missing} --output {folder}/out/spm.model",
    ],
)
def test_a_rejected_command_leaves_no_folder(line, tmp_path, capsys):
    words = line.format(missing=tmp_path / "missing", folder=tmp_path / "new").split()
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--version >&-", 0),
        ("--version >/dev/full", 2),
        ("pretrain tiny --wrong 2>&-", 2),
        ("pretrain tiny --wrong 2>/dev/full", 2),
    ],
)
def test_output_that_is_closed_or_on_a_full_disk_has_no_trace_and_the_exit_code_of_the_command(command, code):
    script = f"exec {shlex.quote(sys.executable)} -m deberta_jax {command}"
    process = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert process.returncode == code
    assert process.stderr in ("", "deberta-jax: No space left on device\n")
