"""Which of several choices fits a text."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, Texts, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.heads import MultipleChoice
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Chosen(NamedTuple):
    """The likeliest choice, its place among those given, its probability, and the probability of each."""

    choice: str
    place: int
    probability: float
    probabilities: list[float]


def choose(
    model: MultipleChoice,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batching: Batching = BATCHING,
) -> list[Chosen]:
    """For each text one of its own choices, of which different texts may have different numbers.

    Each choice is the pair of the text in a row of its own. Raises InputError with the number of a text without
    choices, and of what is no text.
    """
    return complete(choose_pipeline(model, tokenizer, batching=batching), texts, choices)


def choose_pipeline(model: MultipleChoice, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Chosen]:
    """The task of `choose`, for `stream`; an example is `(text, choices)`."""
    limit = limit_of(model, batching)

    def read(example: tuple, rows: list[Row]) -> Chosen:
        logits = np.asarray([row.outputs for row in rows], np.float64)
        weights = np.exp(logits - logits.max())
        probabilities = (weights / weights.sum()).tolist()
        place = int(logits.argmax())
        return Chosen(example[1][place], place, probabilities[place], probabilities)

    return Pipeline(
        model,
        choice_logits,
        lambda examples: encode(tokenizer, examples, texts_of=_with_choices, max_length=limit),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


@jax.jit
def choice_logits(
    model: MultipleChoice,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
) -> Float[Array, "B"]:
    return model(input_ids[:, None], attention_mask[:, None], token_type_ids=token_type_ids[:, None])[:, 0]


def _with_choices(example: tuple) -> list[Texts]:
    if len(example) != 2 or isinstance(example[1], str) or not isinstance(example[1], Sequence) or not example[1]:
        raise InputError("a text and a list of choices are wanted")
    return [(example[0], choice) for choice in example[1]]
