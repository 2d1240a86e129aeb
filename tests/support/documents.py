"""The code blocks, commands and links of the documents, and how tests run them as written.

A comment before a block says what a test does with it: `<!-- file NAME -->` writes its text to a file, and
`<!-- checked: REASON -->` only compiles Python and reads the options of commands.
"""

import importlib
import itertools
import re
import shlex
import string
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

from deberta_jax.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(rf"{_FENCED.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_EXTRA = re.compile(r"(?:\.|deberta-jax ?)\[([\w,]+)\]")
# A program that runs commands, and programs that tests do not run.
_LAUNCHER = "srun"
_PROGRAMS = {
    "deberta-jax",
    ".",
    "[",
    "cd",
    "docker",
    "done",
    "exit",
    "export",
    "gcloud",
    "git",
    "kill",
    "lint-imports",
    "mypy",
    "pip",
    "pre-commit",
    "pytest",
    "python",
    "python3",
    "ruff",
    "run",
    "scontrol",
    "sleep",
    "sphinx-build",
    "trap",
    "wait",
    "while",
    _LAUNCHER,
}


class Block(NamedTuple):
    """One fenced block of a page."""

    comment: str
    language: str
    text: str

    @property
    def is_checked_only(self) -> bool:
        return self.comment.startswith("checked")


def read_page(name: str) -> str:
    """A document of the repository, such as "docs/faq.md"."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text, in order."""
    return [Block(match["comment"] or "", match["language"], match["text"]) for match in _BLOCK.finditer(page)]


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; the commands of a loop once for each value of its variable."""
    joined = re.sub(r"(^|\s)#[^\n'\"]*$", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    separated = itertools.groupby(lexer, lambda word: not word.strip(";&|\n"))
    lines = iter([list(words) for is_end, words in separated if not is_end])
    for line in lines:
        if line[0] == "for":
            body = list(itertools.takewhile(lambda words: words != ["done"], lines))
            for value in line[3:]:
                for words in body:
                    yield [string.Template(word).safe_substitute({line[1]: value}) for word in words]
        else:
            yield line


def commands(text: str) -> list[list[str]]:
    """The words after `deberta-jax` of each such command of a shell block, and those of `python -c`.

    Other programs are known, and not run.
    """
    matches = []
    for line in shell_lines(text):
        # Settings of the environment, and the word before the body of a loop.
        words = list(itertools.dropwhile(lambda word: word in ("do", "until") or re.match(r"[A-Za-z_]+=", word), line))
        program = words[0].rpartition("/")[2] if words else "export"
        assert program in _PROGRAMS, line
        names = words if program == _LAUNCHER else words[:1]
        start = next((i for i, word in enumerate(names) if re.fullmatch(r"(.*/bin/)?deberta-jax", word)), None)
        if start is not None:
            matches.append(words[start + 1 :])
        if words[:2] == ["python", "-c"]:
            matches.append(words)
        if program == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line
        check_extras(" ".join(words))
    return matches


def check_extras(text: str) -> None:
    """Each extra of this package in a `pip install` exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {name for extras in _EXTRA.findall(text) for name in extras.split(",")}
    assert named <= project["optional-dependencies"].keys(), text


def check_options(words: list[str]) -> None:
    """The options of a command are valid; nothing is run."""
    command = words[0]
    if command == "python":
        compile(words[2], "python -c", "exec")
        return
    if "--help" in words or command == "--version":
        assert main(words) == 0
        return
    if command == "launch":
        words = words[words.index("--") + 1 :]
        command = words[0]
    assert command in COMMANDS, words
    configs: list[Any] = []
    with mock.patch.object(importlib.import_module(f"deberta_jax.cli.{command}"), "run", configs.append):
        assert main(words) == 0, words
    assert configs, words


def run_command(words: list[str]) -> None:
    """Run `deberta-jax` with these words, under the default promotion of dtypes of JAX, as a reader would."""
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
        return
    with jax.numpy_dtype_promotion("standard"):
        assert main(words) == 0, words


def run_block(block: Block, names: dict[str, Any], page: str, replace: Callable[[list[str]], list[str]] = list) -> None:
    """Run the Python or the commands of a block in the current folder, as a reader would; write its file.

    `replace` returns the words to run for those of a command.
    """
    if block.comment.startswith("file "):
        Path(block.comment.removeprefix("file ")).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        code = compile(block.text, page, "exec")
        if not block.is_checked_only:
            with jax.numpy_dtype_promotion("standard"):
                exec(code, names)
    elif block.language == "bash":
        for words in commands(block.text):
            if block.is_checked_only:
                check_options(words)
            else:
                run_command(replace(words))


def anchors(page: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST name them."""
    headings = _HEADING.findall(_FENCED.sub("", page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str) -> Iterator[str]:
    """Relative links of a document that lead to no file, or to no heading of it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", read_page(name))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            yield link
