"""The training runs of `deberta-jax finetune`: one run, and the trials of a search."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.initial import ModelSpec
from deberta_jax.finetuning.recipes import published_grid
from deberta_jax.finetuning.run import RunInputs, finetune
from deberta_jax.finetuning.search import search
from deberta_jax.finetuning.search_report import ranked, search_section, summary_lines
from deberta_jax.finetuning.search_space import with_options
from deberta_jax.finetuning.sections import Section
from deberta_jax.processes.first_process import print_once
from deberta_jax.tasks.catalogue import data_name
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.objective import Objective

# Dropout before the classifier, None for that of the model -> the model to train.
MakeModel = Callable[[float | None], ModelSpec]


def print_plan(config: FinetuneConfig, inputs: RunInputs) -> None:
    """Print the length of the run and its options, and the published grid of the model if there is one."""
    steps = batches_in_epoch(len(inputs.features), config.batch_size)
    print_once(
        f"{inputs.task.name}: {config.epochs:g} epochs of {steps:,} steps, batch size {config.batch_size}, learning "
        f"rate {config.optimizer.learning_rate:g}, at most {config.max_length} tokens, {config.compute_dtype}"
    )
    if grid := published_grid(inputs.task.name, config.model):
        print_once(f"published for this model: {grid}")


def train_run(
    config: FinetuneConfig,
    inputs: RunInputs,
    objective: Objective,
    folder: Path,
    training: TrainingConfig,
    settings: Mapping[str, Any],
) -> dict[str, float]:
    """Train in a folder, or resume; returns the metrics of the best model."""
    return finetune(
        inputs,
        folder,
        training,
        settings,
        max_length=config.max_length,
        objective=objective,
        patience=config.patience,
        lora=config.lora if config.lora.rank else None,
        average_decay=config.techniques.ema,
        awp=config.techniques.awp if config.techniques.awp.learning_rate else None,
        wandb=config.wandb,
    )


def run_search(
    config: FinetuneConfig, inputs: RunInputs, objective: Objective, settings: Mapping[str, Any], make_model: MakeModel
) -> tuple[FinetuneConfig, list[Section]]:
    """Train all trials and keep the model of the best; returns its options, and the section of the report."""
    print_plan(config, inputs)
    metric = inputs.task.best_metric

    def train(trial: FinetuneConfig, folder: Path, training: TrainingConfig) -> dict[str, float]:
        trial_inputs = inputs._replace(model=make_model(trial.head_dropout))
        trial_settings = {**settings, **trial.settings(), "seed": trial.seed}
        return train_run(trial, trial_inputs, objective, folder, training, trial_settings)

    trials = search(config, len(inputs.features), settings, train)
    best = ranked(trials, metric)[0]
    sections: list[Section] = []
    if jax.process_index() == 0:
        keep_run(config.folder, config.folder / best.folder)
        sections = [search_section(config.folder, trials, metric, data_name(inputs.task, config.data or Path()))]
        print_once("\n".join(summary_lines(trials, metric)))
    return with_options(config, best.options), sections


def keep_run(folder: Path, best: Path) -> None:
    """Copy the model of the best of several runs, its adapters and its metrics from its folder to `folder`."""
    for name in ("model", "adapter"):
        if (best / name).is_dir():
            shutil.copytree(best / name, folder / name, dirs_exist_ok=True)
    shutil.copy(best / "metrics.jsonl", folder / "metrics.jsonl")
