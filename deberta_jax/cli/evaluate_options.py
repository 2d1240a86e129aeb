"""The options of `deberta-jax evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deberta_jax.config import AttentionName, Precision
from deberta_jax.finetuning.recipes import max_length_of
from deberta_jax.inference.buckets import BATCHING
from deberta_jax.tasks.catalogue import DESCRIPTIONS
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import MAX_MALFORMED


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a fine-tuned model on a task: metrics, predictions for the leaderboard, and a report.

    All splits except the training set are predicted, and scored if they have labels. Several models are evaluated one
    after the other, and then as an ensemble, which averages their probabilities. For squad and squad2, a prediction
    file can be scored instead of a model.
    """

    models: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--model",))] = ()
    """Model folders, or owner/name on the Hugging Face hub, with a head for the task."""
    base: str | None = None
    """Base model of PEFT adapters; by default the one that an adapter names."""
    data: Path | None = None
    """Folder with the task's files under their official names. For `generic` also one file, evaluated as a whole."""
    folder: Path | None = None
    """Folder for metrics, predictions and the report; by default the metrics are only printed."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    labels: tuple[str, ...] = ()
    """Names of the labels, or of the tags, if the table gives them as numbers from 0 (generic)."""
    encoding: str | None = None
    """Encoding of text files, such as latin-1; by default UTF-8, or what the byte-order mark says (generic, ner)."""
    max_malformed: float = MAX_MALFORMED
    """Share of malformed rows up to which a file is read; rows without a label are not malformed."""
    metric: str | None = None
    """Main metric, with its interval and its baseline, such as f1_macro, auc or quadratic_kappa (docs/tasks.md); by
    default that of the task."""
    max_length: int = 256
    """Longest sequence in tokens."""
    batch_tokens: int = BATCHING.batch_tokens
    """Tokens per batch, including padding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of parameters and computation."""
    precision: Precision = "float32"
    """Precision of float32 matrix products: tf32 is faster on GPU and TPU, and has no effect with bfloat16."""
    attention: AttentionName = "auto"
    """Implementation of attention (docs/attention.md); auto chooses by device and length."""
    no_answer_threshold: float | None = None
    """Predict no answer if its score exceeds that of the best span by more than this; by default the best value for the
    first labelled split (squad2)."""
    predictions: Path | None = None
    """Prediction file to score instead of a model (squad, squad2)."""
    null_odds: Path | None = None
    """File with the no-answer scores of --predictions (squad2)."""
    task: tyro.conf.Suppress[str] = ""
    """Name of the task, set by the recipe."""


@dataclasses.dataclass(frozen=True)
class PerplexityConfig:
    """Evaluate a language model on text: perplexity per token and per word, from left to right.

    The model is one that `pretrain --objective clm` or `mt` trained. Each document is read as [CLS] text, and each
    of its tokens is predicted once from the tokens before it. Longer documents are read in windows that overlap
    (docs/pretraining.md, "Language models").
    """

    model: str | None = None
    """Model folder, or owner/name on the Hugging Face hub, with a masked language model head."""
    base: str | None = None
    """Base model of a PEFT adapter; by default the one that the adapter names."""
    data: tuple[str, ...] = ()
    """Text files or glob patterns, as `pretrain` reads them: .txt with blank lines between documents, .jsonl,
    .parquet."""
    max_length: int | None = None
    """Tokens of a window, including [CLS]; by default the model's number of positions."""
    stride: int | None = None
    """Tokens that windows move by; by default half of the maximum length."""
    batch_tokens: int = BATCHING.batch_tokens
    """Tokens per batch, including padding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of parameters and computation; probabilities are computed in float32."""
    precision: Precision = "float32"
    """Precision of float32 matrix products: tf32 is faster on GPU and TPU, and has no effect with bfloat16."""
    attention: AttentionName = "auto"
    """Implementation of attention (docs/attention.md); auto chooses by device and length."""


NOUN = "TASK"
PERPLEXITY = "perplexity"
RECIPES = {**DESCRIPTIONS, PERPLEXITY: "text files, with a language model: perplexity per token and per word"}


def recipe(name: str, selection: None = None) -> EvaluateConfig | PerplexityConfig:
    """The default options of a task."""
    if name == PERPLEXITY:
        return PerplexityConfig()
    return EvaluateConfig(task=name, max_length=max_length_of(name))
