"""What a folder says of the tokens that stand beside the vocabulary: names of the special ones, and added ones."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.errors import InputError

PAD, CLS, SEP, UNK, MASK = "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"
NAMES = {"pad": PAD, "cls": CLS, "sep": SEP, "unk": UNK, "mask": MASK}
# Settings of transformers: an older file names what a newer one holds, too.
CONFIG, ADDED, SPECIAL_MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token recognised in a text as it is written; `lstrip` and `rstrip` take in the white space on that side."""

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = False

    @property
    def pattern(self) -> str:
        """What it matches, as a regular expression."""
        before, after = (r"(?<!\w)", r"(?!\w)") if self.single_word else ("", "")
        # From the beginning of the white space, or from where the token before took it in: else every sign is tried.
        left = r"(?:(?<!\s)\s*|(?<=\s))" if self.lstrip else ""
        right = r"\s*" if self.rstrip else ""
        return f"{left}{before}({re.escape(self.text)}){after}{right}"

    def to_dict(self) -> dict[str, str | bool]:
        """As transformers writes it, without its id; matched in the text as it is given."""
        values: dict[str, str | bool] = dataclasses.asdict(self)
        del values["text"], values["id"]
        return {"content": self.text} | values | {"normalized": False}


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """`names` of pad, cls, sep, unk and mask; `added` tokens of the folder; `settings` as they stand in its config."""

    names: Mapping[str, str]
    added: tuple[AddedToken, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


def read_special_tokens(folder: Path | None) -> SpecialTokens:
    """Of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, whichever are there."""
    if folder is None:
        return SpecialTokens(NAMES)
    settings, special_map, ids = (_read(folder / name) for name in (CONFIG, SPECIAL_MAP, ADDED))
    names = {
        name: _text(special_map.get(f"{name}_token")) or _text(settings.get(f"{name}_token")) or usual
        for name, usual in NAMES.items()
    }
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        added = {int(index): _added(int(index), value) for index, value in decoder.items()}
        added = {int(index): AddedToken(text, int(index)) for text, index in ids.items()} | added
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: added tokens of {CONFIG} or {ADDED} are not as transformers writes them ({error})"
        ) from None
    return SpecialTokens(names, tuple(added[index] for index in sorted(added)), settings)


def splitter(tokens: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern with a group for each token, in their order; put the longer first where one begins another."""
    return re.compile("|".join(token.pattern for token in tokens))


def _added(index: int, value: object) -> AddedToken:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no token")
    flags = {name: bool(value.get(name)) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(value["content"], index, **flags)


def _text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); restore it, or remove it to go without") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, not an object of names and values")
    return values
