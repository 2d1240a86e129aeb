"""`deberta-jax finetune TASK`: a task's files and a model in; a better model, figures, predictions and a report out."""

import json
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax

from deberta_jax.cli.told import tell_account, tell_metrics
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder
from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.evaluate import judgements, write_all
from deberta_jax.finetuning.features import features_of
from deberta_jax.finetuning.initial import Start, headed, read_start
from deberta_jax.finetuning.outcomes import HEADS
from deberta_jax.finetuning.recipes import recipe
from deberta_jax.finetuning.run import RunInputs, digest, run_seed
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.pretraining.corpus import on_first, say
from deberta_jax.tasks.catalogue import ABOUT, Task, check_labels, given, labels_of, load, splits_in, task_of
from deberta_jax.tasks.examples import Examples
from deberta_jax.training.processes import join

NOUN = "TASK"
RECIPES = {name: (about, partial(recipe, name)) for name, about in ABOUT.items()}


def run(config: FinetuneConfig) -> None:
    """Read, train, keep the best, evaluate, predict, report."""
    join(config.processes)
    if config.data is None:
        raise InputError("no data are named: --data FOLDER, which holds the task's files")
    task = task_of(config.task, config.columns, alone=config.data.is_file())
    paths = splits_in(task, config.data)
    if task.trained_on:
        raise InputError(f"{task.name} is evaluated only: fine-tune on {task.trained_on}, then evaluate {task.name}")
    for split in ("train", "dev"):
        if split not in paths:
            raise InputError(f"{config.data}: no file of the split {split}; {task.names(split)} is wanted")
    start = read_start(config.model)
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(lock_folder(config.folder)))
        _run(config, task, start, paths)


def _run(config: FinetuneConfig, task: Task, start: Start, paths: Mapping[str, Sequence[Path]]) -> None:
    splits = {split: load(task, its, split) for split, its in paths.items()}
    for examples in splits.values():
        for account in examples.accounts:
            tell_account(account)
    task = given(task, splits["train"].examples, splits["dev"].examples)
    labels = labels_of(task, splits["train"].examples)
    check_labels(task, labels, splits)
    model = headed(start, config, task.kind, labels)
    # A head that the file has keeps the order of its labels.
    labels = model.config.labels if labels else ()
    units, account = features_of(task.kind, start.tokenizer, splits["train"].examples, labels, config.max_length)
    if account.skipped:
        tell_account(account)
    materials = RunInputs(
        task, model, start.tokenizer, units, trained_on=splits["train"].examples, held_out=splits["dev"].examples
    )
    settings = config.settings() | {"rows": digest(units)}

    steps = batches_in_epoch(len(units), config.batch_size)
    say(
        f"{task.name}: {config.epochs:g} epochs of {steps:,} steps, batch {config.batch_size}, learning rate "
        f"{config.optimizer.learning_rate:g}, rows of at most {config.max_length}, {config.compute_dtype}"
    )
    found: list[dict[str, float]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.folder if config.seeds == 1 else config.folder / f"seed-{seed}"
        trained = run_seed(config, materials, folder, seed, settings)
        if trained is None:
            return
        found.append(trained)
    if jax.process_index():
        return
    best = max(range(len(found)), key=lambda place: found[place][task.best])
    if config.seeds > 1:
        _keep_seed(config.folder, config.seed + best, found)
    _conclude(config, task, splits, settings, found)


def _keep_seed(folder: Path, seed: int, found: Sequence[Mapping[str, float]]) -> None:
    """The model and the curves of the best seed become those of the run."""
    shutil.copytree(folder / f"seed-{seed}" / "model", folder / "model", dirs_exist_ok=True)
    shutil.copy(folder / f"seed-{seed}" / "metrics.jsonl", folder / "metrics.jsonl")
    partial = folder / "seeds.partial"
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "seeds.json")
    for name in found[0]:
        values = [metrics[name] for metrics in found]
        say(
            f"{len(values)} seeds: {name} median {statistics.median(values):.4f}, from {min(values):.4f} to "
            f"{max(values):.4f}"
        )


def _conclude(
    config: FinetuneConfig,
    task: Task,
    splits: Mapping[str, Examples],
    settings: Mapping[str, object],
    seeds: Sequence[Mapping[str, float]],
) -> None:
    """Judge the best model on all splits but the one it was trained on, and write what is found."""
    model, tokenizer = load_pretrained(config.folder / "model", HEADS[task.kind], dtype=config.compute_dtype)
    assert tokenizer is not None
    others = {split: examples.examples for split, examples in splits.items() if split != "train"}
    found, threshold = judgements(task, model, tokenizer, others, Batching(max_length=config.max_length))
    accounts = [account for examples in splits.values() for account in examples.accounts]
    written = write_all(
        config.folder,
        task,
        tuple(model.deberta.config.labels),
        found,
        title=f"{task.name}, {config.model}",
        settings=settings,
        accounts=accounts,
        threshold=threshold,
        seeds=seeds if config.seeds > 1 else (),
    )
    tell_metrics(found)
    say(f"model {config.folder / 'model'}; " + ", ".join(str(path) for path in written))
