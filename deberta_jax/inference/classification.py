"""Text classification and regression, and zero-shot classification by natural language inference."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.documents import document_pipeline
from deberta_jax.inference.encode import EncodedRow, Texts, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head
from deberta_jax.inference.names import ScoreFunction
from deberta_jax.inference.score_functions import check_function, label_index
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.tokenizers.tokenizer import Tokenizer

Result = TypeVar("Result")


class Classification(NamedTuple):
    """The most likely label and its probability, the probability of every label, and the predicted labels.

    `labels` is the most likely label for single-label classification; for multi-label classification it is all labels
    above one half, the most likely first.
    """

    label: str
    probability: float
    scores: dict[str, float]
    labels: list[str]


class Regression(NamedTuple):
    """The predicted value, which is the first one if the model has several labels, and all values by label."""

    value: float
    values: dict[str, float]


def classify(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    function: ScoreFunction = "auto",
    batching: Batching = BATCHING,
) -> list[Classification | Regression]:
    """The most likely label of each text, or pair of texts; a regression model gives numbers.

    Longer texts are truncated, which is logged, or read in windows if the model was fine-tuned to do so.

    Args:
        model: a model with the head "sequence_classification".
        tokenizer: its tokenizer.
        texts: the texts.
        pairs: second texts, such as the hypotheses of natural language inference.
        function: what turns logits into scores: "softmax", "sigmoid" or "none"; "auto" is that of the config's
            `problem_type`, as in transformers. Without a `problem_type`, a model with one label is a regression.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        For each text its `label`, `probability`, `scores` by label, and the predicted `labels`, which are all above one
        half with the sigmoid. A regression, and "none", gives `value` and `values` by label, the logits.

    Raises:
        InputError: a model without the head "sequence_classification"; with its index, an invalid text.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> result = dj.classify(model, tokenizer, ["A man eats."], ["A person eats."])[0]
        >>> result.label in ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
        True
    """
    columns = [texts] if pairs is None else [texts, pairs]
    return complete(classification_pipeline(model, tokenizer, function=function, batching=batching), *columns)


def classification_pipeline(
    model: Model, tokenizer: Tokenizer, *, function: ScoreFunction = "auto", batching: Batching = BATCHING
) -> Pipeline[Classification | Regression]:
    """The pipeline of `classify`; an example is `(text,)` or `(text, pair)`."""
    require_head(model, "sequence_classification", "classify")
    config = encoder_of(model).config
    check_function(function, config.labels)
    kind = config.problem_type or ("regression" if len(config.labels) == 1 else "single_label_classification")
    read_logits = _READERS[_FUNCTIONS[kind] if function == "auto" else function]
    return text_pipeline(model, tokenizer, lambda logits: read_logits(config.labels, logits), batching)


def text_pipeline(
    model: Model, tokenizer: Tokenizer, read_logits: Callable[[Float[np.ndarray, "C"]], Result], batching: Batching
) -> Pipeline[Result]:
    """A pipeline from the logits of whole texts, as float64; an example is `(text,)` or `(text, pair)`.

    A model with `window_pooling` reads long texts in windows, all others truncate them.
    """
    if encoder_of(model).config.window_pooling is not None:
        return document_pipeline(model, tokenizer, read_logits, batching)

    def read(example: tuple, rows: list[EncodedRow]) -> Result:
        [row] = rows
        return read_logits(row.outputs.astype(np.float64))

    return Pipeline(model, tokenizer, class_logits, encode, read, batching)


def zero_shot(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    template: str = "This example is {}.",
    multi_label: bool = False,
    entailment: str | None = None,
    batching: Batching = BATCHING,
) -> list[Classification]:
    """Classify texts by any labels with a model of natural language inference (Yin, Hay and Roth 2019).

    The text is the premise, and `template` with a label in place of {} is the hypothesis. Scores are the softmax of the
    labels' entailment logits.

    Args:
        model: a model with the head "sequence_classification" and a label of entailment.
        tokenizer: its tokenizer.
        texts: the texts.
        labels: the labels, different from each other.
        template: the hypothesis, with {} for the label.
        multi_label: each score is independent: the softmax of entailment against contradiction, as for a single label.
        entailment: the model's label of entailment, such as "LABEL_0", if the names do not say it. A contradiction
            without a clear name is then the first label, or the last one if the first is the entailment.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        For each text its `label`, `probability`, `scores` by label, and the predicted `labels`.

    Raises:
        InputError: a model without the head or without a label of entailment; with its index, an invalid text.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> result = dj.zero_shot(model, tokenizer, ["The match ended two all."], ["sport", "politics"])[0]
        >>> result.label in ("sport", "politics"), round(sum(result.scores.values()), 3)
        (True, 1.0)
    """
    pipeline = zero_shot_pipeline(
        model,
        tokenizer,
        labels,
        template=template,
        multi_label=multi_label,
        entailment=entailment,
        batching=batching,
    )
    return complete(pipeline, texts)


def zero_shot_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    *,
    template: str = "This example is {}.",
    multi_label: bool = False,
    entailment: str | None = None,
    batching: Batching = BATCHING,
) -> Pipeline[Classification]:
    """The pipeline of `zero_shot`; an example is `(text,)`."""
    require_head(model, "sequence_classification", "zero_shot")
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise InputError(f"labels are {shorten(repr(labels))}: expected a list of different labels")
    if "{}" not in template:
        raise InputError(f"template {template!r} has no {{}} for the label")
    entailed, contradicted = _inference_labels(encoder_of(model).config.labels, entailment)
    hypotheses = [template.replace("{}", label) for label in labels]

    def pairs(example: tuple) -> list[Texts]:
        if len(example) != 1:
            raise InputError("zero-shot classification takes one text, without a pair")
        return [(example[0], hypothesis) for hypothesis in hypotheses]

    def read(example: tuple, rows: list[EncodedRow]) -> Classification:
        logits = np.stack([row.outputs for row in rows]).astype(np.float64)
        if multi_label or len(labels) == 1:
            return read_multi_label(labels, logits[:, entailed] - logits[:, contradicted])
        return read_single_label(labels, logits[:, entailed])

    # Each example has a row per label: a chunk has as many rows as in other pipelines.
    batching = dataclasses.replace(batching, chunk=max(batching.chunk // len(labels), 1))
    return Pipeline(model, tokenizer, class_logits, functools.partial(encode, texts_of=pairs), read, batching)


@jax.jit
def class_logits(model: SequenceClassification, inputs: ModelInputs) -> Float[Array, "B C"]:
    """The logits of all labels."""
    return model(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)


def _inference_labels(labels: Sequence[str], entailment: str | None) -> tuple[int, int]:
    """The indices of entailment and contradiction; of two labels, the other one is the contradiction.

    With the name of the entailment, transformers' rule selects a contradiction that is not clear from the names.
    """
    names = [label.lower() for label in labels]
    if entailment is None:
        entailed = [index for index, name in enumerate(names) if name.startswith("entail")]
    else:
        entailed = [label_index(labels, entailment, "entailment")]
    contradicted = [index for index, name in enumerate(names) if name.startswith("contra") and [index] != entailed]
    if len(names) == 2 and entailed:
        contradicted = [1 - entailed[0]]
    if entailment is not None and len(names) > 2 and len(contradicted) != 1:
        contradicted = [0 if entailed[0] else len(names) - 1]
    if len(entailed) != 1 or len(contradicted) != 1:
        raise InputError(
            f"the model's labels are {list_names(labels)}: zero-shot classification needs a model of natural language "
            "inference; name its label of entailment with entailment=... (--entailment)"
        )
    return entailed[0], contradicted[0]


def read_single_label(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Classification:
    """The softmax of the logits: exactly one label is true."""
    scores = dict(zip(labels, scipy.special.softmax(logits).tolist(), strict=True))
    label = max(scores, key=scores.__getitem__)
    return Classification(label, scores[label], scores, [label])


def read_multi_label(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Classification:
    """The sigmoid of each logit: any number of labels is true."""
    scores = dict(zip(labels, scipy.special.expit(logits).tolist(), strict=True))
    label = max(scores, key=scores.__getitem__)
    return Classification(label, scores[label], scores, labels_above_half(scores))


def labels_above_half(scores: Mapping[str, float]) -> list[str]:
    """The labels with a score above one half, the most likely first."""
    return [label for label in sorted(scores, key=scores.__getitem__, reverse=True) if scores[label] > 0.5]


def read_regression(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Regression:
    """The logits as values."""
    return Regression(float(logits[0]), dict(zip(labels, logits.tolist(), strict=True)))


# The function of each `problem_type`, and the result of each function.
_FUNCTIONS: dict[str, ScoreFunction] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
_READERS: dict[ScoreFunction, Callable[[Sequence[str], np.ndarray], Classification | Regression]] = {
    "softmax": read_single_label,
    "sigmoid": read_multi_label,
    "none": read_regression,
}
