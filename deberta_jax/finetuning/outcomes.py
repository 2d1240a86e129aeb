"""What a model predicts for examples, by the kind of task: the same reading as `predict` has."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from deberta_jax.errors import InputError
from deberta_jax.finetuning.features import ENCODED, first_tokens, text_of_words, word_rows
from deberta_jax.hub.heads import Head
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.encode import EncodedRow, EncodedRows
from deberta_jax.inference.entities import likeliest_labels
from deberta_jax.inference.entity_ranking import score_entities_pipeline
from deberta_jax.inference.models import max_row_length
from deberta_jax.inference.multiple_choice import choice_logits
from deberta_jax.inference.question_answering import span_ranking_pipeline
from deberta_jax.inference.stream import Pipeline, stream
from deberta_jax.inference.windows import merge_windows
from deberta_jax.model.heads import MultipleChoice, TokenClassification
from deberta_jax.tasks.conll import OUTSIDE
from deberta_jax.tasks.examples import Kind, Prediction, SpanPrediction
from deberta_jax.tokenizers.tokenizer import Tokenizer

HEADS: dict[Kind, Head] = {
    "single_label": "sequence_classification",
    "regression": "sequence_classification",
    "multi_label": "sequence_classification",
    "token": "token_classification",
    "extractive_qa": "question_answering",
    "multiple_choice": "multiple_choice",
    "entity_ranking": "entity_scoring",
}


class Outcome(NamedTuple):
    """What is predicted for an example, and the probability of each label, choice by its place, or entity."""

    prediction: Prediction
    probabilities: Mapping[str, float] | None


def outcomes(
    kind: Kind, model: Any, tokenizer: Tokenizer, examples: Sequence[Any], batching: Batching
) -> Iterator[Outcome | InputError]:
    """The outcome of each example, in their order, or what is wrong with it."""
    _, as_texts = ENCODED[kind]
    # The words of a document go along: a text alone does not say where they begin.
    tuples = ((example.words,) if kind == "token" else as_texts(example) for example in examples)
    return stream(_TASKS[kind](model, tokenizer, batching), tuples)


def _labelled(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    return _reading(
        classification_pipeline(model, tokenizer, batching=batching),
        lambda found: Outcome(found.label, dict(found.scores)),
    )


def _numbered(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    return _reading(
        classification_pipeline(model, tokenizer, batching=batching), lambda found: Outcome(found.value, None)
    )


def _several(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    return _reading(
        classification_pipeline(model, tokenizer, batching=batching),
        lambda found: Outcome(tuple(found.labels), dict(found.scores)),
    )


def _spanning(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def read(found: Any) -> Outcome:
        best = found.spans[0][0] if found.spans else ""
        return Outcome(SpanPrediction(best, float(found.no_answer), found.spans), None)

    return _reading(span_ranking_pipeline(model, tokenizer, batching=batching), read)


def _scoring(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def read(found: Any) -> Outcome:
        best = found[0].text if found else ""
        return Outcome(best, {candidate.text: candidate.probability for candidate in found})

    return _reading(score_entities_pipeline(model, tokenizer, batching=batching), read)


def _reading(task: Pipeline[Any], read: Callable[[Any], Outcome]) -> Pipeline[Outcome]:
    return dataclasses.replace(task, read=lambda example, rows: read(task.read(example, rows)))


def _choosing(model: MultipleChoice, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    encode, _ = ENCODED["multiple_choice"]

    def read(example: tuple, rows: list[EncodedRow]) -> Outcome:
        probabilities = _softmax(np.asarray([row.outputs for row in rows], np.float64))
        by_place = {str(place): value for place, value in enumerate(probabilities.tolist())}
        return Outcome(int(probabilities.argmax()), by_place)

    return Pipeline(model, tokenizer, choice_logits, encode, read, batching)


def _tagging(model: TokenClassification, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    limit = max_row_length(model, batching)
    labels = model.deberta.config.labels
    outside = OUTSIDE if OUTSIDE in labels else labels[0]

    def read(example: tuple, rows: list[EncodedRow]) -> Outcome:
        tokens = merge_windows(rows, limit)
        firsts = first_tokens(example[0], tokens.offsets)
        likeliest, _ = tokens.outputs
        tags = [labels[likeliest[place]] if place >= 0 else outside for place in firsts.tolist()]
        return Outcome(tuple(tags), None)

    def encode(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> EncodedRows:
        return word_rows(tokenizer, [(text_of_words(words),) for (words,) in examples], limit)

    return Pipeline(model, tokenizer, likeliest_labels, encode, read, batching)


def _softmax(logits: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


_TASKS: dict[Kind, Callable[[Any, Tokenizer, Batching], Pipeline[Outcome]]] = {
    "single_label": _labelled,
    "regression": _numbered,
    "multi_label": _several,
    "token": _tagging,
    "extractive_qa": _spanning,
    "multiple_choice": _choosing,
    "entity_ranking": _scoring,
}
