"""What a model is for, by its type."""

from collections.abc import Callable, Sequence
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.inference.answers import answering
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.candidates import scoring_entities
from deberta_jax.inference.choices import choosing
from deberta_jax.inference.embeddings import embed, embedding
from deberta_jax.inference.entities import tagging
from deberta_jax.inference.labels import classifying
from deberta_jax.inference.masks import filling
from deberta_jax.inference.replaced import detecting
from deberta_jax.inference.stream import Task, complete
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import (
    EntityScoring,
    MultipleChoice,
    QuestionAnswering,
    ReplacedTokenDetection,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM

TASKS: dict[type, Callable[..., Task[Any]]] = {
    Deberta: embedding,
    MaskedLM: filling,
    SequenceClassification: classifying,
    TokenClassification: tagging,
    QuestionAnswering: answering,
    MultipleChoice: choosing,
    ReplacedTokenDetection: detecting,
    EntityScoring: scoring_entities,
}


def predict(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[Any] | None = None,
    *,
    batching: Batching = BATCHING,
) -> Any:
    """What the model's head says of texts or pairs: as `embed`, `fill_mask`, `classify`, `tag`, `answer`, `choose`…

    `pairs` are the second texts of a classifier, the contexts of questions, the choices of texts, or for each passage
    the query and the spans of its entities. The defaults of these functions hold.
    """
    if isinstance(model, Deberta):
        return embed(model, tokenizer, texts, pairs, batching=batching)
    columns: list[Sequence[Any]] = [texts] if pairs is None else [texts, pairs]
    if isinstance(model, EntityScoring) and pairs is not None:
        columns = [texts, [query for query, _ in pairs], [entities for _, entities in pairs]]
    return complete(predicting(model, tokenizer, batching=batching), *columns)


def predicting(model: Any, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Task[Any]:
    """The task of the model's head, for `stream`; its examples are those of the head's own task."""
    if type(model) not in TASKS:
        raise InputError(f"no task is known for a {type(model).__name__}; there are {', '.join(map(_name, TASKS))}")
    return TASKS[type(model)](model, tokenizer, batching=batching)


def _name(kind: type) -> str:
    return kind.__name__
