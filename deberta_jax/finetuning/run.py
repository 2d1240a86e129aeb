"""One run of fine-tuning, of one seed."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.finetuning.batches import Batches, batches_in_epoch
from deberta_jax.finetuning.best_model import BestKeeper
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.initial import ModelSpec, first_model
from deberta_jax.finetuning.lora import Adapted, adapted_objective, merged, trainable
from deberta_jax.finetuning.objectives import (
    TaskObjective,
    choice_objective,
    entity_objective,
    label_objective,
    number_objective,
    objective_of,
    several_objective,
    span_objective,
)
from deberta_jax.finetuning.sift import sift
from deberta_jax.inference.buckets import Batching
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.tasks.catalogue import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.loop import train
from deberta_jax.training.method import one_objective
from deberta_jax.training.objective import Objective
from deberta_jax.training.state import Build
from deberta_jax.training.step import batch_share


class RunInputs(NamedTuple):
    """What a run is made of: the model to come, its tokenizer, units to train on, examples to choose the best by."""

    task: Task
    model: ModelSpec
    tokenizer: Tokenizer
    units: Sequence[Feature]
    trained_on: Sequence[Any]
    held_out: Sequence[Any]


def run_seed(
    config: FinetuneConfig, materials: RunInputs, folder: Path, seed: int, settings: Mapping[str, Any]
) -> dict[str, float]:
    """Train with one seed in a folder of its own, and leave the best model in `folder/model`; its metrics."""
    task, model, tokenizer = materials.task, materials.model, materials.tokenizer
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    training = config.training(batches_in_epoch(len(materials.units), config.batch_size), seed)
    build, plain, minimised = adapting(config, model.build, objective(config, materials))
    curves = {"loss": "training loss", task.best: task.best}
    method = one_objective(training, build, minimised, trainable if config.lora.rank else None, curves)
    host_index, host_count = batch_share(mesh)

    def batches(start: int) -> Batches:
        return Batches(
            task.kind,
            materials.units,
            batch_size=config.batch_size,
            seed=seed,
            limit=config.max_length,
            pad_id=tokenizer.pad_id,
            start=start,
            host_index=host_index,
            host_count=host_count,
        )

    judge = BestKeeper(
        task,
        tokenizer,
        materials.held_out,
        folder,
        Batching(max_length=config.max_length),
        plain=plain,
        patience=config.patience,
        every=training.evaluate_every,
    )
    train(
        training,
        folder,
        {**settings, "seed": seed},
        method,
        batches=batches,
        evaluate=judge,
        should_end=judge.ended,
        initial_model=None if config.from_scratch else lambda: _first(config, model, build, seed, mesh),
    )
    return judge.best


def adapting(
    config: FinetuneConfig, build: Build, minimised: Objective
) -> tuple[Build, Callable[[Any], Any], Objective]:
    """What is built, what makes a model of its own kind of it, and what it minimises: with adapters where asked for."""
    if not config.lora.rank:
        return build, lambda model: model, minimised

    def with_adapters(key: PRNGKeyArray) -> Adapted:
        return Adapted(build(key), config.lora, key=jax.random.fold_in(key, 1))

    return with_adapters, jax.jit(merged), adapted_objective(minimised)


def _first(config: FinetuneConfig, model: ModelSpec, build: Build, seed: int, mesh: Mesh) -> Any:
    """The model of step 0: that of the file, with adapters where asked for."""
    first = first_model(model, seed, mesh)
    if not config.lora.rank:
        return first
    key, _ = jax.random.split(jax.random.key(seed))
    places = shardings(jax.eval_shape(build, key), mesh)
    adapt = jax.jit(lambda base: Adapted(base, config.lora, key=jax.random.fold_in(key, 1)), out_shardings=places)
    return adapt(first)


def objective(config: FinetuneConfig, materials: RunInputs) -> Objective:
    """What the run minimises."""
    task = _task_objective(config, materials)
    return sift(task, config.sift) if config.sift.weight else objective_of(task)


def _task_objective(config: FinetuneConfig, materials: RunInputs) -> TaskObjective:
    kind, labels = materials.task.kind, materials.model.config.labels
    if kind in ("single_label", "token"):
        its = [[example.label] if kind == "single_label" else example.tags for example in materials.trained_on]
        counted = Counter(label for one in its for label in one)
        return label_objective(config.weights_of(labels, counted), config.label_smoothing)
    if config.class_weights or config.label_smoothing:
        raise InputError(f"class_weights and label_smoothing are for labels and tags, {materials.task.name} has none")
    return {
        "regression": number_objective,
        "multi_label": several_objective,
        "extractive_qa": span_objective,
        "multiple_choice": choice_objective,
        "entity_ranking": entity_objective,
    }[kind]()


def digest(units: Sequence[Feature]) -> str:
    """A digest of what is trained on: tokens and what is wanted of them."""
    whole = hashlib.sha256()
    for unit in units:
        for array in (*unit.rows, *unit.targets.values()):
            whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
