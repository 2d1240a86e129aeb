"""The table of pipelines: the head that each needs, the function that builds it, its options and its example fields."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Float

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS, Head
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.classification import Classification, Regression, classification_pipeline, zero_shot_pipeline
from deberta_jax.inference.embeddings import embed, embed_pipeline
from deberta_jax.inference.entities import Entity, tag_entities_pipeline
from deberta_jax.inference.entity_ranking import Candidate, score_entities_pipeline
from deberta_jax.inference.fill_mask import PredictedToken, fill_mask_pipeline
from deberta_jax.inference.generation import Generated, generate_pipeline
from deberta_jax.inference.multiple_choice import Choice, choose_pipeline
from deberta_jax.inference.names import PipelineName
from deberta_jax.inference.question_answering import Answer, answer_pipeline
from deberta_jax.inference.ranking import rank_pipeline
from deberta_jax.inference.replaced_tokens import DetectedToken, detect_replaced_pipeline
from deberta_jax.inference.scoring import score_pipeline
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.tokenizers.tokenizer import Tokenizer

_Texts = Sequence[str]
# Texts, lists of choices, or a query and spans of entities.
_Pairs = Sequence[object] | None


class PipelineSpec(NamedTuple):
    """A pipeline.

    `build(model, tokenizer, *, batching, **options)` takes a model with `head`, and the keyword arguments `options`.
    `fields` name the elements of an example; with `pairs`, an example may have a second text after them. With `words`,
    training reads the words of a text.
    """

    head: Head | None
    build: Callable[..., Pipeline[Any]]
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("text",)
    pairs: bool = False
    words: bool = False


# If several pipelines need the same head, the first is the default of the head.
PIPELINES: dict[PipelineName, PipelineSpec] = {
    "fill-mask": PipelineSpec("masked_lm", fill_mask_pipeline, options=("top_k", "fill_order"), pairs=True),
    "classification": PipelineSpec(
        "sequence_classification", classification_pipeline, options=("function",), pairs=True
    ),
    "zero-shot": PipelineSpec(
        "sequence_classification", zero_shot_pipeline, options=("labels", "template", "multi_label", "entailment")
    ),
    "score": PipelineSpec("sequence_classification", score_pipeline, options=("function",), pairs=True),
    "rank": PipelineSpec(
        "sequence_classification",
        rank_pipeline,
        options=("top", "windows", "relevant", "function"),
        fields=("query", "documents"),
    ),
    "token-classification": PipelineSpec("token_classification", tag_entities_pipeline, words=True),
    "question-answering": PipelineSpec(
        "question_answering",
        answer_pipeline,
        options=("max_answer_tokens", "no_answer_threshold"),
        fields=("question", "context"),
    ),
    "multiple-choice": PipelineSpec("multiple_choice", choose_pipeline, fields=("text", "choices")),
    "entity-ranking": PipelineSpec("entity_scoring", score_entities_pipeline, fields=("passage", "query", "entities")),
    "replaced-tokens": PipelineSpec("replaced_token_detection", detect_replaced_pipeline),
    "generate": PipelineSpec(
        "masked_lm", generate_pipeline, options=("max_new_tokens", "temperature", "top_k", "top_p", "stop", "seed")
    ),
    "embeddings": PipelineSpec(None, embed_pipeline, options=("pooling", "prompt"), pairs=True),
}


def default_pipeline(head: Head | None, config: DebertaConfig) -> PipelineName | None:
    """The pipeline of a head; a language model that was trained only to generate text generates."""
    name = next((name for name, spec in PIPELINES.items() if spec.head == head), None)
    return "generate" if name == "fill-mask" and config.objective in ("clm", "seq2seq") else name


@overload
def pipeline(
    model: Deberta, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[Float[np.ndarray, "E"]]: ...
@overload
def pipeline(
    model: MaskedLM, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[list[PredictedToken]] | Generated]: ...
@overload
def pipeline(
    model: SequenceClassification, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[Classification | Regression]: ...
@overload
def pipeline(
    model: TokenClassification, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Entity]]: ...
@overload
def pipeline(model: QuestionAnswering, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Answer]: ...
@overload
def pipeline(model: MultipleChoice, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Choice]: ...
@overload
def pipeline(
    model: EntityScoring, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Candidate]]: ...
@overload
def pipeline(
    model: ReplacedTokenDetection, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[DetectedToken]]: ...
def pipeline(model: Any, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Pipeline[Any]:
    """The pipeline of the model's head with default options, for `stream`.

    Args:
        model: a model with any head or none.
        tokenizer: its tokenizer.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        A `Pipeline`. Its examples are those of the head's function, such as `fill_mask`; a model without a head gives
        embeddings, and a language model that was trained only to generate text (objective clm or seq2seq) generates.

    Raises:
        InputError: a model that has no pipeline, such as a pair; no tokenizer.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> pipeline = dj.pipeline(model, tokenizer)
        >>> [result] = dj.stream(pipeline, [("A man eats.", "A person eats.")])
    """
    for spec in PIPELINES.values():
        if isinstance(model, HEADS[spec.head].model):
            name = default_pipeline(spec.head, encoder_of(model).config)
            assert name is not None
            return PIPELINES[name].build(model, tokenizer, batching=batching)
    kinds = ", ".join(spec.model.__name__ for spec in HEADS.values())
    raise InputError(f"no pipeline for a {type(model).__name__}: use one of {kinds}")


def _generates(model: Any) -> bool:
    return isinstance(model, MaskedLM) and default_pipeline("masked_lm", encoder_of(model).config) == "generate"


@overload
def predict(
    model: Deberta, tokenizer: Tokenizer, texts: _Texts, pairs: _Pairs = None, *, batching: Batching = BATCHING
) -> Float[np.ndarray, "B E"]: ...
@overload
def predict(
    model: MaskedLM, tokenizer: Tokenizer, texts: _Texts, pairs: _Pairs = None, *, batching: Batching = BATCHING
) -> list[list[list[PredictedToken]]] | list[Generated]: ...
@overload
def predict(
    model: SequenceClassification,
    tokenizer: Tokenizer,
    texts: _Texts,
    pairs: _Pairs = None,
    *,
    batching: Batching = BATCHING,
) -> list[Classification | Regression]: ...
@overload
def predict(
    model: TokenClassification,
    tokenizer: Tokenizer,
    texts: _Texts,
    pairs: _Pairs = None,
    *,
    batching: Batching = BATCHING,
) -> list[list[Entity]]: ...
@overload
def predict(
    model: QuestionAnswering,
    tokenizer: Tokenizer,
    texts: _Texts,
    pairs: _Pairs = None,
    *,
    batching: Batching = BATCHING,
) -> list[Answer]: ...
@overload
def predict(
    model: MultipleChoice, tokenizer: Tokenizer, texts: _Texts, pairs: _Pairs = None, *, batching: Batching = BATCHING
) -> list[Choice]: ...
@overload
def predict(
    model: EntityScoring, tokenizer: Tokenizer, texts: _Texts, pairs: _Pairs = None, *, batching: Batching = BATCHING
) -> list[list[Candidate]]: ...
@overload
def predict(
    model: ReplacedTokenDetection,
    tokenizer: Tokenizer,
    texts: _Texts,
    pairs: _Pairs = None,
    *,
    batching: Batching = BATCHING,
) -> list[list[DetectedToken]]: ...
def predict(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[Any] | None = None,
    *,
    batching: Batching = BATCHING,
) -> Any:
    """The predictions of the model's head for texts or pairs: calls `fill_mask`, `classify`, `answer`, ... by the head.

    A language model that was trained only to generate text (objective clm or seq2seq) generates.

    Args:
        model: a model with any head or none.
        tokenizer: its tokenizer.
        texts: the texts.
        pairs: the second texts for classification, the contexts of questions, the choices of texts, or, for entity
            ranking, a query and spans of entities per passage.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        What the function of the head returns with its default options.

    Raises:
        InputError: as the function of the head; pairs for a model that generates.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> [result] = dj.predict(model, tokenizer, ["A man eats."], ["A person eats."])
    """
    if isinstance(model, Deberta):
        return embed(model, tokenizer, texts, pairs, batching=batching)
    if pairs is not None and _generates(model):
        raise InputError("pairs: a model that was trained only to generate text continues single texts; omit pairs")
    columns: list[Sequence[Any]] = [texts] if pairs is None else [texts, pairs]
    if isinstance(model, EntityScoring) and pairs is not None:
        columns = [texts, [query for query, _ in pairs], [entities for _, entities in pairs]]
    return complete(pipeline(model, tokenizer, batching=batching), *columns)
