"""Adversarial weight perturbation: the gradient is taken where the loss is higher (Wu et al. 2020)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.finetuning.techniques import AwpConfig
from deberta_jax.model.tree import named_leaves
from deberta_jax.training.objective import Sums
from deberta_jax.training.optimizer import is_decayed, is_stacked
from deberta_jax.training.schedules import number_of_steps
from deberta_jax.training.step import GradientAt, GradientRule


def perturbed(config: AwpConfig, model: Any, gradient: Any) -> Any:
    """The model with each matrix w moved by `learning_rate` ||w|| g / ||g|| (equation 10), within `epsilon` |w|.

    The norms are those of a matrix in a layer. Biases and layer norms stay as they are, as in the authors' code.
    """
    is_matrix, names = jax.tree.leaves(is_decayed(model)), named_leaves(model)
    leaves = zip(names.items(), jax.tree.leaves(gradient), is_matrix, strict=True)
    moved = [_moved(config, w, g, is_stacked(name)) if matrix else w for (name, w), g, matrix in leaves]
    return jax.tree.unflatten(jax.tree.structure(model), moved)


def _moved(config: AwpConfig, w: Float[Array, "..."], g: Float[Array, "..."], stacked: bool) -> Float[Array, "..."]:
    axes = tuple(range(1 if stacked else 0, w.ndim))
    g_norm, w_norm = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (g, w))
    perturbation = config.learning_rate * w_norm * g / jnp.where(g_norm > 0, g_norm, 1)
    limit = config.epsilon * jnp.abs(w)
    return w + jnp.clip(perturbation.astype(w.dtype), -limit, limit)


def awp(config: AwpConfig, total_steps: int) -> GradientRule:
    """The gradient of a step at perturbed weights, from `config.start` on; before, at the weights of the model.

    The perturbation is that of the whole batch, over all micro-batches and devices.
    """
    start = math.ceil(number_of_steps(config.start, total_steps))

    def rule(gradient_at: GradientAt, model: Any, step: Int[Array, ""], key: PRNGKeyArray) -> tuple[Sums, Any]:
        keys = jax.random.split(key)

        def perturb() -> tuple[Any, Array]:
            sums, gradient = gradient_at(model, keys[0])
            return perturbed(config, model, gradient), sums.loss / sums.weight

        def keep() -> tuple[Any, Array]:
            return model, jnp.zeros((), jnp.float32)

        moved, clean_loss = perturb() if start == 0 else jax.lax.cond(step >= start, perturb, keep)
        sums, gradient = gradient_at(moved, keys[1])
        task_loss = jnp.where(step >= start, clean_loss * sums.weight, sums.loss)
        return sums._replace(metrics=sums.metrics | {"task_loss": task_loss}), gradient

    return rule
