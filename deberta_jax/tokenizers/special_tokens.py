"""The special and added tokens of a tokenizer folder, from the settings files of transformers."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.tokenizers.characters import check_texts

PAD, CLS, SEP, UNK, MASK = "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"
# The usual token of each role, and that of RoBERTa's tokenizers.
NAMES = {"pad": PAD, "cls": CLS, "sep": SEP, "unk": UNK, "mask": MASK}
ROBERTA_NAMES = {"pad": "<pad>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
TOKENIZER_CONFIG, ADDED_TOKENS = "tokenizer_config.json", "added_tokens.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
# Lists of further special tokens, by the names that transformers 4 and 5 give them.
_LISTS = "additional_special_tokens", "extra_special_tokens"
# More than the rows of any table.
MAX_ID = 10_000_000


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
    normalized: bool = False
    """Whether the token is found in the normalized text, not in the text itself."""

    def to_dict(self) -> dict[str, str | bool]:
        """The token as transformers writes it, without its id."""
        values: dict[str, str | bool] = dataclasses.asdict(self)
        del values["text"], values["id"]
        return {"content": self.text} | values


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The tokens that the settings files of a folder name, and the content of its tokenizer_config.json.

    `names` are the tokens of some roles. `added` have ids, `further` tokens have none yet: they are in the vocabulary,
    or follow it.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    added: tuple[AddedToken, ...] = ()
    further: tuple[AddedToken, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


def read_special_tokens(folder: Path | None) -> SpecialTokens:
    """The tokens in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, where these exist.

    Nothing if `folder` is None. Raises InputError for files that transformers would not write.
    """
    if folder is None:
        return SpecialTokens()
    settings, special_map, added_ids = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
    )
    values = {
        role: next((token for where in (special_map, settings) if (token := where.get(f"{role}_token"))), None)
        for role in NAMES
    }
    extra = [value for where in (settings, special_map) for key in _LISTS for value in _values(where.get(key))]
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        added = {int(index): AddedToken(text, _id(index), normalized=True) for text, index in added_ids.items()}
        added |= {_id(index): _added_token(_id(index), value) for index, value in decoder.items()}
        roles = [
            _added_token(-1, {**value, "special": True}) for value in values.values() if isinstance(value, Mapping)
        ]
        further = [_added_token(-1, {"special": True, **_mapping(value)}) for value in extra]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: the added tokens in {TOKENIZER_CONFIG} or {ADDED_TOKENS} are invalid ({error}); restore the "
            "file that transformers wrote"
        ) from None
    if len({*map(str, added_ids.values())}) < len(added_ids):
        raise InputError(f"{folder / ADDED_TOKENS}: two tokens have the same id; restore the file that was saved")
    names = {role: text for role, value in values.items() if (text := _text(value))}
    return SpecialTokens(names, tuple(added[index] for index in sorted(added)), (*roles, *further), settings)


def gap_token(index: int) -> str:
    """What stands in a `tokenizer.json` for an id without a token: the library numbers added tokens without gaps."""
    return f"<no token {index}>"


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
    check_texts(texts)
    return tuple(dict.fromkeys(texts))


def _added_token(index: int, value: object) -> AddedToken:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is not a token")
    flags = {name: bool(value.get(name)) for name in ("lstrip", "rstrip", "single_word", "special")}
    normalized = bool(value.get("normalized", not flags["special"]))
    if not isinstance(value["content"], str) or not value["content"]:
        raise TypeError(f"{value['content']!r} is not a token")
    check_texts([value["content"]])
    return AddedToken(value["content"], index, **flags, normalized=normalized)


def _id(value: object) -> int:
    index = int(value)  # type: ignore[call-overload]
    if not 0 <= index < MAX_ID:
        raise ValueError(f"a token has the id {index}, expected less than {MAX_ID}")
    return index


def _values(value: object) -> list[str | Mapping[str, object]]:
    """The tokens of a list, or of an object that names them."""
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, str | Mapping)]


def _mapping(value: str | Mapping[str, object]) -> Mapping[str, object]:
    return {"content": value, "normalized": False} if isinstance(value, str) else value


def _text(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
