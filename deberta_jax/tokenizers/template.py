"""Where special tokens stand around one text or two: the post-processor of a tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deberta_jax.errors import InputError


class Part(NamedTuple):
    """A part of a sequence: a special token, or a text."""

    id: int | None
    """The id of a special token; None for a text."""
    side: int
    """0 for the first text, 1 for the second, -1 for a special token."""
    type_id: int
    """The token type of the part."""


class Template(NamedTuple):
    """The parts of a sequence of one text, and of one of two texts."""

    single: tuple[Part, ...]
    pair: tuple[Part, ...]


# A post-processor that adds nothing.
PLAIN = Template((Part(None, 0, 0),), (Part(None, 0, 0), Part(None, 1, 1)))


def standard_template(cls_id: int, sep_id: int) -> Template:
    """[CLS] A [SEP] and [CLS] A [SEP] B [SEP], with token types 0 and 1."""
    single = Part(cls_id, -1, 0), Part(None, 0, 0), Part(sep_id, -1, 0)
    return Template(single, (*single, Part(None, 1, 1), Part(sep_id, -1, 1)))


def roberta_template(cls_id: int, sep_id: int) -> Template:
    """The same with two separators between the texts, and token types 0."""
    single = Part(cls_id, -1, 0), Part(None, 0, 0), Part(sep_id, -1, 0)
    return Template(single, (*single, Part(sep_id, -1, 0), Part(None, 1, 0), Part(sep_id, -1, 0)))


def class_template(name: object, cls_id: int, sep_id: int) -> Template:
    """The template of a class of transformers whose files have none."""
    if str(name).startswith("GPT2"):
        return PLAIN
    return (roberta_template if str(name).startswith("Roberta") else standard_template)(cls_id, sep_id)


def read_template(processor: Mapping[str, Any] | None) -> Template | None:
    """The template of the `post_processor` in a `tokenizer.json`; None if it has none.

    Raises InputError for a post-processor that is not a template.
    """
    if processor is None:
        return None
    kind = processor.get("type")
    if kind == "Sequence":
        templates = [read_template(each) for each in processor["processors"]]
        present = [template for template in templates if template is not None]
        if len(present) > 1:
            raise InputError("its post-processor has several templates; expected at most one")
        return present[0] if present else None
    if kind == "ByteLevel":
        return None
    if kind in ("BertProcessing", "RobertaProcessing"):
        make = standard_template if kind == "BertProcessing" else roberta_template
        return make(int(processor["cls"][1]), int(processor["sep"][1]))
    if kind != "TemplateProcessing":
        raise InputError(f"its post-processor is of type {kind!r}; expected TemplateProcessing")
    special = {name: value["ids"] for name, value in processor["special_tokens"].items()}
    template = Template(*(tuple(_parts(processor[name], special)) for name in ("single", "pair")))
    for parts, sides in zip(template, ([0], [0, 1]), strict=True):
        if [part.side for part in parts if part.id is None] != sides:
            raise InputError("its post-processor does not contain each text once, the first text first")
    return template


def _parts(items: Sequence[Mapping[str, Any]], special: Mapping[str, Sequence[int]]) -> list[Part]:
    parts = []
    for item in items:
        if "Sequence" in item:
            piece = item["Sequence"]
            parts.append(Part(None, "AB".index(piece["id"]), int(piece["type_id"])))
        else:
            piece = item["SpecialToken"]
            parts += [Part(int(index), -1, int(piece["type_id"])) for index in special[piece["id"]]]
    return parts


def template_json(template: Template, token: Callable[[int], str]) -> dict[str, Any] | None:
    """The `post_processor` of a `tokenizer.json`, None if it adds nothing; `token` gives a token's text."""
    if template == PLAIN:
        return None
    ids = sorted({part.id for part in template.pair + template.single if part.id is not None})
    return {
        "type": "TemplateProcessing",
        "single": [_item(part, token) for part in template.single],
        "pair": [_item(part, token) for part in template.pair],
        "special_tokens": {
            token(index): {"id": token(index), "ids": [index], "tokens": [token(index)]} for index in ids
        },
    }


def _item(part: Part, token: Callable[[int], str]) -> dict[str, Any]:
    if part.id is None:
        return {"Sequence": {"id": "AB"[part.side], "type_id": part.type_id}}
    return {"SpecialToken": {"id": token(part.id), "type_id": part.type_id}}
