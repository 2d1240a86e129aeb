"""Labels and numbers for whole texts: of a trained classifier, or of any labels by natural language inference."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, Texts, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Classified(NamedTuple):
    """The likeliest label and its probability, the probability of every label, and the labels that hold.

    `labels` is `label` alone where one of them holds, and all above one half, likeliest first, where several may.
    """

    label: str
    probability: float
    scores: dict[str, float]
    labels: list[str]


class Estimate(NamedTuple):
    """What a regression says: its number, the first where it has several, and all of them by label."""

    value: float
    values: dict[str, float]


def classify(
    model: SequenceClassification,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    batching: Batching = BATCHING,
) -> list[Classified | Estimate]:
    """The labels of texts, or of pairs of texts; the numbers of a regression.

    The config says what the logits are: with `problem_type` "multi_label_classification" each label holds or not;
    "regression" and a single label without `problem_type` give `Estimate`. Longer texts are cut, which is logged.
    Raises InputError with the number of what is no text.
    """
    columns = [texts] if pairs is None else [texts, pairs]
    return complete(classification_pipeline(model, tokenizer, batching=batching), *columns)


def classification_pipeline(
    model: SequenceClassification, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[Classified | Estimate]:
    """The task of `classify`, for `stream`; an example is `(text,)` or `(text, pair)`."""
    limit = limit_of(model, batching)
    config = model.deberta.config
    kind = config.problem_type or ("regression" if len(config.labels) == 1 else "single_label_classification")

    def read(example: tuple, rows: list[Row]) -> Classified | Estimate:
        [row] = rows
        return _READ[kind](config.labels, row.outputs.astype(np.float64))

    return Pipeline(
        model,
        class_logits,
        lambda examples: encode(tokenizer, examples, max_length=limit),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


def zero_shot(
    model: SequenceClassification,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    template: str = "This example is {}.",
    several: bool = False,
    batching: Batching = BATCHING,
) -> list[Classified]:
    """Which of any labels fits each text, by a model of natural language inference (Yin, Hay and Roth 2019).

    The text is the premise, `template` with the label in it the hypothesis. One label holds, that which is entailed
    most, or with `several`, and of one label alone, each for itself, entailment against contradiction. Raises
    InputError where the model has no label "entailment", and with the number of what is no text.
    """
    return complete(
        zero_shot_pipeline(model, tokenizer, labels, template=template, several=several, batching=batching), texts
    )


def zero_shot_pipeline(
    model: SequenceClassification,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    *,
    template: str = "This example is {}.",
    several: bool = False,
    batching: Batching = BATCHING,
) -> Pipeline[Classified]:
    """The task of `zero_shot`, for `stream`; an example is `(text,)`."""
    limit = limit_of(model, batching)
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise InputError(f"labels are {labels!r}; a list of different ones is wanted")
    if "{}" not in template:
        raise InputError(f"template {template!r} has no {{}} for the label")
    entailed, against = _inference_labels(model.deberta.config.labels)
    # As many rows at a time as of other tasks.
    batching = dataclasses.replace(batching, chunk=max(batching.chunk // len(labels), 1))
    hypotheses = [template.replace("{}", label) for label in labels]

    def texts_of(example: tuple) -> list[Texts]:
        if len(example) != 1:
            raise InputError("zero-shot classification takes one text, without a pair")
        return [(example[0], hypothesis) for hypothesis in hypotheses]

    def read(example: tuple, rows: list[Row]) -> Classified:
        logits = np.stack([row.outputs for row in rows]).astype(np.float64)
        if several or len(labels) == 1:
            return several_of(labels, logits[:, entailed] - logits[:, against])
        return one_of(labels, logits[:, entailed])

    return Pipeline(
        model,
        class_logits,
        lambda examples: encode(tokenizer, examples, texts_of=texts_of, max_length=limit),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


@jax.jit
def class_logits(
    model: SequenceClassification,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
) -> Float[Array, "B C"]:
    return model(input_ids, attention_mask, token_type_ids=token_type_ids)


def _inference_labels(labels: Sequence[str]) -> tuple[int, int]:
    """Where entailment and contradiction stand; of two labels the other one contradicts."""
    names = [label.lower() for label in labels]
    entailed = [place for place, name in enumerate(names) if name.startswith("entail")]
    against = [place for place, name in enumerate(names) if name.startswith("contra")]
    if len(names) == 2 and entailed:
        against = [1 - entailed[0]]
    if len(entailed) != 1 or len(against) != 1:
        raise InputError(
            f"the model's labels are {', '.join(labels)}; zero-shot classification needs a model of natural language "
            "inference, with the labels entailment and contradiction"
        )
    return entailed[0], against[0]


def one_of(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Classified:
    """The labels' softmax; one of them holds."""
    weights = np.exp(logits - logits.max())
    scores = dict(zip(labels, (weights / weights.sum()).tolist(), strict=True))
    best = max(scores, key=scores.__getitem__)
    return Classified(best, scores[best], scores, [best])


def several_of(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Classified:
    """The labels' sigmoids; any number of them may hold."""
    scores = dict(zip(labels, np.exp(-np.logaddexp(0, -logits)).tolist(), strict=True))
    falling = sorted(scores, key=scores.__getitem__, reverse=True)
    holding = [label for label in falling if scores[label] > 0.5]
    return Classified(falling[0], scores[falling[0]], scores, holding)


def _numbers(labels: Sequence[str], logits: Float[np.ndarray, "C"]) -> Estimate:
    values = dict(zip(labels, logits.tolist(), strict=True))
    return Estimate(logits.tolist()[0], values)


_READ: dict[str, Callable[[Sequence[str], np.ndarray], Classified | Estimate]] = {
    "single_label_classification": one_of,
    "multi_label_classification": several_of,
    "regression": _numbers,
}
