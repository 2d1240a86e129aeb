"""The special and added tokens of a tokenizer folder, from the settings files of transformers."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.tokenizers.characters import check_encodable

PAD, CLS, SEP, UNK, MASK = "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"
# The default token of each role.
NAMES = {"pad": PAD, "cls": CLS, "sep": SEP, "unk": UNK, "mask": MASK}
TOKENIZER_CONFIG, ADDED_TOKENS = "tokenizer_config.json", "added_tokens.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is recognized in a text by its spelling."""

    text: str
    id: int
    lstrip: bool = False
    """Whether the token includes the white space before it."""
    rstrip: bool = False
    """Whether the token includes the white space after it."""
    single_word: bool = False
    """Whether the token is recognized only between word boundaries."""
    special: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression with one group, the token without white space."""
        before, after = (r"(?<!\w)", r"(?!\w)") if self.single_word else ("", "")
        # White space is matched from its beginning, or from the end of the previous token. Otherwise every position in
        # a long run of white space would be tried.
        left = r"(?:(?<!\s)\s*|(?<=\s))" if self.lstrip else ""
        right = r"\s*" if self.rstrip else ""
        return f"{left}{before}({re.escape(self.text)}){after}{right}"

    def to_dict(self) -> dict[str, str | bool]:
        """The token as transformers writes it, without its id; matched in the text before normalization."""
        values: dict[str, str | bool] = dataclasses.asdict(self)
        del values["text"], values["id"]
        return {"content": self.text} | values | {"normalized": False}


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The token of each role in `NAMES`, the added tokens of a folder, and the content of its tokenizer_config.json."""

    names: Mapping[str, str]
    added: tuple[AddedToken, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


def read_special_tokens(folder: Path | None) -> SpecialTokens:
    """The tokens in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, where these exist.

    The defaults if `folder` is None. Raises InputError for files that transformers would not write.
    """
    if folder is None:
        return SpecialTokens(NAMES)
    settings, special_map, added_ids = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
    )
    names = {
        role: _text(special_map.get(f"{role}_token")) or _text(settings.get(f"{role}_token")) or default
        for role, default in NAMES.items()
    }
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        added = {int(index): _added_token(int(index), value) for index, value in decoder.items()}
        added = {int(index): AddedToken(text, int(index)) for text, index in added_ids.items()} | added
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: the added tokens in {TOKENIZER_CONFIG} or {ADDED_TOKENS} are invalid ({error}); restore the "
            "file that transformers wrote"
        ) from None
    return SpecialTokens(names, tuple(added[index] for index in sorted(added)), settings)


def added_token_pattern(tokens: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern with one group for each token, in order: a token must precede the tokens that it begins with."""
    return re.compile("|".join(token.pattern for token in tokens))


def check_new_tokens(tokens: Sequence[object]) -> tuple[str, ...]:
    """The distinct tokens in order; raises InputError for a token that cannot be recognized in a text."""
    if isinstance(tokens, str):
        raise InputError(f"tokens is the string {tokens!r}; expected a list of tokens")
    texts = []
    for number, token in enumerate(tokens, 1):
        if not isinstance(token, str) or not token.strip():
            raise InputError(
                f"token {number} of {len(tokens)} is {token!r}; expected a string with a visible character"
            )
        texts.append(token)
    check_encodable(texts)
    return tuple(dict.fromkeys(texts))


def _added_token(index: int, value: object) -> AddedToken:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is not a token")
    flags = {name: bool(value.get(name)) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(value["content"], index, **flags)


def _text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
