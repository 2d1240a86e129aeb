"""A unigram SentencePiece model as the parts of `tokenizer.json`."""

import base64
from collections.abc import Mapping
from typing import Any

import sentencepiece

WORD_START = "\u2581"
# Field numbers in sentencepiece_model.proto.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3
_MODEL_TYPE, _CHARSMAP, _PREFIX, _EXTRA_SPACES = 3, 2, 3, 4
_UNIGRAM = 1
# The score of bytes and control pieces: a text that spells their names, as in "<0x41>", is not encoded as them.
_NEVER = -1000.0


def unigram_pipeline(model: sentencepiece.SentencePieceProcessor, content: bytes) -> dict[str, Any] | None:
    """Normalizer, pre-tokenizer, decoder and model for Hugging Face tokenizers; `content` is the model file.

    None if the model is not a unigram model; all released models are. Ids differ from SentencePiece's for several
    marks that follow a letter in another order than Unicode's, and for half-width kana with a mark.
    """
    fields = _fields(content)
    trainer, normalizer = (_fields(fields.get(part, b"")) for part in (_TRAINER_SPEC, _NORMALIZER_SPEC))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        return None
    steps: list[dict] = []
    if charsmap := normalizer.get(_CHARSMAP):
        steps += _COMPOSITION if model.normalize("e\u0301").endswith("\u00e9") else []
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if normalizer.get(_EXTRA_SPACES, 1):
        steps += [_replace("Regex", "^ +| +$", ""), _replace("Regex", " {2,}", " ")]
    pieces = list(map(model.id_to_piece, range(len(model))))
    # Words can be split before encoding if no piece contains the space between two words.
    split = all(WORD_START not in piece[1:] for piece in pieces)
    scheme = "always" if normalizer.get(_PREFIX, 1) else "never"
    spaces = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": scheme, "split": split}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": spaces,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {
            "type": "Unigram",
            "unk_id": model.unk_id(),
            "vocab": [[piece, score] for piece, score in zip(pieces, _scores(model), strict=True)],
            "byte_fallback": any(map(model.is_byte, range(len(model)))),
        },
    }


def changes_ids(settings: Mapping[str, Any]) -> bool:
    """Whether `with_settings` changes a pipeline."""
    return any(settings.get(name) for name in ("do_lower_case", "split_by_punct"))


def with_settings(pipeline: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline with the settings `do_lower_case` and `split_by_punct` of DebertaV2Tokenizer."""
    normalizer, spaces = pipeline["normalizer"], pipeline["pre_tokenizer"]
    if settings.get("do_lower_case"):
        steps = normalizer["normalizers"] if normalizer else []
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    if settings.get("split_by_punct"):
        punctuation = {"type": "Punctuation", "behavior": "Isolated"}
        spaces = {"type": "Sequence", "pretokenizers": [punctuation, spaces]}
    return {**pipeline, "normalizer": normalizer, "pre_tokenizer": spaces}


def _scores(model: sentencepiece.SentencePieceProcessor) -> list[float]:
    """The log probability of each piece; `_NEVER` for pieces that are not matched in a text."""
    kinds = (model.is_byte, model.is_control, model.is_unknown, model.is_unused)
    return [_NEVER if any(kind(index) for kind in kinds) else model.get_score(index) for index in range(len(model))]


def _replace(kind: str, pattern: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _composition() -> list[dict]:
    """Steps that compose a letter with all its marks before `Precompiled`, which composes the first mark only.

    NFC sorts the marks and SentencePiece does not. Marks that are written in another order (shadda in Arabic; dagesh
    and the shin dots in Hebrew) are therefore replaced by noncharacters during the composition.
    """
    substitutes = {mark: chr(0xFDD0 + index) for index, mark in enumerate("\u0651\u05bc\u05c1\u05c2")}
    before = [_replace("String", mark, substitute) for mark, substitute in substitutes.items()]
    after = [_replace("String", substitute, mark) for mark, substitute in substitutes.items()]
    return [*before, {"type": "NFC"}, *after]


_COMPOSITION = _composition()


def _fields(message: bytes) -> dict[int, Any]:
    """Number and value (an integer or bytes) of each field of a protocol buffer; the last value of a repeated field."""
    fields: dict[int, Any] = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            fields[number], position = _varint(message, position)
        else:
            size, position = _varint(message, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            fields[number], position = message[position : position + size], position + size
    return fields


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value, shift, position = value | (byte & 0x7F) << shift, shift + 7, position + 1
        if byte < 0x80:
            return value, position
