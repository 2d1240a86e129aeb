"""The reference of the public names: signatures and docstrings of the source, as Markdown."""

import ast
import copy
import re
from collections.abc import Callable, Iterable

from docstrings import FENCES, inline, markdown
from package_index import PACKAGE, Definition, Module, Package, docs_of_fields

# An alias up to this length is written out in a signature; a longer one links to the list of types.
_SHORT_ALIAS = 48
_SHORT_DEFAULT = 30
_VERSION = "The version of the package."
_NAME = re.compile(r"(?<![\[`])`(dj\.(\w+)(?:\(\.\.\.\))?)`(?!`)")


class Reference:
    """Entries of public names. `url` gives the address of a file of the repository."""

    def __init__(self, package: Package, url: Callable[[str], str]):
        self.package, self.url = package, url
        self.names = frozenset(package.public_names())
        self._mentioned: dict[str, Definition] = {}

    def entries(self, names: Iterable[str]) -> str:
        """The entries of these public names; raises ValueError for a name that is not public."""
        return "\n\n".join(self._entry(name) for name in names)

    def summary(self, names: Iterable[str]) -> str:
        """A table of these public names with the first sentence of their docstrings."""
        rows = []
        for name in names:
            definition = self.package.public(name)
            paragraph = definition.doc.partition("\n\n")[0] if definition else _VERSION
            sentence = re.split(r"(?<=[^.])\.\s", " ".join(paragraph.split()) + " ")[0].rstrip(". ")
            text = inline(sentence.replace("|", "\\|"), self.names)
            rows.append(f"| {{py:obj}}`{name} <{PACKAGE}.{name}>` | {text} |")
        return "\n".join(["| name | description |", "|---|---|", *rows])

    def link_names(self, text: str) -> str:
        """Markdown whose inline code `dj.NAME` links to the entries of public names."""

        def link(match: re.Match[str]) -> str:
            return f"{{py:obj}}`{match[1]} <{PACKAGE}.{match[2]}>`" if match[2] in self.names else match[0]

        parts = FENCES.split(text)
        return "".join(part if FENCES.fullmatch(part) else _NAME.sub(link, part) for part in parts)

    def types(self) -> str:
        """The entries of all types of the package that public signatures mention and that are not public names."""
        self.entries(sorted(self.names))
        entries: dict[str, str] = {}
        while waiting := [name for name in self._mentioned if name not in entries]:
            entries |= {name: self._define(self._mentioned[name], name) for name in waiting}
        return "\n\n".join(entries[name] for name in sorted(entries, key=lambda name: name.rpartition(".")[2].lower()))

    def _entry(self, name: str) -> str:
        if name not in self.names:
            raise ValueError(f"{name} is not a public name of {PACKAGE}")
        definition = self.package.public(name)
        if definition is None:
            return _directive("py:data", name, [_VERSION], type="str", module=PACKAGE)
        return self._define(definition, f"{PACKAGE}.{name}")

    def _define(self, definition: Definition, path: str) -> str:
        """The entry of a definition under the dotted name `path`."""
        module, _, name = path.rpartition(".")
        node, options = definition.node, {"module": module}
        text = [markdown(definition.doc, self.names), self._source(definition)]
        if isinstance(node, ast.FunctionDef):
            return _directive("py:function", name + self._signature(node, definition.module), text, **options)
        if isinstance(node, ast.ClassDef):
            return self._class(definition, name, options)
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(node, ast.AnnAssign):
            annotation = ast.unparse(self._annotation(node.annotation, definition.module))
            return _directive("py:data", name, text, type=annotation, **options)
        assert value is not None
        canonical = ast.unparse(self._annotation(value, definition.module))
        return _directive("py:type", name, text, canonical=canonical, **options)

    def _class(self, definition: Definition, name: str, options: dict[str, str]) -> str:
        node = definition.node
        assert isinstance(node, ast.ClassDef)
        doc, text, signature = definition.doc, [], ""
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not _is_private(item)]
        docs = docs_of_fields(node.body)
        if _is_dataclass(node):
            signature = self._fields_signature(fields, definition.module)
            documented = [(_name(field), docs[_name(field)]) for field in fields if _name(field) in docs]
            text.append("\n".join(f":param {field}: {_line(markdown(doc, self.names))}" for field, doc in documented))
        elif {"NamedTuple", "TypedDict"} & {base.id for base in node.bases if isinstance(base, ast.Name)}:
            text += [self._field(field, docs.get(_name(field), ""), definition.module) for field in fields]
        elif options["module"] == PACKAGE:
            init = self._method(definition, "__init__")
            if init:
                signature = self._signature(init[1], init[0].module)
                doc = f"{doc}\n\n{ast.get_docstring(init[1]) or ''}"
        if options["module"] == PACKAGE:
            text += self._members(definition)
        content = [markdown(doc, self.names), *text, self._source(definition)]
        return _directive("py:class", name + signature, content, **options)

    def _members(self, definition: Definition) -> list[str]:
        """The entries of `__call__`, and of the documented methods and properties that a class defines."""
        assert isinstance(definition.node, ast.ClassDef)
        functions = [item for item in definition.node.body if isinstance(item, ast.FunctionDef)]
        methods = {item.name: (definition, item) for item in functions if not item.name.startswith("_")}
        call = self._method(definition, "__call__")
        members = [*([call] if call else []), *methods.values()]
        return [self._member(owner, method) for owner, method in members if ast.get_docstring(method)]

    def _method(self, definition: Definition, name: str) -> tuple[Definition, ast.FunctionDef] | None:
        """A method of a class or of its bases in this package, and the class that defines it."""
        for owner in self.package.ancestors(definition):
            assert isinstance(owner.node, ast.ClassDef)
            for item in reversed(owner.node.body):
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    return owner, item
        return None

    def _member(self, owner: Definition, node: ast.FunctionDef) -> str:
        decorators = {item.id for item in node.decorator_list if isinstance(item, ast.Name)}
        decorators |= {item.attr for item in node.decorator_list if isinstance(item, ast.Attribute)}
        text = [markdown(ast.get_docstring(node) or "", self.names)]
        if decorators & {"property", "cached_property"}:
            returns = node.returns
            annotation = {"type": ast.unparse(self._annotation(returns, owner.module))} if returns else {}
            return _directive("py:property", node.name, text, depth=3, **annotation)
        flags = {flag: "" for flag in ("classmethod", "staticmethod") if flag in decorators}
        signature = self._signature(node, owner.module, skip_first="staticmethod" not in flags)
        return _directive("py:method", node.name + signature, text, depth=3, **flags)

    def _field(self, field: ast.AnnAssign, doc: str, module: Module) -> str:
        annotation = ast.unparse(self._annotation(field.annotation, module))
        value = {} if field.value is None else {"value": ast.unparse(field.value)}
        return _directive("py:attribute", _name(field), [markdown(doc, self.names)], depth=3, type=annotation, **value)

    def _signature(self, node: ast.FunctionDef, module: Module, skip_first: bool | None = None) -> str:
        arguments = copy.deepcopy(node.args)
        if skip_first or (skip_first is None and arguments.args and arguments.args[0].arg == "self"):
            del arguments.args[0]
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for argument in filter(None, every):
            if argument.annotation:
                argument.annotation = self._annotation(argument.annotation, module)
        arguments.defaults = [self._default(value, module) for value in arguments.defaults]
        arguments.kw_defaults = [value and self._default(value, module) for value in arguments.kw_defaults]
        returns = f" -> {ast.unparse(self._annotation(node.returns, module))}" if node.returns else ""
        return f"({ast.unparse(arguments)}){returns}"

    def _fields_signature(self, fields: list[ast.AnnAssign], module: Module) -> str:
        """The signature of a dataclass."""
        parts = []
        for field in fields:
            annotation = ast.unparse(self._annotation(field.annotation, module))
            default = "" if field.value is None else f" = {ast.unparse(self._default(field.value, module))}"
            parts.append(f"{_name(field)}: {annotation}{default}")
        return f"({', '.join(parts)})"

    def _default(self, value: ast.expr, module: Module) -> ast.expr:
        """A default value; a constant of the package is replaced by its value, a factory by `...`."""
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
            return ast.Constant(...)
        definition = self.package.find(module, value.id) if isinstance(value, ast.Name) else None
        constant = definition.node.value if definition and isinstance(definition.node, ast.Assign) else None
        return constant if constant and len(ast.unparse(constant)) <= _SHORT_DEFAULT else value

    def _annotation(self, annotation: ast.expr, module: Module) -> ast.expr:
        return _Names(self, module).visit(copy.deepcopy(annotation))

    def alias(self, definition: Definition) -> ast.expr | None:
        """The type that a name abbreviates; None for classes and type variables."""
        value = definition.node.value if isinstance(definition.node, ast.Assign | ast.AnnAssign) else None
        return value if isinstance(value, ast.Subscript | ast.BinOp | ast.Name | ast.Attribute) else None

    def path(self, definition: Definition) -> str:
        """The dotted name under which a definition is documented."""
        if definition.name in self.names and self.package.public(definition.name) == definition:
            return f"{PACKAGE}.{definition.name}"
        path = f"{PACKAGE}.{definition.module.path.removesuffix('.py').partition('/')[2].replace('/', '.')}"
        self._mentioned[f"{path}.{definition.name}"] = definition
        return f"{path}.{definition.name}"

    def _source(self, definition: Definition) -> str:
        return f"[Source]({self.url(definition.module.path)}#L{definition.node.lineno})"


