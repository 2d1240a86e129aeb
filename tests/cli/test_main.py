"""The command line: what is wrong is said in one line, with exit code 2."""

import dataclasses
import io
import sys
from pathlib import Path
from types import ModuleType

import pytest

from deberta_jax.cli import main as entry
from deberta_jax.cli.main import COMMANDS, main
from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    """Options with a prefix."""

    length: int = 8

    def __post_init__(self) -> None:
        if self.length > 100:
            raise InputError(f"inner.length is {self.length}, the table ends at 100")


@dataclasses.dataclass(frozen=True)
class Options:
    """A toy's options."""

    files: tuple[str, ...]
    folder: Path = Path("here")
    batch_size: int = 3
    check: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be at least 1")


@pytest.fixture
def received(monkeypatch) -> list:
    """What commands were run with: "toy", and "chosen" which starts from recipes."""
    found: list = []

    def run(options: Options) -> None:
        found.append(options)
        if options.files == ("missing.txt",):
            raise InputError("missing.txt: no such file")
        if options.files == ("endless.txt",):
            raise KeyboardInterrupt

    for name, recipes in {"toy": None, "chosen": {"small": ("a small one", Options(("default.txt",)))}}.items():
        module = ModuleType(f"deberta_jax.cli.{name}")
        module.run = run
        if recipes:
            module.RECIPES = recipes
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(entry.COMMANDS, name, "a toy")
    return found


def test_options_reach_the_command(received):
    assert main(["toy", "--files", "a", "b", "--inner.length", "5", "--check"]) == 0
    assert received == [Options(("a", "b"), check=True, inner=Inner(5))]


def test_a_recipe_is_the_default_that_options_change(received):
    assert main(["chosen", "small", "--batch-size", "7"]) == 0
    assert received == [Options(("default.txt",), batch_size=7)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "deberta-jax: no command given; there are "),
        ("tpy", "deberta-jax: no command 'tpy'; did you mean toy?"),
        ("qqqq", "deberta-jax: no command 'qqqq'; try "),
        ("chosen", "deberta-jax chosen: no recipe given; there are small"),
        ("chosen smal", "deberta-jax chosen: no recipe 'smal'; did you mean small?"),
        ("toy --files a --fodler x", "deberta-jax toy: no option --fodler; did you mean --folder?"),
        ("toy --files a --length 3", "deberta-jax toy: no option --length; did you mean --inner.length?"),
        ("toy --files a --inner.lenght=3", "deberta-jax toy: no option --inner.lenght; did you mean --inner.length?"),
        ("toy --files a --other.batch-sise 3", "deberta-jax toy: no option --other.batch-sise; did you mean --batch"),
        ("chosen small word", "deberta-jax chosen small: 'word' belongs to no option; "),
        ("toy", "deberta-jax toy: missing from deberta-jax toy: --files"),
        ("toy --files a --batch-size many", "deberta-jax toy: error parsing --batch-size: invalid literal for int()"),
        ("toy --files a --batch-size", "deberta-jax toy: missing value for argument '--batch-size'"),
        ("toy --files a --batch-size 0", "deberta-jax toy: batch_size is 0; it must be at least 1"),
        ("toy --files a --inner.length 101", "deberta-jax toy: inner.length is 101, the table ends at 100"),
        ("toy --files missing.txt", "deberta-jax toy: missing.txt: no such file"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(received, capsys, line, said):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_line_is_the_same_on_every_terminal(received, monkeypatch, encoding):
    said = io.StringIO()
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["toy", "--files", "a", "--batch-size", "many"]) == 2
    assert said.getvalue() == (
        "deberta-jax toy: error parsing --batch-size: invalid literal for int() with base 10: 'many'; "
        "`deberta-jax toy --help` lists the options\n"
    )


def test_an_interrupted_command_says_so_in_one_line(received, capsys):
    assert main(["toy", "--files", "endless.txt"]) == 130
    assert capsys.readouterr().err == "deberta-jax toy: interrupted\n"


def test_help_lists_commands_recipes_and_options_with_defaults(received, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["chosen", "--help"]) == 0
    assert "a small one" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["chosen", "small", "--help"])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert all(
        part in out for part in ("--inner.length INT", "(default: 8)", "(default: default.txt)", "A toy's options")
    )
    assert not received
