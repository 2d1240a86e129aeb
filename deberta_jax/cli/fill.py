"""What a masked language model puts in the place of [MASK]."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.hub.sentencepiece import WORD_START
from deberta_jax.hub.special_tokens import MASK
from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.model.masked_lm import MaskedLM

# Texts are padded to a multiple of this, so that few programs are compiled.
LENGTHS = 32


def fill_mask(model: MaskedLM, tokenizer: Tokenizer, text: str, most: int = 3) -> list[list[tuple[str, float]]]:
    """For each [MASK] of a text the likeliest tokens and their probabilities."""
    ids = np.concatenate([[tokenizer.cls_id], tokenizer.encode(text), [tokenizer.sep_id]]).astype(np.int32)
    positions = np.flatnonzero(ids == tokenizer.mask_id).astype(np.int32)
    ids = np.pad(ids, (0, -len(ids) % LENGTHS), constant_values=tokenizer.pad_id)
    logits = _logits(model, ids[None], ids[None] != tokenizer.pad_id, positions[None])[0]
    # Above the tokenizer's vocabulary are rows that only pad the table.
    probabilities = np.asarray(jax.nn.softmax(logits[:, : tokenizer.vocab_size]))
    return [
        [
            (tokenizer.token(index).replace(WORD_START, "") or WORD_START, float(row[index]))
            for index in np.argsort(-row)[:most].tolist()
        ]
        for row in probabilities
    ]


@jax.jit
def _logits(
    model: MaskedLM, ids: Int[Array, "B T"], input_mask: Bool[Array, "B T"], positions: Int[Array, "B M"]
) -> Float[Array, "B M V"]:
    return model(ids, input_mask, masked_positions=positions)


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
