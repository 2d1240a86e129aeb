"""The ids of the special and added tokens of a vocabulary."""

import dataclasses
from collections.abc import Mapping

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.special_tokens import NAMES, ROBERTA_NAMES, AddedToken, SpecialTokens, gap_token
from deberta_jax.tokenizers.vocabulary import Vocabulary


def added_with_ids(vocabulary: Vocabulary, tokens: SpecialTokens) -> dict[str, AddedToken]:
    """The added tokens of the vocabulary's file and of the settings files, which decide on their options."""
    added = {token.text: token for token in vocabulary.added}
    for token in tokens.added:
        known = added[token.text].id if token.text in added else vocabulary.id_of(token.text)
        added[token.text] = token if known is None else dataclasses.replace(token, id=known)
    return {text: token for text, token in added.items() if text != gap_token(token.id)}


def further_tokens(
    vocabulary: Vocabulary, tokens: SpecialTokens, known: Mapping[str, AddedToken]
) -> dict[str, AddedToken]:
    """Tokens that the settings name without an id: that of the vocabulary, or the next one."""
    end = max([vocabulary.size, *(token.id + 1 for token in known.values())])
    further: dict[str, AddedToken] = {}
    for token in tokens.further:
        if token.text in known or token.text in further:
            continue
        index = vocabulary.id_of(token.text)
        index, end = (end, end + 1) if index is None else (index, end)
        further[token.text] = dataclasses.replace(token, id=index)
    return further


def default_name(vocabulary: Vocabulary, role: str, added_ids: Mapping[str, int]) -> str:
    """The usual token of a role: DeBERTa's, or RoBERTa's if only that is in the vocabulary."""
    name, other = NAMES[role], ROBERTA_NAMES[role]
    known = [token in added_ids or vocabulary.id_of(token) is not None for token in (name, other)]
    return other if known == [False, True] else name


def special_id(vocabulary: Vocabulary, role: str, token: str, added_ids: Mapping[str, int]) -> int:
    """The id of a special token; raises InputError if the vocabulary lacks it."""
    index = vocabulary.id_of(token)
    if index is None:
        index = added_ids.get(token)
    if index is None and role in vocabulary.default_ids:
        index = vocabulary.default_ids[role]
        while index >= vocabulary.size and index in added_ids.values():
            index += 1
    if index is None:
        raise InputError(
            f"{vocabulary.path}: {token} is missing; add it to the vocabulary (a DeBERTa vocabulary contains "
            f"{' '.join(NAMES.values())}), or set {role}_token in tokenizer_config.json"
        )
    return index
