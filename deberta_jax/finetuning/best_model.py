"""What a model in training is worth by its task's metric, and the best one kept."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from deberta_jax.errors import InputError
from deberta_jax.finetuning.outcomes import Outcome, outcomes
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.catalogue import Task
from deberta_jax.tasks.examples import Example, SpanPrediction
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.recorder import read_metrics

_log = logging.getLogger(__name__)


def predicted(
    task: Task,
    model: Any,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    batching: Batching,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """What a model says of each example. One that cannot be read gets an empty answer."""
    found: list[Outcome] = []
    lost: list[str] = []
    for example, outcome in zip(examples, outcomes(task.kind, model, tokenizer, examples, batching), strict=True):
        if isinstance(outcome, InputError):
            if task.kind not in ("extractive_qa", "entity_ranking"):
                raise InputError(f"example {example.id}: {outcome}")
            lost.append(f"example {example.id}: {outcome}")
            outcome = Outcome(SpanPrediction("", 0.0) if task.kind == "extractive_qa" else "", None)
        found.append(outcome)
        check_stop()
    if lost:
        _log.warning("%d of %d examples get an empty answer; the first: %s", len(lost), len(found), lost[0])
    return found


class BestKeeper:
    """A run's judge, which keeps the best model so far in `folder/model`.

    Which is the best follows from `metrics.jsonl`, so that a run that was stopped goes on the same. `plain` makes of
    the model in training one that can stand alone.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        folder: Path,
        batching: Batching,
        *,
        plain: Callable[[Any], Any],
        patience: int,
        every: int,
    ):
        self._task, self._tokenizer, self._examples, self._folder = task, tokenizer, examples, folder
        self._batching, self._plain, self._patience, self._every = batching, plain, patience, every
        self._history: dict[int, dict[str, float]] = {}

    def __call__(self, step: int, model: Any, check_stop: Callable[[], None]) -> dict[str, float]:
        """The metrics after a step, and the model kept if it is the best."""
        if not self._history:
            lines = read_metrics(self._folder / "metrics.jsonl")
            held_out = [line for line in lines if line["split"] == "held_out" and line["step"] < step]
            self._history = {line["step"]: _numbers(line) for line in held_out}
        alone = self._plain(model)
        found = predicted(self._task, alone, self._tokenizer, self._examples, self._batching, check_stop)
        its = [self._task.decided(outcome.prediction) for outcome in found]
        metrics = self._task.metrics(self._examples, its)
        self._history[step] = metrics
        if self._best_step() == step:
            _keep(self._folder / "model", alone, self._tokenizer)
        return metrics

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best model."""
        return self._history[self._best_step()]

    def ended(self, step: int) -> bool:
        """Whether the run ends for want of better."""
        if not self._patience or not self._history or step % self._every:
            return False
        return sum(number > self._best_step() for number in self._history) >= self._patience

    def _best_step(self) -> int:
        """Of equals the first."""
        return max(self._history, key=lambda number: (self._history[number][self._task.best], -number))


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if isinstance(value, float)}


def _keep(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index() == 0:
        save_pretrained(folder, model, tokenizer)
