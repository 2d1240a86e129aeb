"""The vocabulary of BERT's tokenizers, `vocab.txt`, which Chinese, Korean and other DeBERTas use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.library import LibraryVocabulary
from deberta_jax.tokenizers.special_tokens import UNK
from deberta_jax.tokenizers.vocabulary import Format, check_class

VOCAB_TXT = "vocab.txt"
# Words of more characters are unknown.
_MAX_WORD = 100
_BERT = "Bert", "DistilBert", "Electra"
_CLASSES = *_BERT, "Deberta", "DebertaV2"


def is_bert(name: object) -> bool:
    """Whether a class of transformers is BertTokenizer or one of its kind, slow or fast."""
    return isinstance(name, str) and name.removesuffix("Fast").removesuffix("Tokenizer") in _BERT


def bert_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a BertNormalizer that `tokenizer_config.json` decides on, with the defaults of BertTokenizer."""
    return {
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": bool(settings.get("do_lower_case", True)),
    }


def _read_vocab_txt(path: Path, settings: Mapping[str, Any]) -> LibraryVocabulary:
    """One token in a line; settings as those of BertTokenizer."""
    check_class(path, settings, _CLASSES)
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; download or copy it again") from None
    tokens = [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = settings.get("unk_token")
    model = {
        "type": "WordPiece",
        "unk_token": unknown if isinstance(unknown, str) else UNK,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": _MAX_WORD,
        "vocab": vocab,
    }
    pipeline = {
        "normalizer": {"type": "BertNormalizer", "clean_text": True} | bert_options(settings),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": model,
    }
    return LibraryVocabulary(path, pipeline, files={VOCAB_TXT: path})


FORMAT = Format((VOCAB_TXT,), _read_vocab_txt)
