"""Training steps of our library, for benchmarks."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.objective import Objective
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import place


class Trainer:
    """A state and its compiled step."""

    def __init__(self, method: TrainingMethod, mesh: Mesh, model: Any = None):
        self.mesh = mesh
        self.state = initial_state(method.build, method.optimizer, 0, mesh, model)
        self._step = method.make_step(shardings(abstract_state(method.build, method.optimizer, 0, mesh), mesh))

    def run(self, *batches: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Take a step with each batch, wait for the last, and return its metrics."""
        for batch in batches:
            self.state, metrics = self._step(self.state, place(batch, self.mesh))
        return jax.block_until_ready(metrics)

    def compile(self, batch: dict[str, np.ndarray]) -> int:
        """Compile the step for batches of this shape; returns its temporary memory in bytes."""
        self._step = self._step.lower(self.state, place(batch, self.mesh)).compile()
        return self._step.memory_analysis().temp_size_in_bytes


def v3_small_classifier(objective: Objective, labels: tuple[str, ...], batch_size: int) -> TrainingMethod:
    """AdamW on a classifier with the geometry of v3-small."""
    config = dataclasses.replace(PRESETS["v3-small"], labels=labels)
    training = TrainingConfig(steps=10_000, batch_size=batch_size, optimizer=OptimizerConfig(learning_rate=1e-5))
    return one_objective(training, lambda key: SequenceClassification(config, key=key), objective)


def random_batch(batch_size: int, length: int, num_labels: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Random token ids and labels without padding."""
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(5, vocab_size, (batch_size, length)).astype(np.int32),
        "attention_mask": np.ones((batch_size, length), np.int32),
        "token_type_ids": np.zeros((batch_size, length), np.int32),
        "labels": rng.integers(0, num_labels, batch_size).astype(np.int32),
        "weights": np.ones(batch_size, np.float32),
    }
