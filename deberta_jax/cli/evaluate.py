"""`deberta-jax evaluate TASK`: score a model, or a prediction file, on the files of a task by its official metrics."""

from contextlib import ExitStack
from pathlib import Path

from deberta_jax.cli.evaluate_options import EvaluateConfig
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.evaluate import evaluate, write_results
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.hub.download import resolve
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.catalogue import check_labels, find_evaluation_splits, fit_to_model, load, with_data
from deberta_jax.tasks.squad import score_squad_files
from deberta_jax.tasks.task import Task
from deberta_jax.training.first_process import print_once


def run(config: EvaluateConfig) -> None:
    """Read the files, predict, score, and write the results if a folder is given."""
    if config.data is None:
        raise InputError("no data given: use --data with the folder of the task's files")
    task = find_task(config.task, config.columns)
    if config.predictions is not None:
        _score_file(task, config.data, config.predictions, config.null_odds)
        return
    if not config.model:
        raise InputError("no model given: use --model with a folder, or with owner/name on the Hugging Face hub")
    paths = find_evaluation_splits(task, config.data)
    if not paths:
        raise InputError(f"{config.data}: only training data in this folder; name a file to evaluate on it")
    with ExitStack() as stack:
        if config.folder is not None:
            stack.enter_context(lock_folder(config.folder))
        _evaluate(config, task, paths)


def _evaluate(config: EvaluateConfig, task: Task, paths: dict[str, list[Path]]) -> None:
    splits = {split: load(task, split_paths, split) for split, split_paths in paths.items()}
    reports = [report for examples in splits.values() for report in examples.reports]
    for report in reports:
        print_once(report.details())
    kind = KINDS[task.kind]
    task = with_data(task, *(examples.examples for examples in splits.values()))
    folder = resolve(config.model)
    model, tokenizer = load_pretrained(
        folder,
        kind.head,
        base=config.base,
        dtype=config.dtype,
        param_dtype=config.dtype,
        precision=config.precision,
        attention=config.attention,
    )
    model_labels = model.deberta.config.labels
    task = fit_to_model(task, model_labels, config.model)
    labels = task.labels or model_labels
    check_labels(labels, splits)
    evaluations, threshold = evaluate(
        task,
        kind,
        model,
        tokenizer,
        {split: examples.examples for split, examples in splits.items()},
        Batching(max_length=config.max_length, batch_tokens=config.batch_tokens),
        config.no_answer_threshold,
    )
    for evaluation in evaluations:
        print_once(str(evaluation))
    if config.folder is None:
        print_once("next: add --folder FOLDER to write predictions and a report")
        return
    paths_written = write_results(
        config.folder,
        task,
        kind,
        labels,
        evaluations,
        title=f"{task.name}, {config.model}",
        settings={
            "task": task.name,
            "model": config.model,
            "max_length": config.max_length,
            "dtype": config.dtype,
            "precision": config.precision,
            "attention": config.attention,
        },
        read_reports=reports,
        threshold=threshold,
    )
    print_once("wrote " + ", ".join(str(path) for path in paths_written))
    print_once(f"next: open {config.folder / 'report.html'}")


def _score_file(task: Task, data: Path, predictions: Path, null_odds: Path | None) -> None:
    if task.name not in ("squad", "squad2"):
        raise InputError(f"--predictions supports squad and squad2; for {task.name} use --model")
    if not data.is_file():
        raise InputError(f"{data}: with --predictions, --data must be the file of the questions (dev-v2.0.json)")
    for name, value in score_squad_files(data, predictions, null_odds).items():
        print_once(f"{name}: {value}")
