"""Which entities of a passage fill the gap of a query."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, Rows, Texts, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import stride_of
from deberta_jax.model.heads import EntityScoring
from deberta_jax.tokenizers.tokenizer import Tokenizer

PLACEHOLDER = "@placeholder"


class Candidate(NamedTuple):
    """An entity as the passage writes it, where it stands, and the probability that it fills the gap."""

    text: str
    spans: list[tuple[int, int]]
    probability: float


def score_entities(
    model: EntityScoring,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    queries: Sequence[str],
    entities: Sequence[Sequence[tuple[int, int]]],
    *,
    batching: Batching = BATCHING,
) -> list[list[Candidate]]:
    """The entities of each passage, likeliest first; `entities` are starts and ends in characters of the passage.

    The query has @placeholder, or the mask, where the entity is wanted. Longer passages are read in windows that share
    a quarter of a row. Spans of the same text are one entity; its probability is the geometric mean over its spans in
    all windows that hold them (spec 8.3). Raises InputError with the number of what does not fit together.
    """
    return complete(score_entities_pipeline(model, tokenizer, batching=batching), passages, queries, entities)


def score_entities_pipeline(
    model: EntityScoring, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Candidate]]:
    """The task of `score_entities`, for `stream`; an example is `(passage, query, entities)`."""
    limit = limit_of(model, batching)

    def read(example: tuple, rows: list[Row]) -> list[Candidate]:
        return _ranked(example, [row.outputs for row in rows])

    def encoded(examples: Sequence[tuple]) -> Rows:
        return entity_rows(tokenizer, examples, limit)

    return Pipeline(model, entity_scores, encoded, read, limit, tokenizer.pad_id, batching)


def entity_rows(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> Rows:
    """The windows of examples `(passage, query, entities)`, with the places of each entity's tokens in them."""
    rows = encode(
        tokenizer,
        examples,
        texts_of=lambda example: [_passage_and_query(example, tokenizer.mask_token)],
        max_length=limit,
        truncation="first",
        stride=stride_of(limit),
    )
    inside = np.where(rows.batch.sequence_ids == 0, 1, 0)
    positions = [
        _positions(its, offsets, [_trimmed(examples[source][0], span) for span in examples[source][2]])
        for source, its, offsets in zip(rows.batch.sources.tolist(), inside, rows.batch.offsets, strict=True)
    ]
    return rows._replace(positions=positions)


@jax.jit
def entity_scores(
    model: EntityScoring,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
    positions: Int[Array, "B E P"],
) -> tuple[Float[Array, "B E"], Int[Array, "B E"]]:
    """Logarithms of the probabilities, and whether an entity stands in the row."""
    logits = model(input_ids, attention_mask, entity_positions=positions, token_type_ids=token_type_ids)
    return jax.nn.log_sigmoid(logits), (positions > 0).any(-1).astype(attention_mask.dtype)


def _passage_and_query(example: tuple, mask: str) -> Texts:
    if len(example) != 3:
        raise InputError("a passage, a query and the spans of entities are wanted")
    passage, query, entities = example
    if not isinstance(passage, str) or not isinstance(query, str):
        raise InputError("the passage and the query must be texts")
    if query.replace(PLACEHOLDER, mask).count(mask) != 1:
        raise InputError(f"the query must have one {PLACEHOLDER}: {query[:60]!r}")
    for start, end in entities:
        if not 0 <= start < end <= len(passage) or not passage[start:end].strip():
            raise InputError(f"entity from {start} to {end} is no stretch of the passage of {len(passage)} characters")
    return passage, query.replace(PLACEHOLDER, mask)


def _trimmed(passage: str, span: tuple[int, int]) -> tuple[int, int]:
    """Without the white space at its ends, which no token covers."""
    start, end = span
    inside = passage[start:end]
    return end - len(inside.lstrip()), start + len(inside.rstrip())


def _positions(
    inside: Int[np.ndarray, "T"], offsets: Int[np.ndarray, "T 2"], entities: Sequence[tuple[int, int]]
) -> Int[np.ndarray, "E P"]:
    """Which tokens of a window each entity has; none where it does not stand there as a whole, and 0 for no token."""
    found = []
    places = np.flatnonzero(inside)
    starts, ends = offsets[places].T if len(places) else np.zeros((2, 0), np.int32)
    for start, end in entities:
        its = places[(starts < end) & (ends > start)]
        whole = len(its) > 0 and offsets[its[0], 0] <= start and offsets[its[-1], 1] >= end
        found.append(its if whole else its[:0])
    positions = np.zeros((len(found), max(map(len, found), default=0)), np.int32)
    for row, its in zip(positions, found, strict=True):
        row[: len(its)] = its
    return positions


def _ranked(example: tuple, outputs: Sequence[tuple]) -> list[Candidate]:
    passage, _, entities = example
    spans: dict[str, list[tuple[int, int]]] = {}
    scores: dict[str, list[float]] = {}
    for place, (start, end) in enumerate(entities):
        name = passage[start:end]
        spans.setdefault(name, []).append((int(start), int(end)))
        scores.setdefault(name, []).extend(score[place].item() for score, stands in outputs if stands[place])
    ranked = [
        Candidate(name, its, float(np.exp(np.mean(scores[name]))) if scores[name] else 0.0)
        for name, its in spans.items()
    ]
    return sorted(ranked, key=lambda candidate: -candidate.probability)
