"""What the kinds of tasks with one text or text pair per example share: head, encoding and pipeline."""

from collections.abc import Callable
from typing import Any

from deberta_jax.finetuning.kinds.kind import (
    Averaging,
    ClassWeighting,
    CustomTable,
    Encoding,
    Kind,
    ReportContent,
    Targets,
)
from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.finetuning.outcomes import Outcome, outcome_pipeline
from deberta_jax.finetuning.strata import BY_LABEL, Stratification
from deberta_jax.finetuning.summary import WITH_MOST_FREQUENT, Comparison
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.encode import encode
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tokenizers.tokenizer import Tokenizer


def text_kind(
    name: str,
    problem_type: str,
    targets: Targets,
    objective: TaskObjective,
    to_outcome: Callable[[Any], Outcome],
    report: ReportContent,
    averaging: Averaging,
    table: CustomTable,
    class_weighting: ClassWeighting | None = None,
    stratification: Stratification = BY_LABEL,
    comparison: Comparison = WITH_MOST_FREQUENT,
) -> Kind:
    """A kind with the head "sequence_classification"; `to_outcome` converts a result of `classification_pipeline`."""

    def pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
        return outcome_pipeline(classification_pipeline(model, tokenizer, batching=batching), to_outcome)

    return Kind(
        name,
        "sequence_classification",
        Encoding(encode, targets),
        objective,
        pipeline,
        report,
        problem_type=problem_type,
        class_weighting=class_weighting,
        averaging=averaging,
        table=table,
        stratification=stratification,
        comparison=comparison,
        predict_options='--text "..."',
    )
