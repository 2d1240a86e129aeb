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
    """The probability of each token of each text that another model wrote it; texts may be of any length.

    Longer texts are read in windows that overlap by a quarter; each token is scored in the window in which it has the
    most context (He, Gao and Chen 2023, section 3.1).

    Args:
        model: a model with the head "replaced_token_detection", such as the released models of v3.
        tokenizer: its tokenizer.
        texts: the texts.
        batching: sizes of batches and the maximum number of tokens of a window.

    Returns:
        For each text its tokens, in order: `text`, `start` and `end` in characters, and `probability`.

    Raises:
        InputError: a model without the head "replaced_token_detection"; with its index, an invalid text.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", "replaced_token_detection")
        >>> tokens = dj.detect_replaced(model, tokenizer, ["A man eats."])[0]
        >>> tokens[-1].text, 0 < tokens[-1].probability < 1
        ('.', True)
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
