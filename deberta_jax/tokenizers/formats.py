"""The table of vocabulary formats, and how the format of a folder or a file is detected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tokenizers import byte_pair, sentencepiece, tokenizer_json, word_piece
from deberta_jax.tokenizers.special_tokens import ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from deberta_jax.tokenizers.vocabulary import Format, Vocabulary

# In order of priority: a folder may contain the files of several formats.
FORMATS: dict[str, Format] = {
    "tokenizer_json": tokenizer_json.FORMAT,
    "sentencepiece": sentencepiece.FORMAT,
    "byte_pair": byte_pair.FORMAT,
    "microsoft_byte_pair": byte_pair.MICROSOFT_FORMAT,
    "word_piece": word_piece.FORMAT,
}
# All files of a tokenizer folder.
FILES = (
    *(name for each in FORMATS.values() for name in (*each.names, *each.others)),
    *(TOKENIZER_CONFIG, ADDED_TOKENS, SPECIAL_TOKENS_MAP),
)


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder contains a tokenizer of a known format."""
    return Path(folder).is_dir() and _detect(Path(folder), FORMATS) is not None


def check_tokenizer(folder: Path, alternative: str = "") -> None:
    """Raise InputError if a model folder has no tokenizer; `alternative` ends the message."""
    if not has_tokenizer(folder):
        raise InputError(
            f"{folder}: no tokenizer in this folder{_expected(folder, FORMATS)}: copy the tokenizer that the model was "
            f"trained with into it{alternative}"
        )


def read_vocabulary(path: Path, settings: Mapping[str, Any], formats: Mapping[str, Format] = FORMATS) -> Vocabulary:
    """The vocabulary in a folder or a file, with the settings of `tokenizer_config.json`.

    Raises InputError if there is none, or if it is damaged.
    """
    detected = _detect(path, formats)
    if detected is None:
        raise InputError(
            f"{path}: no tokenizer found{_expected(path, formats)}: copy the original file, or train a tokenizer with "
            "`deberta-jax tokenizer`"
        )
    file, vocabulary_format = detected
    return vocabulary_format.read(file, settings)


def _expected(folder: Path, formats: Mapping[str, Format]) -> str:
    """The files that were expected, and those of a tokenizer that are there but are not enough."""
    expected = ", ".join(each.names[0] for each in formats.values())
    present = [name for name in FILES if (folder / name).is_file()]
    return f"; expected one of {expected}" + (f", found only {', '.join(present)}" if present else "")


def _detect(path: Path, formats: Mapping[str, Format]) -> tuple[Path, Format] | None:
    """The file to read and its format. A file on its own is identified by name, else by suffix, else by default."""
    if path.is_dir():
        candidates = ((path / name, each) for each in formats.values() for name in each.names)
        return next(((file, each) for file, each in candidates if file.is_file()), None)
    if not path.is_file():
        return None
    by_name = {name: each for each in formats.values() for name in each.names}
    by_suffix = {".json": byte_pair.FORMAT, ".bin": byte_pair.MICROSOFT_FORMAT, ".txt": word_piece.FORMAT}
    return path, by_name.get(path.name) or by_suffix.get(path.suffix) or sentencepiece.FORMAT
