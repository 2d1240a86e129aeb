"""Formulas as MathML, which browsers draw without a script."""

from typing import NoReturn, Protocol

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from docutils.utils.math.unichar2tex import uni2tex_table
from sphinx.util import logging

_log = logging.getLogger(__name__)
_COMMANDS = {code: command for code, command in uni2tex_table.items() if code > 127}
# Signs that the table of docutils lacks.
_COMMANDS |= {ord("⟦"): r"\llbracket ", ord("⟧"): r"\rrbracket ", ord("·"): r"\cdot "}


class Writer(Protocol):
    """The part of the HTML writer of Sphinx that formulas need."""

    body: list[str]


def inline(writer: Writer, node: nodes.math) -> NoReturn:
    """Write a formula in a line."""
    writer.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def block(writer: Writer, node: nodes.math_block) -> NoReturn:
    """Write a formula in a line of its own, which scrolls if it is wider than the page."""
    writer.body.append(f'<div class="formula">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def _mathml(node: nodes.math | nodes.math_block, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext().translate(_COMMANDS), as_block=as_block)
    except MathError as error:
        _log.warning("formula %r: %s", node.astext(), error, location=node)
        return ""
