"""The documentation site: `sphinx-build -W --keep-going -n docs docs/_build/html` builds it, offline."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

_DOCS = Path(__file__).parent
_ROOT = _DOCS.parent
sys.path[:0] = [str(_DOCS / "_extensions"), str(_ROOT)]

import command_reference
import mathml
from api_reference import Reference
from package_index import PACKAGE, Package
from repository import Repository

_log = logging.getLogger(__name__)
_settings = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_repository = Repository(_ROOT, _settings["urls"]["Repository"])
_reference = Reference(Package(_ROOT / PACKAGE), _repository.url)

project = _settings["name"]
release = version = _settings["version"]
author = "The deberta-jax authors"
copyright = author
html_title = f"{project} {release}"

extensions = ["myst_nb"]
exclude_patterns = ["_build", "_extensions"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": _repository.address,
    "source_branch": _repository.branch,
    "source_directory": "docs/",
    "footer_icons": [{"name": "GitHub", "url": _repository.address, "html": "GitHub", "class": ""}],
}
highlight_language = "none"
# Quotation marks stay as they are, since many of them are Python strings.
smartquotes_action = "D"
html_copy_source = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "tango", "monokai"

myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath", "fieldlist"]
myst_dmath_allow_space = myst_dmath_allow_digits = False
myst_heading_anchors = 4
# Notebooks are stored with their outputs.
nb_execution_mode = "off"

# Names of other libraries in signatures.
nitpick_ignore_regex = [("py:.*", r"(?!deberta_jax\.).*")]
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
option_emphasise_placeholders = False

_BLOCK = re.compile(r"^```\{(public-names|public-types|commands)\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _copy_pages(app: Sphinx, _: object) -> None:
    _repository.copy_pages(Path(app.srcdir), _log.warning)


def _complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the blocks that stand for generated text, and links to files that are not on the site."""
    if page.startswith("notebooks/") or page == "changelog":
        return
    text = _repository.resolve_links(source[0], f"docs/{page}.md", _log.warning)
    source[0] = _BLOCK.sub(_generate, _reference.link_names(text))


def _generate(block: re.Match[str]) -> str:
    if block[1] == "commands":
        return command_reference.render()
    if block[1] == "public-types":
        return _reference.types()
    names = block[2].split()
    return "\n\n".join([_reference.summary(names), _reference.entries(names)])


def _add_source_link(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """The links to view and edit a page: notebooks and the changelog are not in docs/."""
    if page.startswith("notebooks/"):
        context["theme_source_directory"] = ""
    elif page == "changelog":
        context["theme_source_repository"] = ""


def _mark_options(app: Sphinx, tree: nodes.document) -> None:
    """Options in the text get a class of their own: a browser would end a line after their hyphens."""
    for literal in tree.findall(nodes.literal):
        if re.fullmatch(r"--[\w.-]+", literal.astext()):
            literal["classes"].append("one-line")


def setup(app: Sphinx) -> None:
    """Register the steps before pages are read."""
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.block, None))
    app.connect("config-inited", _copy_pages)
    app.connect("source-read", _complete)
    app.connect("doctree-read", _mark_options)
    app.connect("html-page-context", _add_source_link, priority=100)
