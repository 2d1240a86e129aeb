"""Masked and auto-regressive language modeling in one batch (`--objective mt`), DeBERTa-MT of appendix A.4.

Each batch has two kinds of rows: masked ones, and auto-regressive ones in the directions of UniLM (Dong et al. 2019).
Every predicted token counts once, so auto-regressive rows, which predict all their tokens, count more than masked ones.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from deberta_jax.data.batches import BothKinds, MaskSequence, TwoKinds
from deberta_jax.data.language_modeling import Directions, OrderSequence
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.pretraining.baselines import BaselinesOf, accuracy_curve, loss_curve
from deberta_jax.pretraining.clm import next_command, trained_for
from deberta_jax.pretraining.config import PretrainConfig, RtdConfig
from deberta_jax.pretraining.initial import find_initial_model
from deberta_jax.pretraining.mlm import MODEL, build, load_files
from deberta_jax.pretraining.objective_spec import ModelOptions, ObjectiveSpec, Results, Rows
from deberta_jax.pretraining.objectives import causal_lm_objective, masked_lm_objective
from deberta_jax.pretraining.summary import accuracy_line, fill_sentences, filled_lines
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.objective import ArrayBatch, Sums
from deberta_jax.training.plot import Curves

MASKED, ORDERED = "masked/", "ordered/"


class BothSums(NamedTuple):
    """The sums over masked and over auto-regressive rows."""

    masked: Sums
    ordered: Sums


def _rows(config: PretrainConfig, unit: int, vocabulary: MaskingVocabulary) -> Rows:
    batch_size = config.training.batch_size
    masking, names = config.data.masking, (MASKED, ORDERED)
    masked = MaskSequence(vocabulary, masking)
    number = config.mt.masked_rows(batch_size, unit)
    divisor = math.gcd(number, batch_size)
    kinds = masked, OrderSequence(config.mt.directions)
    training = TwoKinds(names, kinds, number // divisor, batch_size // divisor)
    return Rows(training, BothKinds(names, (masked, OrderSequence(Directions()))))


def both_sums(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> BothSums:
    """The sums of `masked_lm_objective` and of `causal_lm_objective` over their rows."""
    keys = (None, None) if key is None else jax.random.split(key)
    masked, ordered = (
        {name.removeprefix(prefix): x for name, x in batch.items() if name.startswith(prefix)}
        for prefix in (MASKED, ORDERED)
    )
    return BothSums(masked_lm_objective(model, masked, keys[0]), causal_lm_objective(model, ordered, keys[1]))


def mixed_lm_objective(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
    """The sums of both objectives together; the metrics are the mean loss of each.

    The arrays of the batch are those of `masked_lm_objective` and `causal_lm_objective`, with the prefixes `MASKED` and
    `ORDERED`.
    """
    both = both_sums(model, batch, key)
    loss, weight, tokens = (sum(getattr(part, name) for part in both) for name in ("loss", "weight", "tokens"))
    means = {f"{name}_loss": part.loss / jnp.maximum(part.weight, 1) for name, part in both._asdict().items()}
    return Sums(loss, weight, tokens, {name: mean * weight for name, mean in means.items()})


def _summarize(sums: BothSums) -> dict[str, float]:
    """Loss, perplexity and accuracy of both kinds; those without a prefix are of next tokens."""
    # In training, "loss" is that of both kinds.
    metrics = {"ordered_loss": float(sums.ordered.loss / sums.ordered.weight)}
    for prefix, part in (("", sums.ordered), ("masked_", sums.masked)):
        loss = float(part.loss / part.weight)
        metrics |= {f"{prefix}loss": loss, f"{prefix}perplexity": math.exp(min(loss, 700))}
        metrics |= {f"{prefix}accuracy": float(part.metrics["accuracy"] / part.weight)}
    return metrics


def _curves(baselines_of: BaselinesOf) -> Curves:
    masked = "Masked rows", "masked token", baselines_of(MASKED)
    ordered = "Auto-regressive rows", "predicted token", baselines_of(ORDERED)
    return {
        "masked_loss": loss_curve(*masked),
        "ordered_loss": loss_curve(*ordered),
        "masked_accuracy": accuracy_curve(*masked),
        "accuracy": accuracy_curve(*ordered),
    }


def _method(options: ModelOptions, training: TrainingConfig, _: RtdConfig) -> TrainingMethod:
    method = one_objective(training, build(options), mixed_lm_objective)
    return method._replace(evaluate=lambda model, batch, number: both_sums(model, batch, None), summarize=_summarize)


def _report(results: Results) -> list[str]:
    metrics = results.metrics
    masked = {name.removeprefix("masked_"): value for name, value in metrics.items() if name.startswith("masked_")}
    model, _ = from_pretrained(results.folder / MODEL, head="masked_lm")
    predictions = fill_sentences(model, results.tokenizer, results.sentences)
    return [
        accuracy_line("language model", metrics, results.baselines(ORDERED), "predicted"),
        accuracy_line("masked LM", masked, results.baselines(MASKED)),
        *filled_lines(results.sentences, predictions),
    ]


MIXED_LM = ObjectiveSpec(
    rows=_rows,
    find_files=lambda init_from, _: find_initial_model(init_from),
    load_files=load_files,
    method=_method,
    curves=_curves,
    models=lambda model: trained_for(model, "mt"),
    report=_report,
    next_command=next_command,
)
