"""Docstrings and help texts as Markdown of the site."""

import inspect
import re
import textwrap
from collections.abc import Collection

from package_index import PACKAGE

_SECTION = re.compile(
    r"(Args|Attributes|Returns|Yields|Raises|Examples?|Notes?|Source|References?|Units):(?:\s+(.*))?$"
)
_ITEM = re.compile(r"([\w*, ]+):\s+(.*)")
# A page that a docstring names, as in `docs/numerics.md, "Masking of text"`.
_PAGE = re.compile(r"docs/([a-z_]+)\.md(?:,\s+\"([^\"]+)\")?")
FENCES = re.compile(r"(^[ \t]*(?:```|~~~).*?^[ \t]*(?:```|~~~)[ \t]*$)", re.MULTILINE | re.DOTALL)
# Code in backticks, and options of the command line.
_CODE = re.compile(r"(`[^`]*`|(?<![\w/-])--[a-z][\w.-]*\w(?:\.\*)?)")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def inline(text: str, names: Collection[str] = ()) -> str:
    """Plain text with code in backticks as Markdown: public names, options and pages become links or code."""
    return "".join(
        _code(part.strip("`"), names) if _CODE.fullmatch(part) else _plain(part, names) for part in _CODE.split(text)
    )


def _code(code: str, names: Collection[str]) -> str:
    name = code.removesuffix("(...)").removeprefix("dj.")
    # Words such as `rank` and `layer` are arguments and axes too.
    is_name = name in names and (code.startswith("dj.") or not name.isalpha() or not name.islower())
    return f"{{py:obj}}`{code} <{PACKAGE}.{name}>`" if is_name else f"`{' '.join(code.split())}`"


def _plain(text: str, names: Collection[str]) -> str:
    text = re.sub(r"([\\*<])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    # Signs that begin a heading, a list or a quotation at the start of a line.
    text = re.sub(r"^(\s*)([+#>])", r"\1\\\2", text, flags=re.MULTILINE)
    if "InputError" in names:
        text = re.sub(r"\bInputError\b", f"{{py:exc}}`InputError <{PACKAGE}.InputError>`", text)
    return _PAGE.sub(_link, text)


def _link(match: re.Match[str]) -> str:
    page, heading = match[1], match[2]
    if heading is None:
        return f"[{page}]({page}.md)"
    heading = " ".join(heading.split())
    return f"[{page}, “{heading}”]({page}.md#{slug(heading)})"


def markdown(doc: str, names: Collection[str] = ()) -> str:
    """A docstring with the sections of Google's style as Markdown with field lists."""
    lines = inspect.cleandoc(doc).splitlines()
    blocks: list[str] = []
    fields: list[str] = []
    position = 0
    while position < len(lines):
        section = _SECTION.match(lines[position])
        body, after = _body(lines, position + 1)
        if section is None or not (body or section[2]):
            start = position
            while position < len(lines) and not (position > start and _begins_section(lines, position)):
                position += 1
            blocks.append(_text("\n".join(lines[start:position]), names))
            continue
        text = "\n".join(filter(None, [section[2], textwrap.dedent("\n".join(body))]))
        if section[1] in ("Args", "Raises"):
            kind = "param" if section[1] == "Args" else "raises"
            items = [(name, value) for group, value in _items(text) for name in group.split(", ")]
            fields += [f":{kind} {name}: {inline(value, names)}" for name, value in items]
        elif section[1] == "Attributes":
            items = [f"  - **{name}** – {inline(value, names)}" for name, value in _items(text)]
            fields += [":Attributes:", *items]
        elif section[1] in ("Returns", "Yields"):
            fields.append(f":{section[1].lower()}: {inline(' '.join(text.split()), names)}")
        elif section[1].startswith("Example"):
            blocks.append(_example(text, names))
        else:
            blocks.append(f"**{section[1]}.** {_text(text, names)}")
        position = after
    # Fields follow the text that explains them, and examples come last.
    texts = [block for block in blocks if not block.startswith("```")]
    examples = [block for block in blocks if block.startswith("```")]
    return "\n\n".join(filter(None, [*texts, "\n".join(fields), *examples])).strip()


def _begins_section(lines: list[str], position: int) -> bool:
    section = _SECTION.match(lines[position])
    return section is not None and bool(section[2] or _body(lines, position + 1)[0])


def _body(lines: list[str], start: int) -> tuple[list[str], int]:
    """The indented lines from `start`, and the position after them."""
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
        end += 1
    body = lines[start:end]
    return (body, end) if any(line.strip() for line in body) else ([], end)


def _items(text: str) -> list[tuple[str, str]]:
    """The entries `name: text` of a section, each with the indented lines that continue it."""
    items: list[tuple[str, str]] = []
    for line in text.splitlines():
        match = None if line.startswith(" ") else _ITEM.match(line)
        if match:
            items.append((match[1].replace("*", ""), match[2]))
        elif items:
            items[-1] = items[-1][0], f"{items[-1][1]} {line.strip()}".strip()
        elif line.strip():
            raise ValueError(f"expected 'name: text' in a docstring, got {line!r}")
    return items


def _example(text: str, names: Collection[str]) -> str:
    if "```" in text:
        return text.strip()
    if ">>>" in text:
        return _text(text, names)
    return f"```python\n{text.strip()}\n```"


def _text(text: str, names: Collection[str]) -> str:
    """Paragraphs, lists, and code: in fences, indented, or with the prompt of Python."""
    blocks = []
    for block in re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL):
        if block.startswith("```"):
            blocks.append(block)
            continue
        for paragraph in re.split(r"\n\s*\n", block):
            if not paragraph.strip():
                continue
            if paragraph.lstrip().startswith(">>>"):
                blocks.append(f"```pycon\n{textwrap.dedent(paragraph).strip()}\n```")
            elif paragraph.startswith("    "):
                blocks.append(f"```python\n{textwrap.dedent(paragraph)}\n```")
            else:
                blocks.append(inline(paragraph, names))
    return "\n\n".join(blocks)
