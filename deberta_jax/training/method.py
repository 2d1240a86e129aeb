"""The training method: everything that the loop needs to know about an objective."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from jaxtyping import Array

from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.objective import ArrayBatch, BatchEvaluation, Objective, Sums
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.plot import Curve, Curves
from deberta_jax.training.state import Build, Optimizer, TrainState
from deberta_jax.training.step import GradientRule, Step, gradient_of_model, make_step
from deberta_jax.training.weight_average import WeightAverage

LOSS_CURVE: Curves = {"loss": Curve("Loss", "loss")}


class TrainingMethod(NamedTuple):
    """How a model is built, trained, evaluated on held-out batches and plotted.

    `make_step` takes the shardings of the state. `summarize` turns the sums over all held-out batches, as `evaluate`
    returns them, into metrics. `warning` takes a step and these metrics, and returns one line if the metrics indicate a
    problem, otherwise None. `curves` says which metrics are plotted and how; the progress bar shows those whose
    name ends in `loss`. With `average`, the average of the weights is evaluated instead of the weights.
    """

    build: Build
    optimizer: Optimizer
    make_step: Callable[[TrainState], Step]
    evaluate: BatchEvaluation
    summarize: Callable[[Any], dict[str, float]]
    warning: Callable[[int, Mapping[str, float]], str | None] = lambda step, metrics: None
    curves: Curves = LOSS_CURVE
    average: WeightAverage | None = None


def one_objective(
    config: TrainingConfig,
    build: Build,
    objective: Objective,
    trainable: Callable[[Any], Any] | None = None,
    curves: Curves = LOSS_CURVE,
    *,
    rule: GradientRule = gradient_of_model,
    average_decay: float = 0.0,
    adapt: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda optimizer: optimizer,
) -> TrainingMethod:
    """Minimize one objective of one model.

    `trainable` returns a tree like the model with True for the parameters to train (default: all). The others are
    frozen and have no optimizer state. `rule` computes the gradient of a step. With `average_decay`, the trained
    parameters are averaged (`WeightAverage`), and the average is evaluated. `adapt` changes the optimizer of the
    trained parameters.
    """
    optimizer, rate = make_optimizer(config.optimizer, config.steps), learning_rate(config.optimizer, config.steps)
    if trainable is not None:
        optimizer = optax.partition({True: adapt(optimizer), False: optax.set_to_zero()}, trainable)

    average = WeightAverage(average_decay, trainable) if average_decay else None

    def evaluate(model: Any, batch: ArrayBatch, number: int | Array) -> Sums:
        return objective(model, batch, None)

    return TrainingMethod(
        build,
        optimizer,
        lambda shardings: make_step(
            objective, optimizer, rate, shardings, config.accumulate, rule=rule, average=average
        ),
        evaluate,
        _means,
        curves=curves,
        average=average,
    )


def _means(sums: Sums) -> dict[str, float]:
    """The mean loss, its perplexity, and the means of the objective's other metrics."""
    loss = float(sums.loss / sums.weight)
    others = {name: float(total / sums.weight) for name, total in sums.metrics.items()}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700)), **others}
