"""A fine-tuning run with one seed."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from deberta_jax.finetuning.awp import awp as awp_rule
from deberta_jax.finetuning.batches import Batches
from deberta_jax.finetuning.best_model import BestModel
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.initial import ModelSpec, initial_model, with_lora
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.layers import freeze_objective, frozen_groups, of_upper_layers, trained_parameters
from deberta_jax.finetuning.lora import lora_objective, merge_lora, trainable
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.summary import baseline_score
from deberta_jax.finetuning.techniques import AwpConfig
from deberta_jax.inference.buckets import Batching
from deberta_jax.sharding import make_mesh
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.loop import train
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.objective import Objective
from deberta_jax.training.plot import Curve, Curves
from deberta_jax.training.step import batch_share, gradient_of_model
from deberta_jax.training.tracking import tracking


class RunInputs(NamedTuple):
    """What a run trains, what it trains on (`features`), and the examples that select the best model.

    The baseline that is plotted is that of the examples `train`, by default that of the held-out ones.
    """

    task: Task
    kind: Kind
    model: ModelSpec
    tokenizer: Tokenizer
    features: Sequence[Feature]
    held_out: Sequence[Any]
    train: Sequence[Any] = ()


def finetune(
    inputs: RunInputs,
    folder: Path,
    training: TrainingConfig,
    settings: Mapping[str, Any],
    *,
    max_length: int,
    objective: Objective | None = None,
    patience: int = 0,
    lora: LoraConfig | None = None,
    wandb: str | None = None,
    average_decay: float = 0.0,
    awp: AwpConfig | None = None,
) -> dict[str, float]:
    """Train in a folder, or resume, and save the best model in `folder/model`; returns its metrics.

    The same call resumes a stopped run. `settings` describe the run as JSON; a folder with other settings is refused.
    `max_length` is in tokens. `objective` is that of the kind by default. `patience` evaluations without improvement
    end the run. With `lora` (of a positive rank), only adapters and the head are trained, and saved in `folder/adapter`
    if PEFT can load them. With `average_decay`, their exponential moving average is evaluated and saved. With `awp`,
    gradients are those at perturbed weights. Raises StopRequested, and InputError if the best model was damaged.
    """
    mesh = make_mesh(training.mesh.data, training.mesh.fsdp, training.mesh.tensor)
    batches = partial(
        Batches,
        inputs.kind,
        inputs.features,
        batch_size=training.batch_size,
        seed=training.seed,
        max_length=max_length,
        pad_id=inputs.tokenizer.pad_id,
        share=batch_share(mesh),
    )
    best_model = BestModel(
        inputs.task,
        inputs.kind,
        inputs.tokenizer,
        inputs.held_out,
        folder,
        Batching(max_length=max_length),
        merge=jax.jit(merge_lora) if lora else lambda model: model,
        patience=patience,
        evaluate_every=training.evaluate_every,
        adapter_base=inputs.model.adapter_base if lora else None,
    )
    with tracking(wandb, folder, settings) as tracker:
        train(
            training,
            folder,
            settings,
            _method(inputs, training, objective or plain_objective(inputs.kind.objective), lora, average_decay, awp),
            batches=lambda start: batches(start=start),
            evaluate=best_model.evaluate,
            should_end=best_model.should_end,
            initial_model=initial_model(inputs.model, training.seed, mesh, lora),
            log=tracker.log,
        )
        best_model.check()
        tracker.summarize(best_model.metrics)
    return best_model.metrics


def _curves(inputs: RunInputs) -> Curves:
    """The training loss, and the best metric with its baseline."""
    task, labelled = inputs.task, [example for example in inputs.held_out if example.answer is not None]
    baselines = {}
    if labelled:
        baseline = inputs.kind.comparison.baseline(task, inputs.train or labelled)
        baselines[f"baseline, {baseline.name}"] = baseline_score(task, baseline, labelled)
    metric = Curve(f"Held-out examples: {task.best_metric}", task.best_metric, baselines)
    return {"loss": Curve("Training loss", inputs.kind.report.loss), task.best_metric: metric}


def _method(
    inputs: RunInputs,
    training: TrainingConfig,
    objective: Objective,
    lora: LoraConfig | None,
    average_decay: float,
    awp: AwpConfig | None,
) -> TrainingMethod:
    """Train all parameters, only adapters and head, or those that are not frozen."""
    one = partial(
        one_objective,
        training,
        with_lora(inputs.model, lora),
        curves=_curves(inputs),
        rule=awp_rule(awp, training.steps) if awp else gradient_of_model,
        average_decay=average_decay,
    )
    layers, config = inputs.model.layers, inputs.model.config
    if lora is not None:
        return one(lora_objective(objective), trainable)
    if not layers.freezes:
        return one(objective)
    return one(
        freeze_objective(objective, layers),
        lambda model: trained_parameters(model, config, layers),
        adapt=lambda optimizer: of_upper_layers(optimizer, frozen_groups(config, layers)),
    )
