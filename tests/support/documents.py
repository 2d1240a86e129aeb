"""The code blocks, commands and links of the documents, and how tests run them as written.

A comment before a block says what a test does with it: `<!-- file NAME -->` writes its text to a file, and
`<!-- checked: REASON -->` only compiles Python and reads the options of commands. Other comments are names.
"""

import contextlib
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

from deberta_jax.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_EXTRA = re.compile(r"(?:\.|deberta-jax ?)\[([\w,]+)\]")
# Other programs in the blocks, which are not run.
_KNOWN = {".", "cd", "export", "git", "pip", "pytest", "python3", "sudo"}


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


def named_block(page: str, name: str) -> str:
    """The text of the block after `<!-- NAME -->`."""
    [text] = [block.text for block in blocks(page) if block.comment == name]
    return text


def lines_of(text: str) -> list[list[str]]:
    """The words of each command of a shell block; lines that end with a backslash are joined."""
    joined = text.replace("\\\n", " ").splitlines()
    return [words for line in joined for part in line.split(" && ") if (words := shlex.split(part, comments=True))]


def commands(text: str) -> list[list[str]]:
    """The words after `deberta-jax` of each such command of a shell block; other programs are checked to be known."""
    matches = []
    for line in lines_of(text):
        # Settings of the environment before a command.
        words = line[next((i for i, word in enumerate(line) if not re.match(r"[A-Z_]+=", word)), len(line)) :]
        program = words[0].rpartition("/")[2] if words else "export"
        if program == "deberta-jax":
            matches.append(words[1:])
        elif program == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words
        else:
            assert program in _KNOWN | {"python"}, words
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


def run_block(block: Block, names: dict[str, Any], page: str) -> None:
    """Run the Python or the commands of a block in the current folder, as a reader would; write its file."""
    if block.comment.startswith("file "):
        Path(block.comment.removeprefix("file ")).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        code = compile(block.text, page, "exec")
        if not block.is_checked_only:
            # The default of JAX; other tests forbid implicit promotion.
            with jax.numpy_dtype_promotion("standard"):
                exec(code, names)
    elif block.language == "bash":
        for words in commands(block.text):
            if block.is_checked_only:
                check_options(words)
            else:
                with jax.numpy_dtype_promotion("standard"):
                    assert main(words) == 0, words


def anchors(page: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST name them."""
    headings = _HEADING.findall(_FENCED.sub("", page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str) -> Iterator[str]:
    """Relative links of a document that lead to no file, or to no heading of it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", read_page(name))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            yield link


@contextlib.contextmanager
def two_devices() -> Iterator[None]:
    """Meshes made in this process have two devices, so that programs are smaller."""
    with mock.patch("jax.devices", return_value=jax.devices()[:2]):
        yield
