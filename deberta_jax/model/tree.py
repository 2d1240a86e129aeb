"""Trees of arrays by dotted paths, and copies of modules with some parts replaced."""

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


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
