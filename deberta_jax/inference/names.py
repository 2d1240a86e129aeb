"""The names that select a pipeline or one of its options. Imports no JAX: the command line's help reads them."""

from typing import Literal

PipelineName = Literal[
    "fill-mask",
    "classification",
    "zero-shot",
    "score",
    "rank",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "entity-ranking",
    "replaced-tokens",
    "generate",
    "embeddings",
]
# What turns the logits of a classification head into scores; "auto" depends on the task and the model.
ScoreFunction = Literal["auto", "sigmoid", "softmax", "none"]
# The order in which the masks of a text are filled; "independent" predicts each mask with all others still masked.
FillOrder = Literal["independent", "left_to_right", "most_confident"]
