"""`modules.json` of sentence-transformers: which folder contains the transformer, and what follows it."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deberta_jax.errors import InputError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Old versions named the file after the kind of the transformer.
TRANSFORMER_FILES = "sentence_bert_config.json", "sentence_roberta_config.json"
# The modules that can be read, by the last part of their type.
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")


class Module(NamedTuple):
    """A module: its type, and its path relative to the folder, "" for the folder itself."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The name of the class."""
        return self.type.rpartition(".")[2]

    def file(self, name: str) -> str:
        """The path of a file of the module, relative to the folder."""
        return f"{self.path}/{name}" if self.path else name


def read_modules(folder: Path) -> list[Module]:
    """The modules of a sentence-transformers folder, in order; none if the folder has no `modules.json`.

    Raises InputError for a file that is not a list of modules, each with a type and a path inside the folder.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, list) or not values or not all(_is_module(value) for value in values):
        raise InputError(f"{path}: expected a list of modules, each with a type and a path")
    return [Module(value["type"], _clean(path, value["path"])) for value in values]


def transformer_folder(folder: Path) -> Path:
    """The folder with the config, the weights and the tokenizer of a model: a subfolder if `modules.json` names one."""
    modules = read_modules(folder)
    return folder / modules[0].path if modules else folder


def check_modules(path: Path, modules: Sequence[Module]) -> None:
    """Raise InputError unless the modules of a file are a transformer, pooling, and dense layers or normalization."""
    for module in modules:
        if module.kind not in KINDS or not module.type.startswith("sentence_transformers."):
            raise InputError(f"{path}: the module {module.type} is not supported, only {', '.join(KINDS)}")
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) & {"Transformer", "Pooling"}:
        raise InputError(f"{path}: expected one Transformer and one Pooling at the start, not {', '.join(kinds)}")


def _is_module(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("path"), str)


def _clean(path: Path, module_path: str) -> str:
    """The path of a module without a slash at its end; raises InputError if it leaves the folder."""
    relative = PurePosixPath(module_path.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or ":" in module_path:
        raise InputError(f"{path}: the module path {module_path!r} is outside the folder")
    return "" if str(relative) == "." else str(relative)
