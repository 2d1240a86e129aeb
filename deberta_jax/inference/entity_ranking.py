"""Entity ranking: which entity of a passage fills the gap in a query."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import window_stride
from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.tokenizers.tokenizer import Tokenizer

PLACEHOLDER = "@placeholder"


class Candidate(NamedTuple):
    """An entity as written in the passage, its spans there, and the probability that it fills the gap."""

    text: str
    spans: list[tuple[int, int]]
    probability: float


def score_entities(
    model: Model,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    queries: Sequence[str],
    entities: Sequence[Sequence[tuple[int, int]]],
    *,
    batching: Batching = BATCHING,
) -> list[list[Candidate]]:
    """The entities of each passage by the probability that they fill the gap in a query, as in ReCoRD.

    Longer passages are read in windows that overlap by a quarter. Spans with the same text are one entity; its
    probability is the geometric mean over its spans in all windows that contain them (docs/numerics.md, "Task inputs").

    Args:
        model: a model with the head "entity_scoring".
        tokenizer: its tokenizer.
        passages: the passages.
        queries: a query for each passage, with @placeholder or the mask token in place of the entity.
        entities: for each passage its spans, start and end in characters.
        batching: sizes of batches and the maximum number of tokens of a window.

    Returns:
        For each passage its entities, the most likely first: `text`, `spans` and `probability`.

    Raises:
        InputError: a model without the head "entity_scoring"; with its index, an invalid example.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", "entity_scoring")  # a new head
        >>> passage, query = "Marie lives in Paris.", "The city is @placeholder."
        >>> [best, other] = dj.score_entities(model, tokenizer, [passage], [query], [[(0, 5), (15, 20)]])[0]
        >>> sorted([best.text, other.text])
        ['Marie', 'Paris']
    """
    return complete(score_entities_pipeline(model, tokenizer, batching=batching), passages, queries, entities)


def score_entities_pipeline(
    model: Model, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Candidate]]:
    """The pipeline of `score_entities`; an example is `(passage, query, entities)`."""
    require_head(model, "entity_scoring", "score_entities")
    return Pipeline(model, tokenizer, entity_scores, encode_entities, _read_candidates, batching)


def encode_entities(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int) -> EncodedRows:
    """The windows of examples `(passage, query, entities)`, with the positions of each entity's tokens [E, P]."""
    rows = encode(
        tokenizer,
        examples,
        max_length,
        texts_of=lambda example: [_passage_and_query(example, tokenizer.mask_token)],
        truncation="first",
        stride=window_stride(max_length),
    )
    in_passage = np.where(rows.batch.sequence_ids == 0, 1, 0)
    positions = [
        _entity_positions(inside, offsets, [_strip_span(examples[source][0], span) for span in examples[source][2]])
        for source, inside, offsets in zip(rows.batch.sources.tolist(), in_passage, rows.batch.offsets, strict=True)
    ]
    return rows._replace(positions=positions)


@jax.jit
def entity_scores(model: EntityScoring, inputs: ModelInputs) -> tuple[Float[Array, "B E"], Int[Array, "B E"]]:
    """Log probabilities of the entities, and whether an entity occurs in the row."""
    input_ids, attention_mask, token_type_ids, _ = inputs
    positions = jnp.asarray(inputs.positions)
    logits = model(input_ids, attention_mask, entity_positions=positions, token_type_ids=token_type_ids)
    return jax.nn.log_sigmoid(logits), (positions > 0).any(-1).astype(jnp.int32)


def _passage_and_query(example: tuple, mask: str) -> Texts:
    if len(example) != 3:
        raise InputError("expected a passage, a query and the spans of entities")
    passage, query, entities = example
    if not isinstance(passage, str) or not isinstance(query, str):
        raise InputError("the passage and the query must be strings")
    if query.replace(PLACEHOLDER, mask).count(mask) != 1:
        raise InputError(f"the query must contain {PLACEHOLDER} exactly once: {query[:60]!r}")
    for start, end in entities:
        if not 0 <= start < end <= len(passage) or not passage[start:end].strip():
            raise InputError(f"entity {start}:{end} is not a span of the passage of {len(passage)} characters")
    return passage, query.replace(PLACEHOLDER, mask)


def _strip_span(passage: str, span: tuple[int, int]) -> tuple[int, int]:
    """The span without white space at its ends, which no token covers."""
    start, end = span
    text = passage[start:end]
    return end - len(text.lstrip()), start + len(text.rstrip())


def _entity_positions(
    inside: Int[np.ndarray, "T"], offsets: Int[np.ndarray, "T 2"], entities: Sequence[tuple[int, int]]
) -> Int[np.ndarray, "E P"]:
    """The token positions of each entity in a window, padded with 0; none if the window does not contain all of it."""
    passage = np.flatnonzero(inside)
    starts, ends = offsets[passage].T if len(passage) else np.zeros((2, 0), np.int32)
    entity_tokens = []
    for start, end in entities:
        tokens = passage[(starts < end) & (ends > start)]
        complete_entity = len(tokens) > 0 and offsets[tokens[0], 0] <= start and offsets[tokens[-1], 1] >= end
        entity_tokens.append(tokens if complete_entity else tokens[:0])
    positions = np.zeros((len(entities), max(map(len, entity_tokens), default=0)), np.int32)
    for row, tokens in zip(positions, entity_tokens, strict=True):
        row[: len(tokens)] = tokens
    return positions


def _read_candidates(example: tuple, rows: list[EncodedRow]) -> list[Candidate]:
    passage, _, entities = example
    spans: dict[str, list[tuple[int, int]]] = {}
    scores: dict[str, list[float]] = {}
    for index, (start, end) in enumerate(entities):
        name = passage[start:end]
        spans.setdefault(name, []).append((int(start), int(end)))
        scores.setdefault(name, []).extend(
            row_scores[index].item() for row_scores, occurs in (row.outputs for row in rows) if occurs[index]
        )
    candidates = [
        Candidate(name, spans[name], float(np.exp(np.mean(scores[name]))) if scores[name] else 0.0) for name in spans
    ]
    return sorted(candidates, key=lambda candidate: -candidate.probability)
