"""Language modeling from left to right (`--objective clm`): each state predicts the next token (appendix A.4)."""

import shlex
from pathlib import Path
from typing import Any

from deberta_jax.config import OBJECTIVE_KEY
from deberta_jax.data.language_modeling import Directions, OrderSequence
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.model.surgery import with_config
from deberta_jax.pretraining.baselines import BaselinesOf, accuracy_curve, loss_curve
from deberta_jax.pretraining.config import PretrainConfig, RtdConfig
from deberta_jax.pretraining.initial import find_initial_model
from deberta_jax.pretraining.mlm import MODEL, build, load_files
from deberta_jax.pretraining.objective_spec import ModelOptions, ObjectiveSpec, Results, Rows
from deberta_jax.pretraining.objectives import causal_lm_objective
from deberta_jax.pretraining.summary import accuracy_line
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.plot import Curves

_TITLE, _TOKEN = "Language modeling", "predicted token"


def _rows(config: PretrainConfig, unit: int, vocabulary: MaskingVocabulary) -> Rows:
    row = OrderSequence(Directions())
    return Rows(row, row)


def _curves(baselines_of: BaselinesOf) -> Curves:
    arguments = _TITLE, _TOKEN, baselines_of("")
    return {"loss": loss_curve(*arguments), "accuracy": accuracy_curve(*arguments)}


def _method(options: ModelOptions, training: TrainingConfig, _: RtdConfig) -> TrainingMethod:
    return one_objective(training, build(options), causal_lm_objective)


def trained_for(model: Any, objective: str) -> dict[str, Any]:
    """The model to export, with its objective in the config."""
    return {MODEL: with_config(model, extra={**model.config.extra, OBJECTIVE_KEY: objective})}


def _report(results: Results) -> list[str]:
    return [accuracy_line("language model", results.metrics, results.baselines(""), "predicted")]


def next_command(folder: Path) -> str:
    """The command that generates text with the model of a run."""
    return f'deberta-jax predict {shlex.quote(str(folder / MODEL))} --task generate --text "This is"'


CAUSAL_LM = ObjectiveSpec(
    rows=_rows,
    find_files=lambda init_from, _: find_initial_model(init_from),
    load_files=load_files,
    method=_method,
    curves=_curves,
    models=lambda model: trained_for(model, "clm"),
    report=_report,
    next_command=next_command,
)
