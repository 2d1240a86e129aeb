"""About 15 MB of English text to pretrain small models on, without text of the development and test sets."""

import json
from collections.abc import Iterator
from pathlib import Path

from deberta_jax.files import write_text


def write_documents(data: Path, file: Path) -> None:
    """Write the documents of DATA to a text file, one paragraph each, unless it exists."""
    if not file.exists():
        write_text(file, "\n\n".join(documents(data)) + "\n")
    print(f"text: {file.stat().st_size / 1e6:.1f} MB", flush=True)


def documents(data: Path) -> Iterator[str]:
    """Yield paragraphs of books and articles, contexts of SQuAD, and training sentences of GLUE and SuperGLUE."""
    for path in sorted((data / "gutenberg").glob("*.txt")):
        yield from _paragraphs(path.read_text(encoding="utf-8", errors="replace"))
    for name in ("wikitext-2/valid.txt", "wikitext-2/test.txt", "wikitext-103-part/wiki.train.tokens"):
        yield from _paragraphs((data / name).read_text(encoding="utf-8").replace(" @-@ ", "-").replace("\n", "\n\n"))
    for path in sorted((data / "squad").glob("*.json")):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                yield " ".join(paragraph["context"].split())
    for name, columns in (("CoLA", (3,)), ("RTE", (1, 2)), ("SST-2", (0,)), ("STS-B", (7, 8))):
        lines = (data / f"glue/{name}/train.tsv").read_text(encoding="utf-8").splitlines()
        for line in lines[name != "CoLA" :]:
            fields = line.split("\t")
            yield from (fields[column].strip() for column in columns if fields[column].strip())
    for path in sorted((data / "superglue").glob("*/train.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            yield from (values[name] for name in ("premise", "hypothesis", "choice1", "choice2") if values.get(name))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        words = paragraph.split()
        if len(words) > 5:
            yield " ".join(words)
