"""The table of vocabulary formats, and how the format of a folder or a file is detected."""

from collections.abc import Mapping
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.tokenizers import byte_pair, sentencepiece
from deberta_jax.tokenizers.tokenizer_json import TOKENIZER_JSON
from deberta_jax.tokenizers.vocabulary import Format, Vocabulary

# In order of priority: a folder may contain the files of several formats.
FORMATS: dict[str, Format] = {
    "sentencepiece": sentencepiece.FORMAT,
    "byte_pair": byte_pair.FORMAT,
    "microsoft_byte_pair": byte_pair.MICROSOFT_FORMAT,
}


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder contains a tokenizer of a known format."""
    return Path(folder).is_dir() and _detect(Path(folder), FORMATS) is not None


def check_tokenizer(folder: Path, alternative: str = "") -> None:
    """Raise InputError if a model folder has no tokenizer; `alternative` ends the message."""
    if not has_tokenizer(folder):
        expected = _file_names(FORMATS)
        raise InputError(
            f"{folder}: no tokenizer in this folder; expected one of {expected}: copy the tokenizer that the model was "
            f"trained with into it{alternative}"
        )


def read_vocabulary(path: Path, formats: Mapping[str, Format] = FORMATS) -> Vocabulary:
    """The vocabulary in a folder or a file; raises InputError if there is none, or if it is damaged."""
    detected = _detect(path, formats)
    if detected is None:
        hint = f" ({TOKENIZER_JSON} alone is not enough)" * (path / TOKENIZER_JSON).is_file()
        raise InputError(
            f"{path}: no tokenizer found; expected one of {_file_names(formats)}{hint}: copy the original file, or "
            "train a tokenizer with `deberta-jax tokenizer`"
        )
    file, vocabulary_format = detected
    return vocabulary_format.read(file)


def _file_names(formats: Mapping[str, Format]) -> str:
    return ", ".join(each.files[0] for each in formats.values())


def _detect(path: Path, formats: Mapping[str, Format]) -> tuple[Path, Format] | None:
    """The file to read and its format. A file on its own is identified by name, else by suffix, else by default."""
    if path.is_dir():
        candidates = ((path / each.files[0], each) for each in formats.values())
        return next(((file, each) for file, each in candidates if file.is_file()), None)
    if not path.is_file():
        return None
    by_name = {each.files[0]: each for each in formats.values()}
    by_suffix = {Path(name).suffix: each for name, each in reversed(by_name.items())}
    return path, by_name.get(path.name) or by_suffix.get(path.suffix) or next(iter(formats.values()))
