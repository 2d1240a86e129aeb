"""Scores of texts or pairs by a model with a single output, such as a reward model."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from deberta_jax.errors import InputError, list_names
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.classification import text_pipeline
from deberta_jax.inference.models import require_head
from deberta_jax.inference.names import ScoreFunction
from deberta_jax.inference.score_functions import SCORE_FUNCTIONS, check_function
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import encoder_of
from deberta_jax.tokenizers.tokenizer import Tokenizer


def score(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    function: ScoreFunction = "auto",
    batching: Batching = BATCHING,
) -> Float[np.ndarray, "B"]:
    """A float32 number per text or pair, from a model with one label; for a reward model, of prompts and responses.

    The number is the logit, or its sigmoid with `function="sigmoid"`. Longer texts are truncated, which is logged, or
    read in windows if the model was fine-tuned to do so. Raises InputError for a model without the head
    "sequence_classification" or with several labels, and with the index of an invalid text.
    """
    columns = [texts] if pairs is None else [texts, pairs]
    scores = complete(score_pipeline(model, tokenizer, function=function, batching=batching), *columns)
    return np.asarray(scores, np.float32)


def score_pipeline(
    model: Model, tokenizer: Tokenizer, *, function: ScoreFunction = "auto", batching: Batching = BATCHING
) -> Pipeline[float]:
    """The pipeline of `score`; an example is `(text,)` or `(text, pair)`."""
    require_head(model, "sequence_classification", "score")
    labels = encoder_of(model).config.labels
    check_function(function, labels)
    if len(labels) != 1:
        raise InputError(
            f"score needs a model with one label, this one has {list_names(labels)}: use classify "
            "(--task classification)"
        )
    to_score = SCORE_FUNCTIONS["none" if function == "auto" else function]
    return text_pipeline(model, tokenizer, lambda logits: float(to_score(logits)[0]), batching)
