"""A classifier of random tokens, and a few training steps on a mesh."""

import dataclasses

import jax
import numpy as np
from small_models import V3
from small_states import state_of

from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.method import one_objective
from deberta_jax.training.step import place

RELATIVE = dataclasses.replace(
    V3, num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, labels=("a", "b", "c")
)
# A training step without disentangled attention compiles faster.
CONFIG = dataclasses.replace(RELATIVE, relative_attention=False, position_biased_input=True)
B, T, C = 8, 12, 3
_DEVICES = jax.devices()


def one_device():
    return make_mesh(1, 1, 1, jax.devices()[:1])


def eight_devices():
    return make_mesh(2, 2, 2, _DEVICES)


def random_tokens(rng, *shape):
    return rng.integers(1, CONFIG.vocab_size, shape).astype(np.int32)


def train_steps(mesh, build, model, objective, batch, *, steps, trainable=None, learning_rate=1e-2):
    """The state after some steps on one batch from a model that `build` made, and the metrics of each step."""
    optimizer = OptimizerConfig(learning_rate=learning_rate, warmup=0.0)
    training = TrainingConfig(steps=10, batch_size=B, optimizer=optimizer)
    method = one_objective(training, build, objective, trainable)
    state = state_of(model, method.build, method.optimizer, mesh)
    step = method.make_step(shardings(state, mesh))
    metrics = []
    # Optax mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            state, values = step(state, place(batch, mesh))
            metrics.append({name: float(value) for name, value in values.items()})
    return state, metrics
