"""Spans of characters as annotation tools export them, and the words that they tag."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from deberta_jax.tasks.cells import cell_value, is_missing
from deberta_jax.tasks.rows import UnusableRow

# Chinese characters, kana, Thai, Lao, Burmese and Khmer have no spaces between words; others are words of letters and
# digits. Every other character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|[^\w\s]")
# The fields of a span.
_STARTS = "start", "start_offset"
_ENDS = "end", "end_offset"
_LABELS = "label", "labels", "entity_group", "entity", "type", "tag", "hypertextlabels"
_STUDIO_LABELS = {"labels", "hypertextlabels"}
# What Prodigy writes for an example that is not accepted.
_REJECTED = {"reject", "ignore"}


class Span(NamedTuple):
    """The characters from `start` to `end`, and the type of the entity."""

    start: int
    end: int
    label: str


def read_spans(row: Mapping[str, Any], column: str) -> list[Span] | None:
    """Return the spans of a row, in order; None if it is not annotated.

    A span is `[start, end, label]` (Doccano, spaCy) or an object (Prodigy, newer Doccano, Label Studio); Label Studio's
    full export nests it in annotations; the first one that is not cancelled counts.
    """
    if row.get("answer") in _REJECTED:
        raise UnusableRow(f"answer is {row['answer']!r}", malformed=False)
    cell = row.get(column)
    value = cell_value(cell)
    if is_missing(value):
        return None
    if not isinstance(value, list):
        raise UnusableRow(f"{column!r} is no list of spans")
    if any(isinstance(item, dict) and "result" in item for item in value) or (not value and column == "annotations"):
        results = [item["result"] for item in value if not item.get("was_cancelled")]
        if not results:
            return None
        value = [item["value"] for item in results[0] if _STUDIO_LABELS & item.get("value", {}).keys()]
    try:
        return sorted({_span(item) for item in value})
    except (TypeError, ValueError, KeyError, IndexError):
        raise UnusableRow(f"{column!r} has a span without start, end and label") from None


def _span(item: Any) -> Span:
    if isinstance(item, dict):
        start, end, label = (_first(item, names) for names in (_STARTS, _ENDS, _LABELS))
    else:
        start, end, label = item
    if isinstance(label, list):
        label = label[0]
    return Span(int(start), int(end), str(label))


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some fields that an object has; raises KeyError if there is none."""
    return item[next((name for name in names if name in item), names[0])]


def split_words(text: str, tokens: Any = None) -> list[tuple[int, int]]:
    """Return the start and end of each word of a text: those of Prodigy's tokens, if given, else by the characters."""
    if isinstance(tokens, list) and tokens and all(isinstance(token, dict) and "start" in token for token in tokens):
        return [(int(token["start"]), int(token["end"])) for token in tokens]
    return [match.span() for match in _WORD.finditer(text)]


def tag_words(text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Iterator[str]:
    """Yield the tag in IOB2 of each word: of the longest span that overlaps it.

    Raises UnusableRow for a span outside of the text, or without a word.
    """
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise UnusableRow(f"span {span.start} to {span.end} is outside of the text")
    longest = _longest_first(spans)
    previous: Span | None = None
    for start, end in words:
        overlapping = next((span for span in longest if span.start < end and start < span.end), None)
        if overlapping is None:
            yield "O"
        else:
            yield f"{'I' if overlapping == previous else 'B'}-{overlapping.label}"
        previous = overlapping


def lost_spans(spans: Sequence[Span]) -> int:
    """The number of spans that overlap a longer one, whose words have the tags of that one."""
    used: list[Span] = []
    for span in _longest_first(spans):
        if all(span.end <= other.start or other.end <= span.start for other in used):
            used.append(span)
    return len(spans) - len(used)


def _longest_first(spans: Sequence[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.start - span.end)
