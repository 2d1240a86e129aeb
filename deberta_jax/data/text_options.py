"""How documents are read from text files."""

import shlex
from dataclasses import dataclass
from typing import Literal

from deberta_jax.errors import InputError, check_at_least

DocumentName = Literal["blank", "line", "file"]


@dataclass(frozen=True)
class TextOptions:
    """What is a document in each kind of file; the defaults suit all kinds."""

    text_field: str = "text"
    """Field of JSON lines, or column of parquet and arrow files, that contains the text."""
    document: DocumentName = "blank"
    """What ends a document in plain text: a blank line, every line, or the end of the file, then of any extension."""
    max_document_bytes: int = 1 << 24
    """Longest line, row, article or file that is read as one; a longer one is rejected with its position."""

    def __post_init__(self) -> None:
        if not self.text_field:
            raise InputError("text_field is empty; name the field that contains the text")
        if self.document not in ("blank", "line", "file"):
            raise InputError(f"document is {self.document!r}; expected 'blank', 'line' or 'file'")
        check_at_least("max_document_bytes", self.max_document_bytes, 1)

    def settings(self) -> dict[str, object]:
        """The options that determine the documents, without defaults; a limit only rejects text."""
        options = {"text_field": self.text_field, "document": self.document}
        return {name: value for name, value in options.items() if value != getattr(_DEFAULTS, name)}

    def names(self) -> dict[str, object]:
        """The options that are not defaults, as on the command line: {"max-document-bytes": 1000}."""
        names = ("text_field", "document", "max_document_bytes")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(_DEFAULTS, name)}
        return {name.replace("_", "-"): value for name, value in changed.items()}

    def words(self) -> str:
        """The words of a command line for these options: " --document line"."""
        return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in self.names().items())


_DEFAULTS = TextOptions()
