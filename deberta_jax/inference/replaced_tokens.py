"""Replaced-token detection: which tokens of a text were replaced by another model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import Tokens, windows_pipeline
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.tokenizers.tokenizer import Tokenizer


class DetectedToken(NamedTuple):
    """A token, `text[start:end]`, and the probability that it was replaced."""

    text: str
    start: int
    end: int
    probability: float


def detect_replaced(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], *, batching: Batching = BATCHING
) -> list[list[DetectedToken]]:
    """All tokens of each text, in order; texts may be of any length.

    Longer texts are read in windows that overlap by a quarter; each token is scored in the window in which it has the
    most context. Raises InputError for a model without the head "replaced_token_detection", and with the index of an
    invalid text.
    """
    return complete(detect_replaced_pipeline(model, tokenizer, batching=batching), texts)


def detect_replaced_pipeline(
    model: Model, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[DetectedToken]]:
    """The pipeline of `detect_replaced`; an example is `(text,)`."""
    require_head(model, "replaced_token_detection", "detect_replaced")
    return windows_pipeline(model, tokenizer, replaced_probabilities, _detected, batching)


def _detected(text: str, tokens: Tokens) -> list[DetectedToken]:
    return [
        DetectedToken(text[start:end], start, end, probability)
        for (start, end), probability in zip(tokens.offsets.tolist(), tokens.outputs.tolist(), strict=True)
    ]


@jax.jit
def replaced_probabilities(model: ReplacedTokenDetection, inputs: ModelInputs) -> Float[Array, "B T"]:
    """The probability of each token that it was replaced."""
    return jax.nn.sigmoid(model(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids))
