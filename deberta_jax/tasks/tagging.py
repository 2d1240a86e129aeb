"""How the tags of words mark entities: prefixes of a scheme, types alone, or not at all."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

# With prefixes (IOB1, IOB2, BIOES), the types of entities without prefixes, or tags that mark no entities.
Tagging = Literal["prefixes", "types", "plain"]
OUTSIDE = "O"
# BILOU and BMES are BIOES with other letters.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
# A prefix that is not one of the schemes; as the name of a type it would be a mistake.
_OTHER_PREFIX = re.compile(r"[BIESLU][_:./].+")
# A larger share of other tags among all means that the tags with prefixes are not entities either.
_MAX_OTHER = 0.05


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is O, or the prefix of a scheme with or without an entity type."""
    prefix, hyphen, kind = tag.partition("-")
    return tag == OUTSIDE or (prefix in _LETTERS and bool(hyphen) == bool(kind))


def is_valid_tag(tag: str, tagging: Tagging) -> bool:
    """Whether a tag belongs to this kind of tags."""
    if tagging == "prefixes":
        return is_entity_tag(tag)
    return bool(tag) and (tagging == "plain" or not _OTHER_PREFIX.fullmatch(tag))


def tagging_of(counts: Mapping[str, int]) -> Tagging:
    """Return how tags with these counts mark entities.

    They have prefixes if nearly all have one, so that a few wrong tags change nothing. Without any prefix, they are
    types if O is the most frequent tag.
    """
    inside = {tag: count for tag, count in counts.items() if tag != OUTSIDE}
    if all(map(is_entity_tag, inside)):
        return "prefixes"
    prefixed = sum(count for tag, count in inside.items() if is_entity_tag(tag) and "-" in tag)
    others = sum(count for tag, count in inside.items() if not is_entity_tag(tag))
    if prefixed:
        return "prefixes" if others < prefixed and others <= _MAX_OTHER * sum(counts.values()) else "plain"
    return "types" if max(counts, key=lambda tag: (counts[tag], tag == OUTSIDE)) == OUTSIDE else "plain"


def to_iob2(tags: Sequence[str], tagging: Tagging = "prefixes") -> list[str]:
    """Return the tags of a sentence with B at the start of each entity and I inside it; plain tags are unchanged.

    IOB1, IOB2 and BIOES are read by the same rule: B, S, O and another type end an entity, and E ends it after this
    word. Words with the same type are one entity if tags are types. A prefix without a type marks entities of one
    unnamed type.
    """
    if tagging == "plain":
        return list(tags)
    converted: list[str] = []
    # The type of the entity that the next word may continue.
    open_kind: str | None = None
    for tag in tags:
        if tag == OUTSIDE:
            converted.append(OUTSIDE)
            open_kind = None
            continue
        prefix, hyphen, kind = ("I", "-", tag) if tagging == "types" else tag.partition("-")
        prefix = _LETTERS[prefix]
        continues = prefix in "IE" and open_kind == kind
        converted.append(f"{'I' if continues else 'B'}{hyphen}{kind}")
        open_kind = None if prefix in "ES" else kind
    return converted


def collect_tags(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the tags of examples: O if it occurs, then the others in order."""
    tags = {tag for example in examples for tag in example.tags or ()}
    return (*sorted({OUTSIDE} & tags), *sorted(tags - {OUTSIDE}))


def count_tags(sentences: Iterable[Iterable[str]]) -> Counter[str]:
    """Count the tags of sentences."""
    return Counter(tag for sentence in sentences for tag in sentence)
