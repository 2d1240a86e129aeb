"""Masked language modeling (`--objective mlm`), the objective of DeBERTa v1 and v2."""

import shlex
from typing import Any

from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.pretraining.baselines import BaselinesOf, accuracy_curve, loss_curve
from deberta_jax.pretraining.config import RtdConfig
from deberta_jax.pretraining.initial import InitialFiles, find_initial_model, load_file
from deberta_jax.pretraining.objective_spec import ModelOptions, ObjectiveSpec, Results, masked_rows
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.pretraining.summary import accuracy_line, fill_sentences, filled_lines
from deberta_jax.tokenizers.special_tokens import MASK
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.plot import Curves
from deberta_jax.training.state import Build

# Folder of the exported model in the run folder.
MODEL = "model"
_TITLE, _TOKEN = "Masked language modeling", "masked token"


def build(options: ModelOptions) -> Build:
    """A function of a key that returns a language model."""
    decoder = options.enhanced_mask_decoder
    return lambda key: MaskedLM(options.config, enhanced_mask_decoder=decoder, key=key, **options.arguments)


def _curves(baselines_of: BaselinesOf) -> Curves:
    arguments = _TITLE, _TOKEN, baselines_of("")
    return {"loss": loss_curve(*arguments), "accuracy": accuracy_curve(*arguments)}


def _method(options: ModelOptions, training: TrainingConfig, _: RtdConfig) -> TrainingMethod:
    return one_objective(training, build(options), masked_lm_objective)


def load_files(files: InitialFiles, options: ModelOptions, _: RtdConfig, key: PRNGKeyArray, mesh: Mesh) -> Any:
    """The language model of a file."""
    assert files.model is not None
    return load_file(build(options), options.config, files.model, key, mesh)


def _report(results: Results) -> list[str]:
    model, _ = from_pretrained(results.folder / MODEL, head="masked_lm")
    predictions = fill_sentences(model, results.tokenizer, results.sentences)
    accuracy = accuracy_line("masked LM", results.metrics, results.baselines(""))
    return [accuracy, *filled_lines(results.sentences, predictions)]


MASKED_LM = ObjectiveSpec(
    rows=masked_rows,
    find_files=lambda init_from, _: find_initial_model(init_from),
    load_files=load_files,
    method=_method,
    curves=_curves,
    models=lambda model: {MODEL: model},
    report=_report,
    next_command=lambda folder: (
        f'deberta-jax predict {shlex.quote(str(folder / MODEL))} --text "This is a {MASK} sentence."'
    ),
)
