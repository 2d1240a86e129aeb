"""What the tokenizer needs of a vocabulary, and how a vocabulary format is declared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.segments import Encoded, Encoder
from deberta_jax.tokenizers.special_tokens import TOKENIZER_CONFIG, AddedToken
from deberta_jax.tokenizers.template import Template

# Classes of transformers that read any `tokenizer.json`, and have no special tokens of their own.
GENERIC_CLASSES = "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"


class SavedVocabulary(NamedTuple):
    """What a vocabulary adds to a tokenizer folder."""

    files: dict[str, bytes]
    """The content of each file of the vocabulary, by name."""
    tokenizer_class: str
    """The class of transformers that reads these files, used if there is no `pipeline`."""
    settings: Mapping[str, object]
    """Further values of `tokenizer_config.json`."""
    pipeline: dict[str, Any] | None
    """`normalizer`, `pre_tokenizer`, `decoder` and `model` of `tokenizer.json`; None if these cannot express it."""


@runtime_checkable
class Vocabulary(Protocol):
    """Token ids of text in which no special or added token is recognized."""

    path: Path
    """The file that identifies the vocabulary."""
    size: int
    """One more than the highest id."""
    sha256: str
    """A digest of the content, equal for vocabularies that give the same ids."""
    default_ids: Mapping[str, int]
    """Ids of "unk" and "mask" where the file has no token of that name; empty if the file must have both."""
    mask_strips_space: bool
    """Whether [MASK] includes the white space before it."""
    added: tuple[AddedToken, ...]
    """The added tokens in the vocabulary's own file."""
    template: Template | None
    """Where special tokens stand, if the file says so."""

    def id_of(self, token: str) -> int | None:
        """The id of a token, or None if it is not in the vocabulary."""

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it."""

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text."""

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of each text, with the start and end of each token in characters, without white space at the ends."""

    def encoder(self, added: Sequence[AddedToken]) -> Encoder:
        """A function that encodes texts in which these tokens are recognized."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether the token begins a word (docs/numerics.md, "Tokenizers")."""

    def saved(self) -> SavedVocabulary:
        """What is written when the tokenizer is saved."""


class Format(NamedTuple):
    """A vocabulary format."""

    names: tuple[str, ...]
    """The file names that identify the format, in order of priority."""
    read: Callable[[Path, Mapping[str, Any]], Vocabulary]
    """Reads a vocabulary from such a file and the content of `tokenizer_config.json`.

    Raises InputError if the content is invalid.
    """
    others: tuple[str, ...] = ()
    """Further files of the format."""


def check_class(path: Path, settings: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    """Raise InputError if the folder is for a tokenizer of transformers that reads a file in another way.

    `classes` are the names that are known, without "Tokenizer" and "TokenizerFast".
    """
    name = settings.get("tokenizer_class")
    if (
        not isinstance(name, str)
        or name in GENERIC_CLASSES
        or name.removesuffix("Fast").removesuffix("Tokenizer") in classes
    ):
        return
    raise InputError(
        f"{path}: {TOKENIZER_CONFIG} names {name}, whose ids are not those of {classes[0]}Tokenizer; open the folder "
        "with transformers, save the tokenizer with save_pretrained, and copy its tokenizer.json here"
    )


def read_source(path: Path) -> bytes:
    """The content of a file that a vocabulary was read from; raises InputError if it is no longer readable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read again ({error.strerror}); restore the file before saving the tokenizer"
        ) from None
