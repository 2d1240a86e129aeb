"""English text that is available on every machine: the docstrings of the installed Python packages.

The source files are parsed and never imported.
"""

import ast
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, write_text

# In order: a paragraph that occurs in several packages is used in the first one.
PACKAGES = (
    "stdlib",
    "numpy",
    "scipy",
    "jax",
    "flax",
    "optax",
    "orbax",
    "grain",
    "chex",
    "etils",
    "tensorstore",
    "huggingface_hub",
    "sklearn",
    "matplotlib",
    "networkx",
    "sympy",
    "pip",
    "setuptools",
)
_MAX_CHARACTERS = 10_000_000
_SKIPPED_FOLDERS = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "_vendor", "__pycache__"}
_HELD_OUT_PERCENT = 5
_MIN_WORDS = 12

_DIRECTIVE = re.compile(r"\.\. .*|:\w[\w ]*:.*")
_RULE = re.compile(r"[-=~^*#+\s|]+")
_CODE = re.compile(r"[{}\[\]=<>|\\@]|\w\(")
_WORD = re.compile(r"[A-Za-z][a-z']*")


def write_documentation(folder: Path) -> tuple[Path, Path]:
    """Write `train.txt` and `held_out.txt`, unless both exist; blank lines separate documents. Returns both paths."""
    paths = folder / "train.txt", folder / "held_out.txt"
    if not all(path.exists() for path in paths):
        splits = split_documents(documentation())
        make_folder(folder)
        for path, documents in zip(paths, splits, strict=True):
            write_text(path, "\n\n".join(documents) + "\n")
    return paths


def documentation() -> Iterator[str]:
    """Documents, each with the prose of a module, class or function: one paragraph in a line, no paragraph twice.

    Code, examples, tables and horizontal rules are omitted. The same installation gives the same documents in the same
    order.
    """
    seen: set[bytes] = set()
    size = 0
    for path in _files():
        for docstrings in _docstrings(path):
            paragraphs = []
            for paragraph in (paragraph for text in docstrings for paragraph in prose(text)):
                digest = hashlib.blake2b(paragraph.lower().encode(), digest_size=8).digest()
                if digest not in seen:
                    seen.add(digest)
                    paragraphs.append(paragraph)
            document = "\n".join(paragraphs)
            if len(_WORD.findall(document)) >= _MIN_WORDS:
                yield document
                size += len(document)
        if size > _MAX_CHARACTERS:
            return


def split_documents(documents: Iterator[str]) -> tuple[list[str], list[str]]:
    """Training and held-out documents; one in twenty is held out, decided by its text alone.

    Raises InputError if a split is empty.
    """
    splits: tuple[list[str], list[str]] = [], []
    for document in documents:
        digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
        splits[int.from_bytes(digest) % 100 < _HELD_OUT_PERCENT].append(document)
    if not all(splits):
        raise InputError("the installed Python packages have no documentation to train on; name text files")
    return splits


def prose(docstring: str) -> list[str]:
    """The paragraphs of a docstring that consist of sentences, each on one line."""
    paragraphs: list[str] = []
    lines: list[str] = []
    code_indent: int | None = None  # lines with a deeper indentation are code
    fenced = example = False
    for line in [*docstring.expandtabs().splitlines(), ""]:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("```"):
            fenced = not fenced
            text = ""
        elif fenced or (code_indent is not None and text and indent > code_indent):
            continue
        elif text.startswith(">>>"):
            example = True
        elif text:
            code_indent = None
        if _RULE.fullmatch(text):
            del lines[-1:]  # the heading above it
        elif text and not example and not _DIRECTIVE.fullmatch(text):
            lines.append(text)
        if text.endswith("::") or text.startswith(".. "):
            code_indent = indent
        if not text:
            example = False
            paragraph = _plain(" ".join(lines))
            if _is_prose(paragraph):
                paragraphs.append(paragraph)
            lines = []
    return paragraphs


def _plain(paragraph: str) -> str:
    """The paragraph without reStructuredText markup."""
    paragraph = re.sub(r":[\w:.+-]+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", paragraph)
    paragraph = re.sub(r"`+~?([^`]*?)`+_*", r"\1", paragraph)
    return re.sub(r"\s+", " ", paragraph.replace("**", "").replace("::", ":")).strip()


def _is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    plain = sum(1 for word in words if _WORD.fullmatch(word.strip(".,;:!?()\"'")))
    return len(words) >= 4 and plain >= 0.7 * len(words) and 20 * len(_CODE.findall(paragraph)) <= len(paragraph)


def _files() -> Iterator[Path]:
    paths = sysconfig.get_paths()
    installed = [Path(paths["purelib"]), Path(paths["platlib"])]
    for package in PACKAGES:
        roots = [Path(paths["stdlib"])] if package == "stdlib" else [folder / package for folder in installed]
        root = next((root for root in roots if root.is_dir()), None)
        if root is None:
            continue
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[list[str]]:
    """Groups of docstrings in a file: the module, then each class with its methods, and each function."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # a template, or a file for another version of Python
    yield _docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield [text for inner in [node, *node.body] for text in _docstring(inner)]
        else:
            yield _docstring(node)


def _docstring(node: ast.AST) -> list[str]:
    """The docstring of a node, or an empty list."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        return [docstring] if docstring else []
    # Functions written in C are documented by a call: add_newdoc(module, name, text).
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        values = [inner.value for inner in ast.walk(node.value) if isinstance(inner, ast.Constant)]
        return [value for value in values if isinstance(value, str) and "\n" in value]
    return []
