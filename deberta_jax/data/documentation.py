"""English that every machine has: the documentation of the Python packages installed beside this one.

Read from their sources, which are parsed and never imported.
"""

import ast
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from deberta_jax.errors import InputError

# In this order; where a paragraph stands in several, the first has it.
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
_LARGEST = 10_000_000
_SKIPPED = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "_vendor", "__pycache__"}
_HELD_OUT_PERCENT = 5
_FEWEST_WORDS = 12

_DIRECTIVE = re.compile(r"\.\. .*|:\w[\w ]*:.*")
_RULE = re.compile(r"[-=~^*#+\s|]+")
_CODE = re.compile(r"[{}\[\]=<>|\\@]|\w\(")
_WORD = re.compile(r"[A-Za-z][a-z']*")


def write_documentation(folder: Path) -> tuple[Path, Path]:
    """`train.txt` and `held_out.txt` in `folder`, blank lines between documents; kept where they stand."""
    paths = folder / "train.txt", folder / "held_out.txt"
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        for path, documents in zip(paths, split(documentation()), strict=True):
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
            os.replace(temporary, path)
    return paths


def documentation() -> Iterator[str]:
    """Documents, each the prose of a module, class or function: paragraphs, one a line, no paragraph twice.

    Code, examples, tables and rules are left out. The same installation gives the same documents in the same order.
    """
    seen: set[bytes] = set()
    size = 0
    for path in _files():
        for docstrings in _docstrings(path):
            paragraphs = []
            for paragraph in (paragraph for text in docstrings for paragraph in prose(text)):
                mark = hashlib.blake2b(paragraph.lower().encode(), digest_size=8).digest()
                if mark not in seen:
                    seen.add(mark)
                    paragraphs.append(paragraph)
            document = "\n".join(paragraphs)
            if len(_WORD.findall(document)) >= _FEWEST_WORDS:
                yield document
                size += len(document)
        if size > _LARGEST:
            return


def split(documents: Iterator[str]) -> tuple[list[str], list[str]]:
    """Those to train on and those held out, one in twenty: by its text alone, so a document never changes sides."""
    sides: tuple[list[str], list[str]] = [], []
    for document in documents:
        digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
        sides[int.from_bytes(digest) % 100 < _HELD_OUT_PERCENT].append(document)
    if not all(sides):
        raise InputError("no documentation is found beside this Python's packages; name text files to train on")
    return sides


def prose(docstring: str) -> list[str]:
    """The paragraphs of a docstring that are sentences, each on one line."""
    paragraphs: list[str] = []
    lines: list[str] = []
    hidden: int | None = None  # what is indented deeper than this is code
    fenced = example = False
    for line in [*docstring.expandtabs().splitlines(), ""]:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("```"):
            fenced = not fenced
            text = ""
        elif fenced or (hidden is not None and text and indent > hidden):
            continue
        elif text.startswith(">>>"):
            example = True
        elif text:
            hidden = None
        if _RULE.fullmatch(text):
            del lines[-1:]  # the heading above it
        elif text and not example and not _DIRECTIVE.fullmatch(text):
            lines.append(text)
        if text.endswith("::") or text.startswith(".. "):
            hidden = indent
        if not text:
            example = False
            paragraph = _plain(" ".join(lines))
            if _is_prose(paragraph):
                paragraphs.append(paragraph)
            lines = []
    return paragraphs


def _plain(paragraph: str) -> str:
    """Without the marks of reStructuredText."""
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
            folders[:] = sorted(name for name in folders if name not in _SKIPPED)
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[list[str]]:
    """Those of a file, in order: of the module, then of each class with its methods and of each function."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # templates and files for other versions of Python; they are few
    yield _of(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield [text for inner in [node, *node.body] for text in _of(inner)]
        else:
            yield _of(node)


def _of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        return [docstring] if docstring else []
    # What is written in C is documented beside it: add_newdoc(module, name, text).
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        values = [inner.value for inner in ast.walk(node.value) if isinstance(inner, ast.Constant)]
        return [value for value in values if isinstance(value, str) and "\n" in value]
    return []
