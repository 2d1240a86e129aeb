"""`tokenizer.json`, the file of Hugging Face tokenizers: what transformers 5 saves, often without any other file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.tokenizers.byte_pair import BYTE_PAIR_FILES, BytePairVocabulary, parse_merges
from deberta_jax.tokenizers.library import PIPELINE, LibraryVocabulary, digest, findable
from deberta_jax.tokenizers.sentencepiece import OTHER_NAMES, SPM_MODEL, SentencePieceVocabulary
from deberta_jax.tokenizers.special_tokens import MAX_ID, AddedToken, gap_token
from deberta_jax.tokenizers.template import PLAIN, Template, read_template, template_json
from deberta_jax.tokenizers.vocabulary import GENERIC_CLASSES, Format, Vocabulary
from deberta_jax.tokenizers.word_piece import VOCAB_TXT, bert_options, is_bert

TOKENIZER_JSON = "tokenizer.json"
# What GPT-2's byte pair encoding does not have.
_NOT_GPT2 = "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"


def read_tokenizer_json(path: Path, settings: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in a `tokenizer.json`; raises InputError for content that the library does not read.

    Vocabularies that are DeBERTa's own are encoded by SentencePiece, if its file is in the folder and says the same,
    or as in v1.
    """
    document = read_json(path)
    if not isinstance(document.get("model"), dict):
        raise InputError(f"{path}: not a tokenizer.json (it has no model); download or copy it again")
    try:
        added, template = _added_tokens(document), _template(document, settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its added tokens or its post-processor are invalid ({error!r}); download or copy it again"
        ) from None
    byte_pair = _gpt2(path, document, settings, added, template)
    if byte_pair is not None:
        return byte_pair
    if (pieces := _sentencepiece(path, document)) is not None:
        pieces.added, pieces.template = tuple(added), template
        return pieces
    files = {name: path.with_name(name) for name in (SPM_MODEL, VOCAB_TXT) if path.with_name(name).is_file()}
    return LibraryVocabulary(path, _pipeline(document, settings), files=files, added=added, template=template)


def _added_tokens(document: Mapping[str, Any]) -> list[AddedToken]:
    """The added tokens of the file with the ids that the library gives them."""
    flags = "lstrip", "rstrip", "single_word", "special", "normalized"
    tokens = []
    for value in document.get("added_tokens") or ():
        index = int(value["id"])
        if not 0 <= index < MAX_ID:
            raise ValueError(f"a token has the id {index}, expected less than {MAX_ID}")
        tokens.append(AddedToken(str(value["content"]), index, **{flag: bool(value.get(flag)) for flag in flags}))
    return tokens


def _template(document: Mapping[str, Any], settings: Mapping[str, Any]) -> Template | None:
    """The template of the file; without one, that of the class in `tokenizer_config.json`, which may add nothing."""
    template = read_template(document.get("post_processor"))
    return PLAIN if template is None and settings.get("tokenizer_class") in GENERIC_CLASSES else template


def _pipeline(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline of the file, with the settings of `tokenizer_config.json` that its class applies to any file."""
    pipeline = {part: document.get(part) for part in PIPELINE}
    pre_tokenizer = pipeline["pre_tokenizer"]
    name, normalizer = settings.get("tokenizer_class"), pipeline["normalizer"]
    if isinstance(pre_tokenizer, dict) and "add_prefix_space" in pre_tokenizer and name != "TokenizersBackend":
        # The classes of DebertaTokenizer and RobertaTokenizer have False as the default, whatever the file says.
        default = pre_tokenizer["add_prefix_space"] if name in GENERIC_CLASSES else False
        space = bool(settings.get("add_prefix_space", default))
        pipeline["pre_tokenizer"] = pre_tokenizer | {"add_prefix_space": space}
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer" and is_bert(name):
        pipeline["normalizer"] = normalizer | bert_options(settings)
    return pipeline


def _gpt2(
    path: Path,
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    added: Sequence[AddedToken],
    template: Template | None,
) -> BytePairVocabulary | None:
    """The vocabulary if it is a byte pair encoding as in v1, else None."""
    pipeline = _pipeline(document, settings)
    model, pre_tokenizer = pipeline["model"], pipeline["pre_tokenizer"] or {}
    is_plain = not any(model.get(name) for name in _NOT_GPT2) and not model.get("ignore_merges")
    is_bytes = pre_tokenizer.get("type") == "ByteLevel" and pre_tokenizer.get("use_regex", True)
    if model.get("type") != "BPE" or not (is_plain and is_bytes) or pipeline["normalizer"] or not model.get("vocab"):
        return None
    try:
        beside = (file for name in BYTE_PAIR_FILES if (file := path.with_name(name)).is_file())
        return BytePairVocabulary(
            [path, *beside],
            {str(token): int(index) for token, index in model["vocab"].items()},
            parse_merges(["#version", *(model.get("merges") or ())], path),
            add_prefix_space=pre_tokenizer["add_prefix_space"],
            added=added,
            template=template,
        )
    except InputError:
        # The library reads vocabularies that training does not give.
        return None


def _sentencepiece(path: Path, document: Mapping[str, Any]) -> SentencePieceVocabulary | None:
    """The SentencePiece model beside the file, if the file says the same as the model; else None."""
    beside = next((file for name in (SPM_MODEL, *OTHER_NAMES) if (file := path.with_name(name)).is_file()), None)
    if beside is None or document["model"].get("type", "Unigram") != "Unigram":
        return None
    try:
        pieces = SentencePieceVocabulary(beside)
    except InputError:
        return None
    pipeline = pieces.saved().pipeline
    if pipeline is None:
        return None
    stored = {part: document.get(part) for part in PIPELINE}
    is_same = pipeline["model"].keys() <= document["model"].keys() and digest(pipeline) == digest(stored)
    return pieces if is_same else None


def tokenizer_json(
    pipeline: Mapping[str, Any],
    size: int,
    special: Mapping[str, AddedToken],
    added: Sequence[AddedToken],
    template: Template,
) -> dict[str, object]:
    """The content of the file: the `pipeline` of a vocabulary of `size` ids, `special` tokens by role, `added` tokens.

    Ids without a token get one that no text contains.
    """
    tokens = {token.id: token for token in (*added, *special.values())}
    gaps = [index for index in range(size, max(tokens) + 1) if index not in tokens]
    every = tokens | {index: AddedToken(gap_token(index), index) for index in gaps}
    order = findable(pipeline, [every[index] for index in sorted(every)])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token.id} | token.to_dict() for token in order],
        "post_processor": template_json(template, lambda index: tokens[index].text),
        **pipeline,
    }


FORMAT = Format((TOKENIZER_JSON,), read_tokenizer_json)
