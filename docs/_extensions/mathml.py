"""Formulas as MathML, which browsers draw without a script."""

from typing import NoReturn, Protocol

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


class Writer(Protocol):
    """The part of the HTML writer of Sphinx that formulas need."""

    body: list[str]


def inline(writer: Writer, node: nodes.math) -> NoReturn:
    """Write a formula in a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block(writer: Writer, node: nodes.math_block) -> NoReturn:
    """Write a formula in a line of its own, which scrolls if it is wider than the page."""
    writer.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
