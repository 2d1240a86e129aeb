"""`tokenizer.json`, the file of Hugging Face tokenizers, that gives the ids of a vocabulary."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from deberta_jax.tokenizers.byte_pair import BytePairVocabulary
from deberta_jax.tokenizers.sentencepiece import WORD_START, SentencePieceVocabulary
from deberta_jax.tokenizers.special_tokens import AddedToken

# Numbers of fields in sentencepiece_model.proto.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3
_MODEL_TYPE, _CHARSMAP, _PREFIX, _EXTRA_SPACES = 3, 2, 3, 4
_UNIGRAM = 1
# A score with which a piece is not chosen where a text spells its name, as in "<0x41>".
_NEVER = -1000.0


def tokenizer_json(
    vocabulary: SentencePieceVocabulary | BytePairVocabulary,
    special: Mapping[str, AddedToken],
    added: Sequence[AddedToken],
) -> dict | None:
    """The file's contents: `added` tokens and the `special` ones by role, [CLS] A [SEP] B [SEP] with types 0 and 1.

    None for a SentencePiece model that is not a unigram one, as all released ones are. Ids differ from SentencePiece's
    where several marks follow a letter in an order that is not Unicode's, and for half-width kana with a mark.
    """
    parts = _byte_pair(vocabulary) if isinstance(vocabulary, BytePairVocabulary) else _unigram(vocabulary)
    if parts is None:
        return None
    cls, sep = special["cls"], special["sep"]
    first = [_piece("SpecialToken", cls.text, 0), _piece("Sequence", "A", 0), _piece("SpecialToken", sep.text, 0)]
    second = [_piece("Sequence", "B", 1), _piece("SpecialToken", sep.text, 1)]
    names = {token.text: {"id": token.text, "ids": [token.id], "tokens": [token.text]} for token in (cls, sep)}
    tokens = {token.id: token.to_dict() for token in (*added, *special.values())}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index} | tokens[index] for index in sorted(tokens)],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": names,
        },
        **parts,
    }


def _piece(kind: str, name: str, type_id: int) -> dict:
    return {kind: {"id": name, "type_id": type_id}}


def _byte_pair(vocabulary: BytePairVocabulary) -> dict:
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary.ids,
            "merges": [list(pair) for pair in vocabulary.merges],
        },
    }


def _unigram(vocabulary: SentencePieceVocabulary) -> dict | None:
    model = vocabulary.model
    fields = _fields(vocabulary.path.read_bytes())
    trainer, normalizer = (_fields(fields.get(part, b"")) for part in (_TRAINER_SPEC, _NORMALIZER_SPEC))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        return None
    steps: list[dict] = []
    if charsmap := normalizer.get(_CHARSMAP):
        steps += _COMPOSITION if model.normalize("e\u0301").endswith("\u00e9") else []
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if normalizer.get(_EXTRA_SPACES, 1):
        steps += [_replace("Regex", "^ +| +$", ""), _replace("Regex", " {2,}", " ")]
    pieces = vocabulary.pieces
    # Words can be cut one by one where no piece goes over the space between two.
    split = all(WORD_START not in piece[1:] for piece in pieces)
    scheme = "always" if normalizer.get(_PREFIX, 1) else "never"
    spaces = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": scheme, "split": split}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": spaces,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.unk_id,
            "vocab": [[piece, score] for piece, score in zip(pieces, vocabulary.scores(_NEVER), strict=True)],
            "byte_fallback": vocabulary.has_bytes,
        },
    }


def _replace(kind: str, pattern: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _composition() -> list[dict]:
    """Composes a letter with all of its marks: `Precompiled` takes the shortest entry and loses what follows it.

    Unicode's composition sorts marks, as SentencePiece does not. Those that are written in another order are kept where
    they stand by a code point that is no character: shadda in Arabic; dagesh and the dots of shin in Hebrew.
    """
    kept = {mark: chr(0xFDD0 + place) for place, mark in enumerate("\u0651\u05bc\u05c1\u05c2")}
    there = [_replace("String", mark, stand_in) for mark, stand_in in kept.items()]
    back = [_replace("String", stand_in, mark) for mark, stand_in in kept.items()]
    return [*there, {"type": "NFC"}, *back]


_COMPOSITION = _composition()


def _fields(message: bytes) -> dict[int, Any]:
    """Of a protocol buffer each field's number and value, the last of a repeated one: an integer, or bytes."""
    fields: dict[int, Any] = {}
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            fields[number], place = _varint(message, place)
        else:
            size, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            fields[number], place = message[place : place + size], place + size
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place
