"""Model cards: the `README.md` of a model folder, with the metadata that the Hugging Face Hub reads."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.files import write_text
from deberta_jax.hub.config_file import read_config
from deberta_jax.hub.upload import CARD

LIBRARIES = "deberta-jax", "jax", "flax", "optax", "numpy", "scikit-learn"
# A card with this line was not edited, and is written again when the model changes.
_MARK = "<!-- Written by deberta-jax. Delete this line to keep your changes to this file. -->"
_LICENSES = """## License and use

- License of the model: *to be added* (also replace `license: unknown` at the top of this file).
- License of the data: *to be added*.
- Intended use and limitations: *to be added*.
"""
_USE = """## Use

```python
import deberta_jax as dj

model, tokenizer = dj.from_pretrained("{repository}"{head})
```
"""


class Part(NamedTuple):
    """A section of a card: its title, and Markdown text."""

    title: str
    text: str


def card(
    title: str,
    config: DebertaConfig,
    parts: Sequence[Part],
    *,
    metadata: Mapping[str, str],
    head: str | None = None,
    repository: str | None = None,
) -> str:
    """The text of a model card.

    `metadata` are further fields for the Hub, `head` and `repository` the arguments of `from_pretrained`.
    """
    kind = "deberta-v2" if config.model_type == "deberta-v2" else "deberta"
    fields = {
        "library_name": "transformers",
        "license": "unknown",
        **{name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()},
        "tags": f"[{kind}, deberta-jax]",
    }
    front = "\n".join(["---", *(f"{name}: {value}" for name, value in fields.items()), "---"])
    use = _USE.format(repository=repository or "owner/name", head=f', "{head}"' if head else "")
    sections = [f"## {part.title}\n\n{part.text}\n" for part in parts]
    versions = f"## Versions\n\n{', '.join(f'{name} {importlib.metadata.version(name)}' for name in LIBRARIES)}\n"
    return "\n".join([front, _MARK, "", f"# {escape(title)}", "", *sections, use, versions, _LICENSES])


def write_card(folder: Path, text: str) -> Path:
    """Write the card of a model folder, unless the folder has one that a person wrote or edited; returns its path."""
    path = folder / CARD
    if not path.exists() or _MARK in path.read_text(encoding="utf-8", errors="replace"):
        write_text(path, text, errors="replace")
    return path


def write_minimal_card(folder: Path, repository: str | None = None) -> Path:
    """Write a card from the config alone into a folder without one; returns its path."""
    if (folder / CARD).exists():
        return folder / CARD
    config = read_config(folder)
    size = f"{config.num_hidden_layers} layers of width {config.hidden_size}, a vocabulary of {config.vocab_size:,}"
    return write_card(folder, card("DeBERTa", config, [Part("Model", f"{size}.")], metadata={}, repository=repository))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(escape(str(cell)) for cell in line) + " |" for line in lines)


def escape(text: str) -> str:
    """Text in one line, with the characters escaped that Markdown or HTML would interpret."""
    line = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|#" else sign for sign in line)
