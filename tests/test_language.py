"""Plain English: words and names that do not belong into the code, the documents and the notebooks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "deberta_jax").rglob("*.py"))
CODE = [*PACKAGE, *sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
PROSE = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "notebooks").glob("*.ipynb"),
    *PACKAGE,
    *(ROOT / "deberta_jax").rglob("*.j2"),
    *(ROOT / "benchmarks").rglob("*.py"),
]
# What to write instead stands in CONTRIBUTING.md, "Language".
WORDS = {
    r"\btold\b": "printed, reported, logged",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(is|are) wanted\b": "expected, required",
    r"\b(goes|gone|going|go) on (with|from|after|to)\b": "resume, continue",
    r"\bspared\b": "excluded",
    r"\bat hand\b": "available",
    r"\b(hold|holds|held) still\b": "frozen",
    r"\bst(ood|ands?) in (for|place)\b": "replace, local mock",
    r"\bof (one's|your) own\b": "custom, your own table",
    r"\bbegun\b": "started",
    r"\banew\b": "again",
    r"\b(has|have) not\b(?! (been|changed))": "lacks, without",
    r"\b(spec|peers|paper) \d+(\.\d+)*\b": "docs/numerics.md",
    r"\bthat which\b": "what, the one that",
    r"\bof which\b": "a main clause",
    r"\bwhat (is|are|was) (wanted|asked for|there)\b": "requested, available",
    r"\bto the last bit\b": "bit for bit",
    r"\bby (it|them)sel(f|ves)\b(?= it)": "automatically",
}
NAMES = {"found", "its", "theirs", "told", "wanted", "kept", "places", "held", "mended", "spared", "slopes", "said"}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_plain(path):
    text = path.read_text(encoding="utf-8")
    matches = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, write: {instead}"
        for pattern, instead in WORDS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not matches, "\n".join(matches)


def names_defined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a file defines: variables, arguments, functions, classes and attributes of self."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_nouns_of_the_field(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    matches = [f"{path}:{line}: {name}" for line, name in names_defined(tree) if name.strip("_") in NAMES]
    assert not matches, "\n".join(matches)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert not {name: length for name, length in lengths.items() if length > 60}
