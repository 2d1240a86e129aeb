"""Modules as values: copies with some parts replaced."""

from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")


def replace_parts(module: Tree, parts: dict[str, Any]) -> Tree:
    """A copy of a module in which the attributes at dotted paths are replaced; the module itself does not change.

    `replace_parts(model, {"deberta.embeddings.word": table})`. Arrays are shared with the original, not copied.
    """
    copy = jax.tree.map(lambda leaf: leaf, module)
    for path, part in parts.items():
        *parents, name = path.split(".")
        owner: Any = copy
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, part)
    return copy
