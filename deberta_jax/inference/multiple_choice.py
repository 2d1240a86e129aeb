"""Multiple choice: which of several choices fits a text best."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, Texts, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Choice(NamedTuple):
    """The most likely choice, its index in the list of choices, its probability, and the probability of each choice."""

    choice: str
    choice_index: int
    probability: float
    probabilities: list[float]


def choose(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batching: Batching = BATCHING,
) -> list[Choice]:
    """The best choice for each text; texts may have different numbers of choices.

    Args:
        model: a model with the head "multiple_choice".
        tokenizer: its tokenizer.
        texts: the texts, such as questions.
        choices: the choices of each text; each is encoded as the pair of its text.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        For each text `choice`, `choice_index`, `probability`, and the `probabilities` of all its choices.

    Raises:
        InputError: a model without the head; with its index, an invalid text, or one without choices.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", "multiple_choice")  # a new head
        >>> dj.choose(model, tokenizer, ["She sells"], [["sea shells.", "the year."]])[0].choice_index in (0, 1)
        True
    """
    return complete(choose_pipeline(model, tokenizer, batching=batching), texts, choices)


def choose_pipeline(model: Model, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Choice]:
    """The pipeline of `choose`; an example is `(text, choices)`."""
    require_head(model, "multiple_choice", "choose")
    return Pipeline(model, tokenizer, choice_logits, functools.partial(encode, texts_of=_pairs), _read_choice, batching)


def _pairs(example: tuple) -> list[Texts]:
    if len(example) != 2 or isinstance(example[1], str) or not isinstance(example[1], Sequence) or not example[1]:
        raise InputError("expected a text and a list of choices")
    return [(example[0], choice) for choice in example[1]]


def _read_choice(example: tuple, rows: list[EncodedRow]) -> Choice:
    logits = np.asarray([row.outputs for row in rows], np.float64)
    probabilities = scipy.special.softmax(logits).tolist()
    index = int(logits.argmax())
    return Choice(example[1][index], index, probabilities[index], probabilities)


@jax.jit
def choice_logits(model: MultipleChoice, inputs: ModelInputs) -> Float[Array, "B"]:
    """A logit per row, which is one choice."""
    input_ids, attention_mask, token_type_ids = (jnp.asarray(x)[:, None] for x in inputs[:3])
    return model(input_ids, attention_mask, token_type_ids=token_type_ids)[:, 0]
