"""The files of the repository: which are pages of the site, and the links between them."""

import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from docstrings import FENCES, slug

# The pages that are copied from outside docs/, by where they lie in the repository.
_COPIES = {"CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()([^()\s#]+)(#[^()\s]*)?(?=\))")
_INLINE_CODE = re.compile(r"(`[^`\n]*`)")
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")


def site_path(path: str) -> str | None:
    """Where a file of the repository is on the site; None if it is not."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path
    return _COPIES.get(path)


class Repository:
    """A checkout, and the address where its branch can be read."""

    def __init__(self, root: Path, address: str, branch: str = "main"):
        self.root, self.address, self.branch = root, address.rstrip("/"), branch

    def url(self, path: str) -> str:
        """The address of a file or folder."""
        kind = "tree" if (self.root / path).is_dir() else "blob"
        return f"{self.address}/{kind}/{self.branch}/{path}"

    def resolve_links(self, text: str, source: str, warn: Callable[[str], None]) -> str:
        """Markdown whose links to files lead to pages of the site, or to the repository for files that are not on it.

        `source` is the path of the text in the repository. Links to files or headings that do not exist are passed to
        `warn`; those to pages of the site are checked later, by Sphinx.
        """

        def target(match: re.Match[str]) -> str:
            link, anchor = match[1], match[2] or ""
            if re.match(r"[a-z]+:", link):
                return match[0]
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            page, here = site_path(path), site_path(source)
            if page is not None and here is not None:
                return posixpath.relpath(page, posixpath.dirname(here) or ".") + anchor
            if path.startswith("..") or not (self.root / path).exists():
                warn(f"{source}: {link} is not a file of the repository")
            elif anchor and path.endswith(".md") and anchor[1:] not in anchors((self.root / path).read_text("utf-8")):
                warn(f"{source}: {path} has no heading for {anchor}")
            return self.url(path) + anchor

        parts = [part for block in FENCES.split(text) for part in _parts(block)]
        return "".join(part if part.lstrip().startswith(("`", "~~~")) else _LINK.sub(target, part) for part in parts)

    def copy_pages(self, docs: Path, warn: Callable[[str], None]) -> None:
        """Copy the notebooks and pages outside docs/ into it, with resolved links, and remove older copies."""
        copies = {
            "docs/" + copy: self._page(path, warn) for path, copy in _COPIES.items() if (self.root / path).exists()
        }
        for path in sorted((self.root / "notebooks").glob("*.ipynb")):
            copies[f"docs/notebooks/{path.name}"] = self._notebook(path, warn)
        for path in (docs / "notebooks").glob("*.ipynb"):
            if f"docs/notebooks/{path.name}" not in copies:
                path.unlink()
        for name, content in copies.items():
            copy = docs / name.removeprefix("docs/")
            if not copy.exists() or copy.read_text("utf-8") != content:
                copy.parent.mkdir(exist_ok=True)
                copy.write_text(content, encoding="utf-8")

    def _page(self, path: str, warn: Callable[[str], None]) -> str:
        return self.resolve_links((self.root / path).read_text("utf-8"), path, warn)

    def _notebook(self, path: Path, warn: Callable[[str], None]) -> str:
        notebook = json.loads(path.read_text("utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                # The site loads no images from other addresses.
                text = _BADGE.sub(r"[Open in Colab](\1){.colab}", "".join(cell["source"]))
                cell["source"] = self.resolve_links(text, f"notebooks/{path.name}", warn)
        return json.dumps(notebook, ensure_ascii=False)


def _parts(block: str) -> list[str]:
    return [block] if FENCES.fullmatch(block) else _INLINE_CODE.split(block)


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a Markdown file on GitHub."""
    outside = FENCES.sub("", text)
    return {slug(heading.replace("`", "")) for heading in re.findall(r"^#+ (.*)$", outside, re.MULTILINE)}
