"""What a model is for, by its type."""

from collections.abc import Callable, Sequence
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.embeddings import embed, embed_pipeline
from deberta_jax.inference.entities import tag_entities_pipeline
from deberta_jax.inference.entity_ranking import score_entities_pipeline
from deberta_jax.inference.fill_mask import fill_mask_pipeline
from deberta_jax.inference.multiple_choice import choose_pipeline
from deberta_jax.inference.question_answering import answer_pipeline
from deberta_jax.inference.replaced_tokens import detect_replaced_pipeline
from deberta_jax.inference.stream import Pipeline, complete
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
from deberta_jax.tokenizers.tokenizer import Tokenizer

TASKS: dict[type, Callable[..., Pipeline[Any]]] = {
    Deberta: embed_pipeline,
    MaskedLM: fill_mask_pipeline,
    SequenceClassification: classification_pipeline,
    TokenClassification: tag_entities_pipeline,
    QuestionAnswering: answer_pipeline,
    MultipleChoice: choose_pipeline,
    ReplacedTokenDetection: detect_replaced_pipeline,
    EntityScoring: score_entities_pipeline,
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
    return complete(pipeline(model, tokenizer, batching=batching), *columns)


def pipeline(model: Any, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Any]:
    """The task of the model's head, for `stream`; its examples are those of the head's own task."""
    if type(model) not in TASKS:
        raise InputError(f"no task is known for a {type(model).__name__}; there are {', '.join(map(_name, TASKS))}")
    return TASKS[type(model)](model, tokenizer, batching=batching)


def _name(kind: type) -> str:
    return kind.__name__
