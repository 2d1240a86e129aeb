"""How a model is trained: what the loop has to know of an objective."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from jaxtyping import Array

from deberta_jax.training.objective import Batch, Evaluate, Objective, Sums
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import Build, Optimizer, TrainState
from deberta_jax.training.step import Step, make_step


class TrainingMethod(NamedTuple):
    """A model, its optimizer, its step, and how it is judged on held-out text.

    `make_step` is given the shardings of the state. `summarise` makes what is reported of the sums of all batches that
    `evaluate` returns; `warning` what is wrong with that after a number of steps, in one line, or None.
    """

    build: Build
    optimizer: Optimizer
    make_step: Callable[[TrainState], Step]
    evaluate: Evaluate
    summarise: Callable[[Any], dict[str, float]]
    warning: Callable[[int, Mapping[str, float]], str | None] = lambda step, found: None


def one_objective(
    config: TrainingConfig, build: Build, objective: Objective, trainable: Callable[[Any], Any] | None = None
) -> TrainingMethod:
    """One model that follows the gradient of one objective; all of it, or what is True in a tree like it.

    What is not trained has no moments either.
    """
    optimizer, rate = make_optimizer(config.optimizer, config.steps), learning_rate(config.optimizer, config.steps)
    if trainable is not None:
        optimizer = optax.partition({True: optimizer, False: optax.set_to_zero()}, trainable)

    def evaluate(model: Any, batch: Batch, number: int | Array) -> Sums:
        return objective(model, batch, None)

    return TrainingMethod(
        build,
        optimizer,
        lambda places: make_step(objective, optimizer, rate, places, config.accumulate),
        evaluate,
        _means,
    )


def _means(sums: Sums) -> dict[str, float]:
    """Loss, perplexity and what else the objective reports."""
    loss = float(sums.loss / sums.weight)
    others = {name: float(total / sums.weight) for name, total in sums.metrics.items()}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700)), **others}
