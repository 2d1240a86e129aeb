"""Entity ranking: the entity of a passage that fills the gap of a query."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning.baselines import first_entity
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import Averaging, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake, joined, log_loss
from deberta_jax.finetuning.objectives import Losses, binary_divergence, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities, outcome_pipeline
from deberta_jax.finetuning.sections import Section, Table
from deberta_jax.finetuning.summary import Comparison, one_example
from deberta_jax.inference.buckets import Batching, bucket_width
from deberta_jax.inference.entity_ranking import encode_entities, score_entities_pipeline
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.examples import EntityExample
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.losses import binary_cross_entropy
from deberta_jax.training.objective import ArrayBatch


def _targets(
    example: EntityExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    """The windows that contain an entity; every occurrence of a correct entity is correct."""
    answers = set(example.answers or ())
    labels = np.asarray([example.passage[start:end] in answers for start, end in example.entities], np.float32)
    for window in windows:
        assert window.positions is not None
        contained = np.asarray((window.positions > 0).any(-1), np.float32)
        if contained.any():
            positions = window.positions.astype(np.int32)
            yield single_feature(window, entity_positions=positions, labels=labels, weights=contained)


def _outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Float[Array, "B E"]:
    return model(
        batch["input_ids"],
        batch["attention_mask"],
        entity_positions=batch["entity_positions"],
        token_type_ids=batch["token_type_ids"],
        key=key,
    )


def _losses(logits: Float[Array, "B E"], batch: ArrayBatch) -> Losses:
    """Binary cross entropies; an entity that a window does not contain has weight 0."""
    correct = (logits > 0) == (batch["labels"] > 0.5)
    return Losses(binary_cross_entropy(logits, batch["labels"]), correct)


def _pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def to_outcome(candidates: Any) -> Outcome:
        best = candidates[0].text if candidates else ""
        return Outcome(best, {candidate.text: candidate.probability for candidate in candidates})

    return outcome_pipeline(score_entities_pipeline(model, tokenizer, batching=batching), to_outcome)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    probabilities = mean_probabilities(outcomes)
    return Outcome(max(probabilities, key=probabilities.__getitem__, default=""), probabilities)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    counts = Counter("correct" if item.prediction in item.example.answers else "wrong" for item in predicted)
    return [Section("Queries", table=Table(("prediction", "queries"), sorted(counts.items())))]


def _mistake(item: PredictedExample) -> Mistake:
    answers, probabilities = item.example.answers, item.probabilities or {}
    loss = log_loss(max((probabilities.get(answer, 0.0) for answer in answers), default=0.0))
    text = joined(item.example.query, item.example.passage)
    return Mistake(0.0 if item.prediction in answers else loss, " / ".join(answers), str(item.prediction), text)


ENTITY_RANKING = Kind(
    name="entity_ranking",
    head="entity_scoring",
    encoding=Encoding(
        encode_entities, _targets, padded_shape=lambda shape, length: [bucket_width(size) for size in shape]
    ),
    objective=weighted_objective(_outputs, _losses, binary_divergence),
    pipeline=_pipeline,
    empty_prediction="",
    averaging=Averaging(_average),
    comparison=Comparison(
        first_entity, mean_metrics={metric: one_example(metric) for metric in ("exact_match", "f1", "mean")}
    ),
    report=ReportContent(_figures, _mistake, "loss"),
)
