"""`deberta-jax finetune TASK`: fine-tune a model on the files of a task, evaluate it, and write a report."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from deberta_jax.cli.finetune_results import FinetuneRun, finish, finish_folds
from deberta_jax.cli.finetune_runs import keep_run, print_plan, run_search, train_run
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder, write_json
from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.best_model import best_run
from deberta_jax.finetuning.class_weights import class_weights
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.cross_validation import check_folds
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.documents import text_fields, with_windows
from deberta_jax.finetuning.evaluate import metric_names
from deberta_jax.finetuning.fgm import fgm
from deberta_jax.finetuning.initial import ModelSpec, PretrainedFolder, model_spec, open_pretrained
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import Kind, objective_with_options
from deberta_jax.finetuning.multi_sample import multi_sample
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.run import RunInputs
from deberta_jax.finetuning.sections import Section
from deberta_jax.finetuning.sift import sift
from deberta_jax.finetuning.splits import divide
from deberta_jax.finetuning.training_set import digest, features_of
from deberta_jax.hub.digests import tensors_sha256
from deberta_jax.hub.upload import check_upload
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.models import max_row_length
from deberta_jax.model.attention import check_attention_runs
from deberta_jax.processes.first_process import agree, check_shared, on_first_process, print_once
from deberta_jax.processes.join import join, option_values
from deberta_jax.tasks.catalogue import check_labels, find_splits, labels_of, load, with_data, without_placeholders
from deberta_jax.tasks.selected_metrics import with_metric
from deberta_jax.tasks.task import Task
from deberta_jax.training.objective import Objective
from deberta_jax.training.tracking import check_wandb


def run(config: FinetuneConfig) -> None:
    """Read the files, train, evaluate the best model, and write the results."""
    join(config.processes, option_values(config))
    if config.data is None:
        raise InputError("no data given: use --data with the folder of the task's files")
    task = find_task(config.task, config.columns, labels=config.labels, encoding=config.encoding)
    paths = find_splits(task, config.data)
    if task.trained_on:
        raise InputError(f"{task.name} has no training set: fine-tune on {task.trained_on}, then evaluate {task.name}")
    if "train" not in paths:
        raise InputError(f"{config.data}: no file for the split train; expected {task.file_names('train')}")
    if config.folds:
        check_folds(KINDS[task.kind])
    check_wandb(config.wandb)
    if config.upload.push_to_hub:
        on_first_process(partial(check_upload, config.upload.push_to_hub))
    pretrained = open_pretrained(config.model)
    check_attention_runs(config.attention, pretrained.config, config.compute_dtype, training=True)
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(lock_folder(config.folder)))
        check_shared(config.folder)
        _run(config, task, pretrained, paths)


def _run(config: FinetuneConfig, task: Task, pretrained: PretrainedFolder, paths: Mapping[str, Sequence[Path]]) -> None:
    task = task.fit(task, paths)
    splits = {split: load(task, split_paths, split, config.max_malformed) for split, split_paths in paths.items()}
    reports = [report for examples in splits.values() for report in examples.reports]
    for report in reports:
        print_once(report.details())
    kind = with_windows(KINDS[task.kind], config.texts)
    splits, folds = divide(task, kind, paths, splits, share=config.held_out, folds=config.folds, seed=config.seed)
    train = splits["train"].examples
    held_out = splits["dev"].examples if "dev" in splits else train
    task = with_data(task, train, held_out)
    labels = labels_of(task, train)
    splits = without_placeholders(splits, labels)
    check_labels(labels, splits)
    if config.metric is not None:
        task = with_metric(task, config.metric, labels, metric_names(task, kind, train, held_out))
    config.layers.check(pretrained.config, lora_rank=config.lora.rank, from_scratch=config.from_scratch)
    config_keys = kind.config_keys(pretrained.tokenizer, train, config.max_length)
    make_model = partial(_model, config, pretrained, kind, labels, config_keys)
    model = make_model(config.head_dropout)
    # Otherwise the first long batch, or the first evaluation, would fail.
    max_row_length(jax.eval_shape(model.build, jax.random.key(0)), Batching(max_length=config.max_length))
    # A head of the file with the same labels keeps their order.
    labels = model.config.labels if labels else ()
    weights = "" if config.from_scratch else tensors_sha256([pretrained.tensors])
    content = {"model": weights, "tokenizer": pretrained.tokenizer.sha256}
    run = FinetuneRun(task, kind, pretrained, model, labels, splits, paths, content)
    if folds is not None:
        _cross_validate(config, run, folds)
        return
    inputs, objective, settings = _prepare(config, run, train, held_out)
    seeds: list[dict[str, float]] = []
    sections: list[Section] = []
    if config.search:
        config, sections = run_search(config, inputs, objective, settings, make_model)
        settings |= config.settings()
    else:
        seeds = _train(config, inputs, objective, settings)
    if jax.process_index() == 0:
        finish(config, run, settings, seeds, sections)


def _prepare(
    config: FinetuneConfig, run: FinetuneRun, train: Sequence[Any], held_out: Sequence[Any], fold: str | None = None
) -> tuple[RunInputs, Objective, dict[str, Any]]:
    """What a run trains, its objective, and its settings with the digests of what was read."""
    task, kind, pretrained, model, labels, *_ = run
    features, report = features_of(kind, pretrained.tokenizer, train, labels, config.max_length)
    if report.skipped:
        print_once(report.details())
    inputs = RunInputs(task, kind, model, pretrained.tokenizer, features, held_out, train)
    settings = config.settings() | {"rows": digest(features), "content": run.content}
    if fold is not None:
        settings["fold"] = fold
    agree({"the training examples": settings["rows"], **{f"the content of the {k}": v for k, v in run.content.items()}})
    return inputs, _objective(config, kind, labels, train), settings


def _cross_validate(config: FinetuneConfig, run: FinetuneRun, folds: Int[np.ndarray, "B"]) -> None:
    """Train on all folds but one, for each of them; evaluate the models and their ensemble, and write the results."""
    examples = run.splits["train"].examples
    folders, metrics = [config.folder / f"fold-{fold}" for fold in range(config.folds)], []
    for fold, folder in enumerate(folders):
        train, held_out = ([e for e, k in zip(examples, folds, strict=True) if (k == fold) == s] for s in (False, True))
        print_once(f"fold {fold} of {config.folds}: {len(train):,} examples, {len(held_out):,} held out")
        one = dataclasses.replace(config, folder=folder, folds=0)
        inputs, objective, settings = _prepare(one, run, train, held_out, f"{fold} of {config.folds}")
        metrics += _train(one, inputs, objective, settings)
    if jax.process_index() == 0:
        finish_folds(config, run, folders, folds, config.settings() | {"content": run.content}, metrics)


def _model(
    config: FinetuneConfig,
    pretrained: PretrainedFolder,
    kind: Kind,
    labels: Sequence[str],
    config_keys: Mapping[str, Any],
    head_dropout: float | None,
) -> ModelSpec:
    return model_spec(
        pretrained,
        kind,
        labels,
        head_dropout=head_dropout,
        dtype=config.compute_dtype,
        remat=config.remat,
        precision=config.precision,
        attention=config.attention,
        from_scratch=config.from_scratch,
        config_keys=config_keys,
        config_fields=text_fields(kind, pretrained.config, config.texts, config.max_length),
        layers=config.layers,
    )


def _objective(config: FinetuneConfig, kind: Kind, labels: Sequence[str], train: Sequence[object]) -> Objective:
    classes = kind.class_weighting.classes if kind.class_weighting else lambda example: ()
    counts = Counter(label for example in train for label in classes(example))
    examples = len(train) if kind.class_weighting and kind.class_weighting.independent else None
    weights = class_weights(config.class_weights, labels, counts, examples)
    objective = objective_with_options(kind, weights, config.label_smoothing, config.techniques.focal)
    if config.techniques.dropout_samples > 1:
        objective = multi_sample(kind, objective, config.techniques.dropout_samples)
    if epsilon := config.techniques.fgm.epsilon:
        return fgm(objective, epsilon)
    return sift(objective, config.sift) if config.sift.weight else plain_objective(objective)


def _train(
    config: FinetuneConfig, inputs: RunInputs, objective: Objective, settings: Mapping[str, object]
) -> list[dict[str, float]]:
    """Train with each seed; returns the metrics of the best model of each."""
    print_plan(config, inputs)
    steps = batches_in_epoch(len(inputs.features), config.batch_size)
    metrics = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.folder if config.seeds == 1 else config.folder / f"seed-{seed}"
        training = config.training(steps, seed)
        metrics.append(train_run(config, inputs, objective, folder, training, {**settings, "seed": seed}))
    if config.seeds > 1 and jax.process_index() == 0:
        best = best_run(metrics, inputs.task.best_metric)
        keep_run(config.folder, config.folder / f"seed-{config.seed + best}")
        _write_seeds(config.folder, metrics)
    return metrics


def _write_seeds(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    write_json(folder / "seeds.json", metrics)
    for name in metrics[0]:
        values = [values[name] for values in metrics]
        median = statistics.median(values)
        print_once(f"{len(values)} seeds: {name} median {median:.4f}, range {min(values):.4f} to {max(values):.4f}")
