"""Sequence to sequence: a target text from a source text, with the mask of UniLM (Dong et al. 2019, section 2.2).

A sequence is [CLS] source [SEP] target [SEP]. The tokens of the source see each other, those of the target see the
source and the target so far. The last [SEP] of the source and each token of the target predict the next token.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.config import NEW_TOKENS_KEY, OBJECTIVE_KEY
from deberta_jax.finetuning import figures
from deberta_jax.finetuning.baselines import source_text
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake
from deberta_jax.finetuning.objectives import categorical_divergence, classification_losses, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, outcome_pipeline
from deberta_jax.finetuning.sections import Figure, Section
from deberta_jax.finetuning.summary import Comparison, one_example
from deberta_jax.inference.buckets import Batching, bucket_width
from deberta_jax.inference.encode import encode
from deberta_jax.inference.generation import generate_pipeline
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.custom_rows import SEQ2SEQ as ROW_PARSER
from deberta_jax.tasks.examples import Seq2SeqExample
from deberta_jax.tasks.seq2seq_metrics import seq2seq_scores
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.objective import ArrayBatch


def _config_keys(tokenizer: Tokenizer, examples: Sequence[Seq2SeqExample], max_length: int) -> dict[str, Any]:
    """The objective, and the number of tokens of the longest target with [SEP], which training truncates."""
    lengths = map(len, tokenizer.encode_many([example.target or "" for example in examples]))
    return {OBJECTIVE_KEY: "seq2seq", NEW_TOKENS_KEY: min(max(lengths, default=0) + 1, max_length)}


def _targets(
    example: Seq2SeqExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    """The positions that predict the target, and the tokens they predict."""
    [window] = windows
    positions = np.arange(window.second_start - 1, len(window.input_ids) - 1, dtype=np.int32)
    yield single_feature(
        window,
        positions=positions,
        labels=window.input_ids[positions + 1].astype(np.int32),
        weights=np.ones(len(positions), np.float32),
        source_lengths=np.int32(window.second_start),
    )


def _outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Float[Array, "B M V"]:
    """Logits of the tokens of the targets."""
    input_ids = batch["input_ids"]
    position = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    order = jnp.where(position < batch["source_lengths"][:, None], 0, position)
    return model(input_ids, batch["attention_mask"], order=order, masked_positions=batch["positions"], key=key)


def _pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    return outcome_pipeline(
        generate_pipeline(model, tokenizer, batching=batching), lambda generated: Outcome(generated.text)
    )


def _scores(item: PredictedExample) -> dict[str, float]:
    return seq2seq_scores([item.example], [str(item.prediction)])


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    means = seq2seq_scores([item.example for item in predicted], [str(item.prediction) for item in predicted])
    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "exact_match": "exact match"}
    shown = {name: means[key] for key, name in names.items()}
    path = figures.bars(shown, "mean score", folder / "scores.png", title="Generated and reference texts")
    return [Section("Texts", figure=Figure(path, "Mean ROUGE F1 and exact match"))]


def _mistake(item: PredictedExample) -> Mistake:
    severity = 1 - _scores(item)["rougeL"]
    return Mistake(severity, item.example.target or "", str(item.prediction), item.example.source)


SEQ2SEQ = Kind(
    name="seq2seq",
    head="masked_lm",
    encoding=Encoding(
        encode,
        _targets,
        training_inputs=lambda example: (example.source, example.target),
        padded_shape=lambda shape, length: [bucket_width(size) for size in shape],
    ),
    objective=weighted_objective(_outputs, classification_losses, categorical_divergence),
    pipeline=_pipeline,
    config_keys=_config_keys,
    empty_prediction="",
    table=CustomTable(ROW_PARSER, seq2seq_scores, "rougeL"),
    report=ReportContent(_figures, _mistake, "1 - ROUGE-L"),
    comparison=Comparison(
        source_text,
        mean_metrics={metric: one_example(metric) for metric in ("rouge1", "rouge2", "rougeL", "exact_match")},
    ),
    predict_options='--task generate --text "..."',
)
