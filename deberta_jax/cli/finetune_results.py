"""The results of `deberta-jax finetune`: evaluations, files and what is printed at the end."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.files import make_folder, write_json
from deberta_jax.finetuning.card import CardInputs, finetuned_card
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.cross_validation import evaluate_folds, mean_lines, write_out_of_fold
from deberta_jax.finetuning.evaluate import (
    OUT_OF_FOLD,
    Evaluation,
    evaluate,
    print_summaries,
    summaries_of,
    write_results,
)
from deberta_jax.finetuning.initial import ModelSpec, PretrainedFolder
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.search_options import parse_search
from deberta_jax.finetuning.sections import Section
from deberta_jax.hub.card import write_card
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.hub.upload import upload_folder
from deberta_jax.inference.buckets import Batching
from deberta_jax.processes.first_process import print_once
from deberta_jax.tasks.catalogue import data_name
from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer


class FinetuneRun(NamedTuple):
    """What all seeds or folds of a command have in common."""

    task: Task
    kind: Kind
    pretrained: PretrainedFolder
    model: ModelSpec
    labels: Sequence[str]
    splits: Mapping[str, Examples]
    paths: Mapping[str, Sequence[Path]]
    content: Mapping[str, str]
    """The digests of the pretrained model and its tokenizer."""

    @property
    def evaluated(self) -> dict[str, list[Any]]:
        """The examples of all splits except the training set."""
        return {split: examples.examples for split, examples in self.splits.items() if split != "train"}


def finish(
    config: FinetuneConfig,
    run: FinetuneRun,
    settings: Mapping[str, object],
    seeds: Sequence[Mapping[str, float]],
    sections: Sequence[Section] = (),
) -> None:
    """Evaluate the best model on all splits except the training set, write the results, and upload the model."""
    folder = config.folder / "model"
    model, tokenizer = _load(config, run.kind, folder)
    batching = Batching(max_length=config.max_length)
    evaluations, threshold = evaluate(run.task, run.kind, model, tokenizer, run.evaluated, batching)
    several = seeds if config.seeds > 1 else ()
    written = _write(config, run, evaluations, threshold, settings, seeds=several, sections=sections)
    repository = config.upload.push_to_hub
    inputs = CardInputs(config.data or Path(), config.model, settings, _runs_line(config), repository)
    write_card(folder, finetuned_card(run.task, run.kind, model.deberta.config, run.splits, evaluations, inputs))
    print_once(f"wrote {folder}, " + ", ".join(map(str, written)))
    if repository:
        print_once(f"uploaded to {upload_folder(folder, repository, public=config.upload.public)}")
    print_once(f"next: {_next_command(config, run.task, run.kind, folder)}")


def finish_folds(
    config: FinetuneConfig,
    run: FinetuneRun,
    folders: Sequence[Path],
    folds: Int[np.ndarray, "B"],
    settings: Mapping[str, object],
    metrics: Sequence[Mapping[str, float]],
) -> None:
    """Predict each fold with its model, and the other splits with the ensemble; write the results."""
    models = [partial(_load, config, run.kind, folder / "model") for folder in folders]
    train, batching = run.splits["train"].examples, Batching(max_length=config.max_length)
    evaluations, threshold = evaluate_folds(run.task, run.kind, models, train, folds, run.evaluated, batching)
    for line in mean_lines(metrics):
        print_once(line)
    written = [write_json(make_folder(config.folder) / "folds.json", metrics)]
    written += write_out_of_fold(config.folder / "predictions" / f"{OUT_OF_FOLD}.jsonl", evaluations[0], folds)
    written += _write(config, run, evaluations, threshold, settings, folds=metrics)
    print_once("wrote " + ", ".join(map(str, written)))
    listed = " ".join(shlex.quote(str(folder / "model")) for folder in folders)
    data = shlex.quote(str(config.data))
    print_once(f"next: deberta-jax evaluate {run.task.name} --data {data} --models {listed}")


def _load(config: FinetuneConfig, kind: Kind, folder: Path) -> tuple[Any, Tokenizer]:
    options: dict[str, Any] = {"precision": config.precision, "attention": config.attention}
    return load_pretrained(folder, kind.head, dtype=config.compute_dtype, **options)


def _write(
    config: FinetuneConfig,
    run: FinetuneRun,
    evaluations: Sequence[Evaluation],
    threshold: float | None,
    settings: Mapping[str, object],
    *,
    seeds: Sequence[Mapping[str, float]] = (),
    folds: Sequence[Mapping[str, float]] = (),
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write the results, and print the metrics; returns the paths."""
    assert config.data is not None
    summaries = summaries_of(run.task, run.kind, evaluations, run.splits["train"].examples)
    written = write_results(
        config.folder,
        run.task,
        run.kind,
        run.labels,
        evaluations,
        title=data_name(run.task, config.data),
        settings=settings,
        read_reports=[report for examples in run.splits.values() for report in examples.reports],
        threshold=threshold,
        seeds=seeds,
        folds=folds,
        sources=run.paths,
        summaries=summaries,
        sections=sections,
    )
    for evaluation in evaluations:
        print_once(str(evaluation))
    print_summaries(summaries)
    return written


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
