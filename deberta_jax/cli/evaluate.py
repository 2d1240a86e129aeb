"""`deberta-jax evaluate TASK`: score models, or a prediction file, on the files of a task by its official metrics."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deberta_jax.cli import evaluate_perplexity
from deberta_jax.cli.evaluate_options import EvaluateConfig, PerplexityConfig
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.ensemble import average_outcomes, check_ensemble
from deberta_jax.finetuning.evaluate import (
    Evaluation,
    metric_names,
    predict_splits,
    print_summaries,
    score,
    summaries_of,
    write_results,
)
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import read_folder
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.processes.first_process import print_once
from deberta_jax.tasks.catalogue import (
    check_labels,
    data_name,
    find_evaluation_splits,
    fit_to_model,
    load,
    with_data,
    without_placeholders,
)
from deberta_jax.tasks.selected_metrics import with_metric
from deberta_jax.tasks.squad import score_squad_files
from deberta_jax.tasks.task import Task


def run(config: EvaluateConfig | PerplexityConfig) -> None:
    """Read the files, predict, score, and write the results if a folder is given."""
    if isinstance(config, PerplexityConfig):
        evaluate_perplexity.run(config)
        return
    if config.data is None:
        raise InputError("no data given: use --data with the folder of the task's files")
    task = find_task(config.task, config.columns, labels=config.labels, encoding=config.encoding)
    if config.predictions is not None:
        _score_file(task, config.data, config.predictions, config.null_odds)
        return
    if not config.models:
        raise InputError("no model given: use --model with a folder, or with owner/name on the Hugging Face hub")
    paths = find_evaluation_splits(task, config.data)
    if not paths:
        raise InputError(f"{config.data}: only training data in this folder; name a file to evaluate on it")
    with ExitStack() as stack:
        if config.folder is not None:
            stack.enter_context(lock_folder(config.folder))
        _evaluate(config, task, paths)


def _evaluate(config: EvaluateConfig, task: Task, paths: dict[str, list[Path]]) -> None:
    task = task.fit(task, paths)
    loaded = {split: load(task, split_paths, split, config.max_malformed) for split, split_paths in paths.items()}
    reports = [report for examples in loaded.values() for report in examples.reports]
    for report in reports:
        print_once(report.details())
    kind = KINDS[task.kind]
    task = with_data(task, *(examples.examples for examples in loaded.values()))
    # All folders are checked before the first model is loaded.
    folders = [resolve(name) for name in config.models]
    model_labels = [read_folder(folder, base=config.base).config.labels for folder in folders]
    for name, labels in zip(config.models, model_labels, strict=True):
        task = fit_to_model(task, labels, name)
    known = task.labels or model_labels[0]
    loaded = without_placeholders(loaded, known)
    check_labels(known, loaded)
    splits = {split: examples.examples for split, examples in loaded.items()}
    if config.metric is not None:
        task = _with_metric(task, config.metric, kind, known, splits)
    if len(folders) > 1:
        check_ensemble(kind, list(zip(config.models, model_labels, strict=True)))
    evaluations, threshold = _evaluate_models(config, task, kind, folders, splits)
    summaries = summaries_of(task, kind, evaluations)
    print_summaries(summaries)
    if config.folder is None:
        print_once("next: add --folder FOLDER to write predictions and a report")
        return
    models = ", ".join(config.models)
    assert config.data is not None
    paths_written = write_results(
        config.folder,
        task,
        kind,
        known,
        evaluations,
        title=data_name(task, config.data),
        settings={
            "task": task.name,
            "model": models,
            "max_length": config.max_length,
            "dtype": config.dtype,
            "precision": config.precision,
            "attention": config.attention,
        },
        read_reports=reports,
        threshold=threshold,
        sources=paths,
        summaries=summaries,
    )
    print_once("wrote " + ", ".join(str(path) for path in paths_written))
    print_once(f"next: open {config.folder / 'report.html'}")


def _with_metric(
    task: Task, metric: str, kind: Kind, labels: Sequence[str], splits: Mapping[str, Sequence[Any]]
) -> Task:
    labelled = [example for examples in splits.values() for example in examples if example.answer is not None]
    if not labelled:
        raise InputError(f"metric is {metric!r}, but no example has a label")
    return with_metric(task, metric, labels, metric_names(task, kind, labelled, labelled))


def _evaluate_models(
    config: EvaluateConfig, task: Task, kind: Kind, folders: Sequence[Path], splits: Mapping[str, Sequence[Any]]
) -> tuple[list[Evaluation], float | None]:
    """Evaluate the model, or each of several models and their ensemble, which is returned."""
    outcomes: list[dict[str, Sequence[Outcome]]] = []
    for name, folder in zip(config.models, folders, strict=True):
        outcomes.append(_predict(config, kind, folder, splits))
        evaluations, threshold = score(task, splits, outcomes[-1], config.no_answer_threshold)
        _print(evaluations, f"{name}, " if len(folders) > 1 else "")
    if len(folders) > 1:
        averaged = average_outcomes(kind, outcomes)
        evaluations, threshold = score(task, splits, averaged, config.no_answer_threshold)
        _print(evaluations, f"ensemble of {len(folders)} models, ")
    return evaluations, threshold


def _predict(
    config: EvaluateConfig, kind: Kind, folder: Path, splits: Mapping[str, Sequence[Any]]
) -> dict[str, Sequence[Outcome]]:
    """The outcomes of one model, which is in memory only here."""
    model, tokenizer = load_pretrained(
        folder,
        kind.head,
        base=config.base,
        dtype=config.dtype,
        param_dtype=config.dtype,
        precision=config.precision,
        attention=config.attention,
    )
    batching = Batching(max_length=config.max_length, batch_tokens=config.batch_tokens)
    return predict_splits(kind, model, tokenizer, splits, batching)


def _print(evaluations: Sequence[Evaluation], prefix: str) -> None:
    for evaluation in evaluations:
        print_once(f"{prefix}{evaluation}")


def _score_file(task: Task, data: Path, predictions: Path, null_odds: Path | None) -> None:
    if task.name not in ("squad", "squad2"):
        raise InputError(f"--predictions supports squad and squad2; for {task.name} use --model")
    if not data.is_file():
        raise InputError(f"{data}: with --predictions, --data must be the file of the questions (dev-v2.0.json)")
    for name, value in score_squad_files(data, predictions, null_odds).items():
        print_once(f"{name}: {value}")
