"""What the package defines, read from its source without importing it."""

import ast
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "deberta_jax"


class Definition(NamedTuple):
    """A function, a class or a variable, with its module and the docstring of a variable."""

    name: str
    module: "Module"
    node: ast.stmt

    @property
    def doc(self) -> str:
        """The docstring; for a variable, the string after its assignment."""
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return ast.get_docstring(self.node) or ""
        return docs_of_fields(self.module.tree.body).get(self.name, "")


class Module:
    """A module of the package: its definitions, and where the names that it imports come from."""

    def __init__(self, path: Path, root: Path):
        self.path = path.relative_to(root.parent).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in statements(self.tree.body):
            if isinstance(node, ast.ImportFrom) and node.module:
                self.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                # The last function of this name is the implementation of its overloads.
                self.definitions[node.name] = node
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                self.definitions |= {target.id: node for target in targets(node) if isinstance(target, ast.Name)}


class Package:
    """All modules of the package, read when they are first used."""

    def __init__(self, root: Path):
        self.root = root

    @functools.cache  # noqa: B019  (one package per build)
    def module(self, name: str) -> Module | None:
        """A module of this package by its dotted name; None for others."""
        if name.split(".")[0] != PACKAGE:
            return None
        path = self.root.joinpath(*name.split(".")[1:])
        files = [path.with_suffix(".py"), path / "__init__.py"]
        return next((Module(file, self.root) for file in files if file.is_file()), None)

    def find(self, module: Module | None, name: str) -> Definition | None:
        """The definition of a name that a module uses; None for names of other packages."""
        if module is None:
            return None
        if name in module.definitions:
            return Definition(name, module, module.definitions[name])
        if name in module.imports:
            source, original = module.imports[name]
            return self.find(self.module(source), original)
        return None

    @functools.cached_property
    def public_modules(self) -> dict[str, str]:
        """The module of each public name."""
        init = self.module(PACKAGE)
        assert init is not None
        return {name: f"{PACKAGE}.{module}" for name, module in ast.literal_eval(_value(init, "_MODULES")).items()}

    def public(self, name: str) -> Definition | None:
        """The definition of a public name; None for `__version__`, which is computed."""
        module = self.public_modules.get(name)
        return self.find(self.module(module), name) if module else None

    def public_names(self) -> list[str]:
        """All public names, in the order of `__all__`."""
        init = self.module(PACKAGE)
        assert init is not None
        return ast.literal_eval(_value(init, "__all__"))

    def ancestors(self, definition: Definition) -> Iterator[Definition]:
        """A class and its base classes in this package, in the order in which attributes are looked up."""
        yield definition
        assert isinstance(definition.node, ast.ClassDef)
        for base in definition.node.bases:
            parent = self.find(definition.module, base.id) if isinstance(base, ast.Name) else None
            if parent and isinstance(parent.node, ast.ClassDef):
                yield from self.ancestors(parent)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those within its conditions too; of two definitions the later one counts."""
    for node in body:
        yield from statements([*node.body, *node.orelse]) if isinstance(node, ast.If) else [node]


def targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    """What an assignment assigns to."""
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def docs_of_fields(body: list[ast.stmt]) -> dict[str, str]:
    """The strings that follow assignments, by the name of the variable or field."""
    docs = {}
    for node, following in itertools.pairwise(body):
        text = following.value if isinstance(following, ast.Expr) else None
        is_text = isinstance(text, ast.Constant) and isinstance(text.value, str)
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_text:
            docs |= {target.id: text.value for target in targets(node) if isinstance(target, ast.Name)}
    return docs


def _value(module: Module, name: str) -> ast.expr:
    node = module.definitions[name]
    assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    return node.value
