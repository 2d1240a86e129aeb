"""The evaluation of a model in training, and the best model of a run."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from deberta_jax.errors import InputError
from deberta_jax.files import read_json, write_json
from deberta_jax.finetuning.adapter import save_adapter
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.predictions import predict
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.selected_metrics import lower_is_better
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.recorder import read_metrics

# The digests of the weights of the best model, relative to the folder of the run.
DIGESTS = "best_model.json"


class BestModel:
    """Evaluates a model during a run and saves the best one in `folder/model`.

    The history of metrics is read from `metrics.jsonl`, so that a resumed run selects the same model. `merge` converts
    the model in training to the model that is saved. With `adapter_base`, the name of the base model, the adapters of
    the model in training are also saved, in `folder/adapter`.
    """

    def __init__(
        self,
        task: Task,
        kind: Kind,
        tokenizer: Tokenizer,
        examples: Sequence[Any],
        folder: Path,
        batching: Batching,
        *,
        merge: Callable[[Any], Any],
        patience: int,
        evaluate_every: int,
        adapter_base: str | None = None,
    ):
        self._task, self._kind, self._tokenizer, self._examples = task, kind, tokenizer, examples
        self._folder, self._batching, self._merge = folder, batching, merge
        self._patience, self._evaluate_every, self._adapter_base = patience, evaluate_every, adapter_base
        self._history: dict[int, dict[str, float]] = {}

    def evaluate(self, step: int, model: Any, check_stop: Callable[[], None]) -> dict[str, float]:
        """The metrics after a step; the model is saved if it is the best so far."""
        if not self._history:
            self._history = {
                line["step"]: {name: value for name, value in line.items() if isinstance(value, float)}
                for line in read_metrics(self._folder / "metrics.jsonl")
                if line["split"] == "held_out" and line["step"] < step
            }
        merged = self._merge(model)
        outcomes = predict(self._kind, merged, self._tokenizer, self._examples, self._batching, check_stop)
        predictions = [self._task.resolve(outcome.prediction) for outcome in outcomes]
        probabilities = [outcome.probabilities for outcome in outcomes]
        self._history[step] = self._task.score(self._examples, predictions, probabilities)
        if self._best_step() == step:
            _save(save_pretrained, self._folder / "model", merged, self._tokenizer)
            if self._adapter_base is not None:
                save = partial(save_adapter, base=self._adapter_base)
                _save(save, self._folder / "adapter", model, self._tokenizer)
            if jax.process_index() == 0:
                write_json(self._folder / DIGESTS, {"step": step, "sha256": _weights_sha256(self._folder)})
        return self._history[step]

    def check(self) -> None:
        """Raise InputError if the weights of the best model have changed since they were saved."""
        path = self._folder / DIGESTS
        if jax.process_index() or not path.exists():
            return
        before, now = read_json(path).get("sha256"), _weights_sha256(self._folder)
        changed = [DIGESTS]
        if isinstance(before, dict):
            changed = [name for name, digest in before.items() if now.get(name) != digest]
        if changed:
            raise InputError(
                f"{self._folder / changed[0]} is damaged or missing, so the best model is lost: delete {self._folder}, "
                "and run the same command again"
            )

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best model."""
        return self._history[self._best_step()]

    def should_end(self, step: int) -> bool:
        """Whether the last `patience` evaluations are without improvement."""
        if not self._patience or not self._history or step % self._evaluate_every:
            return False
        return sum(number > self._best_step() for number in self._history) >= self._patience

    def _best_step(self) -> int:
        """The step with the best metric, the first of equal ones."""
        steps = sorted(self._history)
        return steps[best_run([self._history[step] for step in steps], self._task.best_metric)]


def best_run(runs: Sequence[Mapping[str, float]], metric: str) -> int:
    """The index of the run with the best metric, the first of equal ones; runs without a number are the worst."""
    sign = -1 if lower_is_better(metric) else 1

    def value(number: int) -> float:
        result = runs[number].get(metric, math.nan)
        return -math.inf if math.isnan(result) else sign * result

    return max(range(len(runs)), key=value)


def _save(save: Callable[[Path, Any, Tokenizer], None], folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index() == 0:
        save(folder, model, tokenizer)


def _weights_sha256(folder: Path) -> dict[str, str]:
    """The digest of each file of weights of a run, by its path in the folder."""
    digests = {}
    for path in sorted(path for name in ("model", "adapter") for path in (folder / name).glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
