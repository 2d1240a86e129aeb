"""`deberta-jax finetune TASK`: fine-tune a model on the files of a task, evaluate it, and write a report."""

import shlex
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder, write_json
from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.class_weights import class_weights
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.documents import text_fields, with_windows
from deberta_jax.finetuning.evaluate import evaluate, write_results
from deberta_jax.finetuning.initial import PretrainedFolder, model_spec, open_pretrained
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import Kind, objective_with_options
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.recipes import published_grid
from deberta_jax.finetuning.run import RunInputs, finetune
from deberta_jax.finetuning.sift import sift
from deberta_jax.finetuning.training_set import digest, features_of
from deberta_jax.hub.digests import tensors_sha256
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.models import max_row_length
from deberta_jax.model.attention import check_attention_runs
from deberta_jax.processes.first_process import agree, on_first_process, print_once
from deberta_jax.processes.join import join, option_values
from deberta_jax.tasks.catalogue import check_labels, find_splits, labels_of, load, separate_unlabelled, with_data
from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task
from deberta_jax.training.objective import Objective


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
    kind = with_windows(KINDS[task.kind], config.texts)
    train, held_out = splits["train"].examples, splits["dev"].examples
    task = with_data(task, train, held_out)
    labels = labels_of(task, train)
    check_labels(labels, splits)
    config.layers.check(pretrained.config, lora_rank=config.lora.rank, from_scratch=config.from_scratch)
    model = model_spec(
        pretrained,
        kind,
        labels,
        head_dropout=config.head_dropout,
        dtype=config.compute_dtype,
        remat=config.remat,
        precision=config.precision,
        attention=config.attention,
        from_scratch=config.from_scratch,
        config_keys=kind.config_keys(pretrained.tokenizer, train, config.max_length),
        config_fields=text_fields(kind, pretrained.config, config.texts, config.max_length),
        layers=config.layers,
    )
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
    seeds = _train(config, inputs, _objective(config, kind, labels, train), settings)
    if jax.process_index() == 0:
        _finish(config, task, kind, splits, settings, seeds)


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
    steps = batches_in_epoch(len(inputs.features), config.batch_size)
    print_once(
        f"{inputs.task.name}: {config.epochs:g} epochs of {steps:,} steps, batch size {config.batch_size}, learning "
        f"rate {config.optimizer.learning_rate:g}, at most {config.max_length} tokens, {config.compute_dtype}"
    )
    if grid := published_grid(inputs.task.name, config.model):
        print_once(f"published for this model: {grid}")
    metrics = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.folder if config.seeds == 1 else config.folder / f"seed-{seed}"
        metrics.append(
            finetune(
                inputs,
                folder,
                config.training(steps, seed),
                {**settings, "seed": seed},
                max_length=config.max_length,
                objective=objective,
                patience=config.patience,
                lora=config.lora if config.lora.rank else None,
            )
        )
    if config.seeds > 1 and jax.process_index() == 0:
        best = max(range(len(metrics)), key=lambda number: metrics[number][inputs.task.best_metric])
        _keep_seed(config.folder, config.seed + best, metrics)
    return metrics


def _keep_seed(folder: Path, seed: int, metrics: Sequence[Mapping[str, float]]) -> None:
    """Copy the model, its adapters and the metrics of the best seed to the folder of the run."""
    for name in ("model", "adapter"):
        if (folder / f"seed-{seed}" / name).is_dir():
            shutil.copytree(folder / f"seed-{seed}" / name, folder / name, dirs_exist_ok=True)
    shutil.copy(folder / f"seed-{seed}" / "metrics.jsonl", folder / "metrics.jsonl")
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
    )
    for evaluation in evaluations:
        print_once(str(evaluation))
    print_once(f"wrote {folder}, " + ", ".join(str(path) for path in paths))
    print_once(f"next: {_next_command(config, task, kind, folder)}")


def _next_command(config: FinetuneConfig, task: Task, kind: Kind, folder: Path) -> str:
    model = shlex.quote(str(folder))
    if kind.predict_options:
        return f"deberta-jax predict {model} {kind.predict_options}"
    return f"deberta-jax evaluate {task.name} --data {shlex.quote(str(config.data))} --model {model}"
