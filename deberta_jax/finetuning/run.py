"""A fine-tuning run with one seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from deberta_jax.finetuning.batches import Batches
from deberta_jax.finetuning.best_model import BestModel
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.initial import ModelSpec, initial_model, with_lora
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.layers import freeze_objective, frozen_groups, of_upper_layers, trained_parameters
from deberta_jax.finetuning.lora import lora_objective, merge_lora, trainable
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.inference.buckets import Batching
from deberta_jax.sharding import make_mesh
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.loop import train
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.objective import Objective
from deberta_jax.training.step import batch_share


class RunInputs(NamedTuple):
    """What a run trains, what it trains on (`features`), and the examples that select the best model."""

    task: Task
    kind: Kind
    model: ModelSpec
    tokenizer: Tokenizer
    features: Sequence[Feature]
    held_out: Sequence[Any]


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
) -> dict[str, float]:
    """Train in a folder, or resume, and save the best model in `folder/model`; returns its metrics.

    The same call resumes a run that was stopped. `settings` describe the run as JSON; a folder of a run with other
    settings is refused. Sequences have at most `max_length` tokens. `objective` is that of the kind by default. With
    `patience`, the run ends after this number of evaluations without improvement. With `lora`, only adapters (of a
    positive rank) and the head are trained, and the adapters of the best model are also saved, in `folder/adapter`, if
    PEFT can load them. Raises StopRequested if the process is asked to stop.
    """
    mesh = make_mesh(training.mesh.data, training.mesh.fsdp, training.mesh.tensor)

    def batches(start: int) -> Batches:
        return Batches(
            inputs.kind,
            inputs.features,
            batch_size=training.batch_size,
            seed=training.seed,
            max_length=max_length,
            pad_id=inputs.tokenizer.pad_id,
            start=start,
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
    train(
        training,
        folder,
        settings,
        _method(inputs, training, objective or plain_objective(inputs.kind.objective), lora),
        batches=batches,
        evaluate=best_model.evaluate,
        should_end=best_model.should_end,
        initial_model=initial_model(inputs.model, training.seed, mesh, lora),
    )
    return best_model.metrics


def _method(
    inputs: RunInputs, training: TrainingConfig, objective: Objective, lora: LoraConfig | None
) -> TrainingMethod:
    """Train all parameters, only adapters and head, or those that are not frozen."""
    curves = {"loss": "training loss", inputs.task.best_metric: inputs.task.best_metric}
    build = with_lora(inputs.model, lora)
    layers, config = inputs.model.layers, inputs.model.config
    if lora is not None:
        return one_objective(training, build, lora_objective(objective), trainable, curves)
    if not layers.freezes:
        return one_objective(training, build, objective, curves=curves)
    return one_objective(
        training,
        build,
        freeze_objective(objective, layers),
        lambda model: trained_parameters(model, config, layers),
        curves,
        lambda optimizer: of_upper_layers(optimizer, frozen_groups(config, layers)),
    )
