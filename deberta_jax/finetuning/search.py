"""A random search: one run per combination of options, each in its folder, and the record of the finished ones."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import DivergenceError, InputError
from deberta_jax.files import write_text
from deberta_jax.finetuning.batches import batches_in_epoch
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.search_options import describe_options
from deberta_jax.finetuning.search_space import (
    Options,
    draw_trials,
    options_of,
    search_values,
    with_options,
)
from deberta_jax.processes.first_process import from_first_process, on_first_process, print_once
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.run import claim_folder
from deberta_jax.training.step import check_batch_size

RECORD = "trials.jsonl"


class Trial(NamedTuple):
    """A finished trial: its number, its options, its training steps, and the metrics of its best model.

    A trial whose loss was not finite has no metrics.
    """

    number: int
    options: Options
    steps: int
    metrics: Mapping[str, float]

    @property
    def folder(self) -> str:
        return f"trial-{self.number}"


# (options of the run, its folder, the options of the training loop) -> the metrics of its best model.
TrainOne = Callable[[FinetuneConfig, Path, TrainingConfig], Mapping[str, float]]


def search(config: FinetuneConfig, examples: int, settings: Mapping[str, Any], train: TrainOne) -> list[Trial]:
    """Train every trial that is not finished; returns all of them in order.

    The same call resumes a search. Trial k is trained in `folder/trial-k`, where its model and its metrics stay; its
    checkpoints are removed when it is finished. `folder/trials.jsonl` has one line for each finished trial. All options
    are checked before the first trial. `examples` is the size of the training set. Raises InputError if the folder
    contains another search, if a batch size does not fit the devices, or if no trial has a finite loss.
    """
    values = search_values(config.task, config.model, config.search)

    def plan(options: Options) -> TrainingConfig:
        trial = with_options(config, options)
        return trial.training(batches_in_epoch(examples, trial.batch_size), trial.seed)

    drawn = draw_trials(
        options_of(config, values),
        values,
        config.trials,
        config.seed,
        lambda options: (plan(options), options.get("dropout")),
    )
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    for options in drawn:
        check_batch_size(plan(options).batch_size, mesh, config.accumulate)
    described = {name: list(choices) for name, choices in values.items()}
    on_first_process(lambda: claim_folder(config.folder, {**settings, "seed": config.seed, "search": described}))
    print_once(_describe_space(config.trials, len(drawn), values))
    record = Record(config.folder)
    trials = []
    for number, options in enumerate(drawn):
        steps = plan(options).steps
        trial = record.trial(number, options, steps)
        if trial is None:
            print_once(f"trial {number} ({number + 1} of {len(drawn)}): {describe_options(options)}")
            trial = Trial(number, options, steps, {})
            try:
                metrics = train(with_options(config, options), config.folder / trial.folder, plan(options))
                trial = trial._replace(metrics=dict(metrics))
            except DivergenceError as error:
                print_once(f"trial {number} has no result: {error}")
        record.add(trial)
        trials.append(trial)
    if not any(trial.metrics for trial in trials):
        raise InputError(f"search: no trial of {config.folder} has a finite loss; try lower learning rates")
    return trials


class Record:
    """The finished trials of a folder, in `trials.jsonl`; the first process reads and writes it."""

    def __init__(self, folder: Path):
        self._folder = folder
        lines = from_first_process(lambda: _read_lines(folder / RECORD))
        self._trials = {line["trial"]: _from_json(line) for line in lines}

    def trial(self, number: int, options: Options, steps: int) -> Trial | None:
        """A trial that is finished with these options and steps; None for any other one."""
        trial = self._trials.get(number)
        return trial if trial is not None and (trial.options, trial.steps) == (options, steps) else None

    def add(self, trial: Trial) -> None:
        """Record a finished trial, then remove its checkpoints, which are several times as large as its model."""
        if self._trials.get(trial.number) != trial:
            self._trials[trial.number] = trial
            lines = [json.dumps(_as_json(self._trials[number])) + "\n" for number in sorted(self._trials)]
            on_first_process(lambda: write_text(self._folder / RECORD, "".join(lines)))
        on_first_process(lambda: shutil.rmtree(self._folder / trial.folder / "checkpoints", ignore_errors=True))


def _describe_space(trials: int, count: int, values: Mapping[str, tuple[float, ...]]) -> str:
    described = "; ".join(f"{name} {', '.join(f'{value:g}' for value in values[name])}" for name in values)
    line = f"search over {math.prod(map(len, values.values())):,} combinations: {described}"
    return line if count == trials else f"{line}\n{count} trials are different, fewer than --trials {trials}"


def _as_json(trial: Trial) -> dict[str, Any]:
    # JSON has no NaN and no infinity: null.
    metrics = {name: value if math.isfinite(value) else None for name, value in trial.metrics.items()}
    return {"trial": trial.number, "options": trial.options, "steps": trial.steps, "metrics": metrics}


def _from_json(line: Mapping[str, Any]) -> Trial:
    metrics = {name: math.nan if value is None else value for name, value in line["metrics"].items()}
    return Trial(line["trial"], line["options"], line["steps"], metrics)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            _from_json(line)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{path} line {number}: damaged; delete the line to train this trial again") from None
        lines.append(line)
    return lines