class _Names(ast.NodeTransformer):
    """Replaces the names of an annotation: short aliases by their types, others of the package by dotted names."""

    def __init__(self, reference: Reference, module: Module):
        self.reference, self.module = reference, module

    def visit_Name(self, node: ast.Name) -> ast.expr:
        definition = self.reference.package.find(self.module, node.id)
        if definition is None:
            return node
        alias = self.reference.alias(definition)
        if alias is not None:
            value = _Names(self.reference, definition.module).visit(copy.deepcopy(alias))
            if definition.name.startswith("_") or len(ast.unparse(value)) <= _SHORT_ALIAS:
                return value
        elif not isinstance(definition.node, ast.ClassDef):
            return node
        return ast.parse(self.reference.path(definition), mode="eval").body

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return node if ast.unparse(node.value) == "Literal" else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A class that is named before it is defined, as in `-> "Tokenizer"`."""
        definition = self.reference.package.find(self.module, node.value) if isinstance(node.value, str) else None
        return (
            self.visit_Name(ast.Name(node.value)) if definition and isinstance(definition.node, ast.ClassDef) else node
        )


def _directive(name: str, argument: str, content: Iterable[str], depth: int = 5, **options: str) -> str:
    lines = [f"{':' * depth}{{{name}}} {argument}", *(f":{key}: {value}".rstrip() for key, value in options.items())]
    text = "\n\n".join(part for part in content if part)
    return "\n".join([*lines, "", *([text] if text else []), ":" * depth])


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_private(field: ast.AnnAssign) -> bool:
    return _name(field).startswith("_") or "ClassVar" in ast.unparse(field.annotation)


def _name(field: ast.AnnAssign) -> str:
    assert isinstance(field.target, ast.Name)
    return field.target.id


def _line(text: str) -> str:
    return " ".join(text.split())
