"""Sentences to show what a masked language model has learned."""

from collections.abc import Sequence

import numpy as np

from deberta_jax.tokenizers.special_tokens import MASK
from deberta_jax.tokenizers.tokenizer import Tokenizer


def masked_sentences(
    documents: Sequence[str], tokenizer: Tokenizer, number: int, seed: int = 0
) -> list[tuple[str, str]]:
    """Sentences with one word of one token masked, and the word; from as many documents, chosen by `seed`."""
    rng = np.random.default_rng(seed)
    found: list[tuple[str, str]] = []
    for index in rng.permutation(len(documents)):
        words = documents[index].split("\n")[0].split(". ")[0].split()
        whole = [at for at, word in enumerate(words) if word.isalpha() and len(tokenizer.encode(word)) == 1]
        if 7 <= len(words) <= 16 and len(whole) > 3:
            at = int(rng.choice(whole[1:]))
            found.append((" ".join([*words[:at], MASK, *words[at + 1 :]]), words[at]))
        if len(found) == number:
            break
    return found
