"""Which tokens of a text were put there by another model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import stitched, stride_of
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Detected(NamedTuple):
    """A token, `text[start:end]`, and the probability that it was replaced."""

    text: str
    start: int
    end: int
    probability: float


def detect_replaced(
    model: ReplacedTokenDetection, tokenizer: Tokenizer, texts: Sequence[str], *, batching: Batching = BATCHING
) -> list[list[Detected]]:
    """Every token of each text, in their order, of texts of any length.

    Longer texts are read in windows that share a quarter; each token is judged in the window in which it has most
    context. Raises InputError with the number of what is no text.
    """
    return complete(detect_replaced_pipeline(model, tokenizer, batching=batching), texts)


def detect_replaced_pipeline(
    model: ReplacedTokenDetection, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Detected]]:
    """The task of `detect_replaced`, for `stream`; an example is `(text,)`."""
    limit = limit_of(model, batching)

    def read(example: tuple, rows: list[Row]) -> list[Detected]:
        tokens = stitched(rows, limit)
        return [
            Detected(example[0][start:end], start, end, probability)
            for (start, end), probability in zip(tokens.offsets.tolist(), tokens.outputs.tolist(), strict=True)
        ]

    return Pipeline(
        model,
        replaced_probabilities,
        lambda examples: encode(tokenizer, examples, max_length=limit, truncation="first", stride=stride_of(limit)),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


@jax.jit
def replaced_probabilities(
    model: ReplacedTokenDetection,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
) -> Float[Array, "B T"]:
    return jax.nn.sigmoid(model(input_ids, attention_mask, token_type_ids=token_type_ids))
