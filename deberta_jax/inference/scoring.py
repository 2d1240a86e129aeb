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
    """A number for each text or pair, from a model with one label, such as a reward model.

    Longer texts are truncated, which is logged, or read in windows if the model was fine-tuned to do so.

    Args:
        model: a model with the head "sequence_classification" and one label.
        tokenizer: its tokenizer.
        texts: the texts; for a reward model, the prompts.
        pairs: second texts; for a reward model, the responses.
        function: "auto" and "none" give the logit, "sigmoid" its sigmoid.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        Numbers [B], a float32 numpy array.

    Raises:
        InputError: a model without the head or with several labels; with its index, an invalid text.

    Example:
        >>> import deberta_jax as dj
        >>> name = "OpenAssistant/reward-model-deberta-v3-base"
        >>> model, tokenizer = dj.from_pretrained(name, "sequence_classification")
        >>> dj.score(model, tokenizer, ["How do bees fly?"] * 2, ["They beat their wings.", "No."]).shape
        (2,)
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
