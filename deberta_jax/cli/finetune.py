"""`deberta-jax finetune TASK`: fine-tune a model on the files of a task, evaluate it, and write a report."""

import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax

from deberta_jax.cli.finetune_runs import keep_run, print_plan, run_search, train_run
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder, write_json
from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.best_model import best_run
from deberta_jax.finetuning.card import CardInputs, finetuned_card
from deberta_jax.finetuning.class_weights import class_weights
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.evaluate import evaluate, write_results
from deberta_jax.finetuning.initial import ModelSpec, PretrainedFolder, model_spec, open_pretrained
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import Kind, objective_with_options
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.run import RunInputs
from deberta_jax.finetuning.search_options import parse_search
from deberta_jax.finetuning.sections import Section
from deberta_jax.finetuning.sift import sift
from deberta_jax.finetuning.training_set import digest, features_of
from deberta_jax.hub.card import write_card
from deberta_jax.hub.digests import tensors_sha256
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.hub.upload import check_upload, upload_folder
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.models import max_row_length
from deberta_jax.model.attention import check_attention_runs
from deberta_jax.processes.first_process import agree, on_first_process, print_once
from deberta_jax.processes.join import join, option_values
from deberta_jax.tasks.catalogue import check_labels, find_splits, labels_of, load, separate_unlabelled, with_data
from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task
from deberta_jax.training.objective import Objective
from deberta_jax.training.tracking import check_wandb


def run(config: FinetuneConfig) -> None:
    """Read the files, train, evaluate the best model, and write the results."""
    join(config.processes, option_values(config))
    if config.data is None:
        raise InputError("no data given: use --data with the folder of the task's files")
    task = find_task(
        config.task,
        config.columns,
        labels=config.labels,
        encoding=config.encoding,
        single_file=config.data.is_file(),
    )
    paths = find_splits(task, config.data)
    if task.trained_on:
        raise InputError(f"{task.name} has no training set: fine-tune on {task.trained_on}, then evaluate {task.name}")
    for split in ("train", "dev"):
        if split not in paths:
            raise InputError(f"{config.data}: no file for the split {split}; expected {task.file_names(split)}")
    check_wandb(config.wandb)
    if config.upload.push_to_hub:
        on_first_process(partial(check_upload, config.upload.push_to_hub))
    pretrained = open_pretrained(config.model)
    check_attention_runs(config.attention, pretrained.config, config.compute_dtype, training=True)
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(lock_folder(config.folder)))
        _run(config, task, pretrained, paths)


def _run(config: FinetuneConfig, task: Task, pretrained: PretrainedFolder, paths: Mapping[str, Sequence[Path]]) -> None:
    task = task.fit(task, paths)
    splits = {split: load(task, split_paths, split, config.max_malformed) for split, split_paths in paths.items()}
    reports = [report for examples in splits.values() for report in examples.reports]
    for report in reports:
        print_once(report.details())
    splits = separate_unlabelled(splits)
    kind = KINDS[task.kind]
    train, held_out = splits["train"].examples, splits["dev"].examples
    task = with_data(task, train, held_out)
    labels = labels_of(task, train)
    check_labels(labels, splits)
    config_keys = kind.config_keys(pretrained.tokenizer, train, config.max_length)
    make_model = partial(_model, config, pretrained, kind, labels, config_keys)
    model = make_model(config.head_dropout)
    # Otherwise the first long batch, or the first evaluation, would fail.
    max_row_length(jax.eval_shape(model.build, jax.random.key(0)), Batching(max_length=config.max_length))
    # A head of the file with the same labels keeps their order.
    labels = model.config.labels if labels else ()
    features, report = features_of(kind, pretrained.tokenizer, train, labels, config.max_length)
    if report.skipped:
        print_once(report.details())
    inputs = RunInputs(task, kind, model, pretrained.tokenizer, features, held_out)
    weights = "" if config.from_scratch else tensors_sha256([pretrained.tensors])
    content = {"model": weights, "tokenizer": pretrained.tokenizer.sha256}
    settings = config.settings() | {"rows": digest(features), "content": content}
    agree({"the training examples": settings["rows"], **{f"the content of the {k}": v for k, v in content.items()}})
    objective = _objective(config, kind, labels, train)
    if config.search:
        config, sections = run_search(config, inputs, objective, settings, make_model)
        settings, seeds = settings | config.settings(), []
    else:
        seeds, sections = _train(config, inputs, objective, settings), []
    if jax.process_index() == 0:
        _finish(config, task, kind, splits, settings, seeds, sections)


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
    )


def _objective(config: FinetuneConfig, kind: Kind, labels: Sequence[str], train: Sequence[object]) -> Objective:
    classes = kind.class_weighting.classes if kind.class_weighting else lambda example: ()
    counts = Counter(label for example in train for label in classes(example))
    weights = class_weights(config.class_weights, labels, counts)
    objective = objective_with_options(kind, weights, config.label_smoothing)
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


def _finish(
    config: FinetuneConfig,
    task: Task,
    kind: Kind,
    splits: Mapping[str, Examples],
    settings: Mapping[str, object],
    seeds: Sequence[Mapping[str, float]],
    sections: Sequence[Section],
) -> None:
    """Evaluate the best model on all splits except the training set, and write the results."""
    folder = config.folder / "model"
    options: dict[str, Any] = {"precision": config.precision, "attention": config.attention}
    model, tokenizer = load_pretrained(folder, kind.head, dtype=config.compute_dtype, **options)
    others = {split: examples.examples for split, examples in splits.items() if split != "train"}
    batching = Batching(max_length=config.max_length)
    evaluations, threshold = evaluate(task, kind, model, tokenizer, others, batching)
    paths = write_results(
        config.folder,
        task,
        kind,
        model.deberta.config.labels,
        evaluations,
        title=f"{task.name}, {config.model}",
        settings=settings,
        read_reports=[report for examples in splits.values() for report in examples.reports],
        threshold=threshold,
        seeds=seeds if config.seeds > 1 else (),
        sections=sections,
    )
    for evaluation in evaluations:
        print_once(str(evaluation))
    repository = config.upload.push_to_hub
    inputs = CardInputs(config.data or Path(), config.model, settings, _runs_line(config), repository)
    write_card(folder, finetuned_card(task, kind, model.deberta.config, splits, evaluations, inputs))
    print_once(f"wrote {folder}, " + ", ".join(str(path) for path in paths))
    if repository:
        print_once(f"uploaded to {upload_folder(folder, repository, public=config.upload.public)}")
    print_once(f"next: {_next_command(config, task, kind, folder)}")


def _runs_line(config: FinetuneConfig) -> str:
    """Which of several runs the model is from, for its card."""
    if config.search:
        return f"The best trial of a random search over {', '.join(parse_search(config.search))}."
    return f"The best of {config.seeds} seeds." if config.seeds > 1 else ""


def _next_command(config: FinetuneConfig, task: Task, kind: Kind, folder: Path) -> str:
    model = shlex.quote(str(folder))
    if kind.predict_options:
        return f"deberta-jax predict {model} {kind.predict_options}"
    return f"deberta-jax evaluate {task.name} --data {shlex.quote(str(config.data))} --model {model}"
