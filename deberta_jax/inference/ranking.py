"""Ranking of documents by their relevance to a query, with a cross-encoder: a model that reads both together."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, check_at_least, list_names
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.classification import class_logits
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts, encode
from deberta_jax.inference.models import max_row_length, require_head, require_tokenizer
from deberta_jax.inference.names import ScoreFunction
from deberta_jax.inference.score_functions import SCORE_FUNCTIONS, check_function, folder_function, label_index
from deberta_jax.inference.stream import Pipeline, stream
from deberta_jax.inference.windows import encode_second_windows
from deberta_jax.model.deberta import encoder_of
from deberta_jax.tokenizers.tokenizer import Tokenizer

# transformers writes a much larger number for a tokenizer without a maximum length.
_NO_LIMIT = 1_000_000


class LongQuery(InputError):
    """A query that leaves no room for a window of a document."""


class RankedDocument(NamedTuple):
    """A document, its index in the list of documents, and its score; a higher score is more relevant."""

    index: int  # type: ignore[assignment]
    document: str
    score: float


def rank(
    model: Model,
    tokenizer: Tokenizer,
    query: str,
    documents: Sequence[str],
    *,
    top: int | None = 10,
    windows: bool = False,
    relevant: str | None = None,
    function: ScoreFunction = "auto",
    batching: Batching = BATCHING,
) -> list[RankedDocument]:
    """The documents with the highest scores for a query, by a cross-encoder.

    Query and document are one pair of texts. The score of a model with one label is its logit under `function`, that
    of a model with several labels the probability of the label `relevant`.

    Args:
        model: a model with the head "sequence_classification".
        tokenizer: its tokenizer.
        query: one query; call `rank` for each.
        documents: the documents.
        top: the number of documents to return; None for all.
        windows: read a longer document in windows that overlap by a quarter of a row; it has the score of its best
            window. Otherwise it is truncated, which is logged.
        relevant: the label of relevant documents of a model with several labels.
        function: "softmax", "sigmoid" or "none"; "auto" is what sentence-transformers stored in the folder, else the
            sigmoid, as in its CrossEncoder.
        batching: sizes of batches; pairs have at most the tokenizer's `model_max_length` tokens unless it says more.

    Returns:
        The best documents first, ties in their order: `index`, `document` and `score`.

    Raises:
        InputError: a model without the head; a label that is missing; with its index, an invalid document.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("mixedbread-ai/mxbai-rerank-base-v1", "sequence_classification")
        >>> best = dj.rank(model, tokenizer, "How do bees fly?", ["Bees beat their wings.", "Cats sleep."], top=1)[0]
    """
    if not isinstance(query, str):
        raise InputError(f"the query must be a string, not {type(query).__name__}: call rank for each query")
    if isinstance(documents, str):
        raise InputError(f"expected a list of documents, not a single text: {documents[:40]!r}; put it in a list")
    check_at_least("top", top, 1)
    pipeline = rank_pipeline(
        model, tokenizer, top=None, windows=windows, relevant=relevant, function=function, batching=batching
    )
    scores = []
    # One document per example: chunks of documents are tokenized while the device computes.
    outcomes = stream(pipeline, ((query, [document]) for document in documents))
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, LongQuery):
            raise outcome
        if isinstance(outcome, InputError):
            raise InputError(f"document {index}: {str(outcome).removeprefix('document 0: ')}")
        scores.append(outcome[0].score)
    return _best_documents(documents, scores, top)


def rank_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    *,
    top: int | None = 10,
    windows: bool = False,
    relevant: str | None = None,
    function: ScoreFunction = "auto",
    batching: Batching = BATCHING,
) -> Pipeline[list[RankedDocument]]:
    """The pipeline of `rank`; an example is `(query, documents)`."""
    require_head(model, "sequence_classification", "rank")
    check_at_least("top", top, 1)
    config = encoder_of(model).config
    label = _relevant_label(config, relevant)
    function = _default_function(config) if function == "auto" else function
    check_function(function, config.labels)
    to_scores = SCORE_FUNCTIONS[function]

    def read(example: tuple, rows: list[EncodedRow]) -> list[RankedDocument]:
        documents = example[1]
        scores = [-np.inf] * len(documents)
        for row in rows:
            row_score = float(to_scores(row.outputs.astype(np.float64))[label])
            scores[row.part] = max(scores[row.part], row_score)
        return _best_documents(documents, scores, top)

    encode_pairs = encode_windows if windows else functools.partial(encode, texts_of=_query_and_documents)
    require_tokenizer(tokenizer)
    batching = _with_max_length(model, tokenizer, batching)
    return Pipeline(model, tokenizer, class_logits, encode_pairs, read, batching, counts_rows=True)


def _with_max_length(model: Model, tokenizer: Tokenizer, batching: Batching) -> Batching:
    """The batching with the maximum length of `tokenizer_config.json`, if none is given, as in CrossEncoder."""
    limit = tokenizer.settings.get("model_max_length")
    if batching.max_length is not None or not isinstance(limit, int | float) or not 3 < limit < _NO_LIMIT:
        return batching
    return dataclasses.replace(batching, max_length=min(int(limit), max_row_length(model, batching)))


def _relevant_label(config: DebertaConfig, relevant: str | None) -> int:
    """The index of the label of relevant documents."""
    if relevant is not None:
        return label_index(config.labels, relevant, "relevant")
    if len(config.labels) > 1:
        raise InputError(
            f"the model's labels are {list_names(config.labels)}: name the one of relevant documents with relevant=... "
            "(--relevant)"
        )
    return 0


def _default_function(config: DebertaConfig) -> ScoreFunction:
    if len(config.labels) == 1:
        return folder_function(config) or "sigmoid"
    return "sigmoid" if config.problem_type == "multi_label_classification" else "softmax"


def encode_windows(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int) -> EncodedRows:
    """The overlapping windows of the documents of examples `(query, documents)`, each with its query."""
    rows = encode_second_windows(tokenizer, examples, max_length, texts_of=_query_and_documents)
    for source, error in rows.errors.items():
        # The only advice of this kind: the query and the special tokens fill the row.
        if str(error).endswith("increase max_length"):
            size = len(tokenizer.encode(examples[source][0]))
            rows.errors[source] = LongQuery(
                f"the query is too long: {size} tokens leave no room for windows of documents in rows of {max_length} "
                "tokens; shorten it, or increase max_length"
            )
    return rows


def _query_and_documents(example: tuple) -> list[Texts]:
    if len(example) != 2 or isinstance(example[1], str) or not isinstance(example[1], Sequence):
        raise InputError("expected a query and a list of documents")
    query, documents = example
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            raise InputError(
                f"document {index}: expected a string, not {type(document).__name__}: {str(document)[:40]}"
            )
    return [(query, document) for document in documents]


def _best_documents(documents: Sequence[str], scores: Sequence[float], top: int | None) -> list[RankedDocument]:
    """The documents by descending score, ties by index; NaN is last."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:top]
    return [RankedDocument(index, documents[index], scores[index]) for index in order.tolist()]
