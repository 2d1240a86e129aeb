"""Virtual adversarial fine-tuning (SiFT): scale-invariant perturbations of the embeddings (He et al. 2021, section 5).

See docs/numerics.md, "Virtual adversarial training".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.model.linear import LayerNorm, normalize
from deberta_jax.model.tree import replace_parts
from deberta_jax.training.objective import ArrayBatch, Objective, Sums

# Added to the variance of the normalization, and to the scale of the gradient.
NORM_EPSILON, _SCALE_EPSILON = 1e-7, 1e-6


class PerturbedNorm(nnx.Module):
    """The layer norm of the embeddings, whose input is first normalized without parameters, then perturbed.

    With a perturbation, the input has no gradient.
    """

    def __init__(self, norm: LayerNorm, perturbation: Float[Array, "B T D"] | None = None):
        self.norm = norm
        self.perturbation = None if perturbation is None else nnx.Param(perturbation)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        e = normalize(x, NORM_EPSILON)
        if self.perturbation is not None:
            perturbation = self.perturbation[...]
            e = jax.lax.stop_gradient(e) + perturbation.astype(e.dtype)
        return self.norm(e).astype(x.dtype)


def perturb(model: Any, perturbation: Float[Array, "B T D"] | None = None) -> Any:
    """The model with normalized, perturbed embeddings."""
    norm = PerturbedNorm(model.deberta.embeddings.norm, perturbation)
    return replace_parts(model, {"deberta.embeddings.norm": norm})


class AdversarialPasses(NamedTuple):
    """The three forward passes of a step, and what is computed from them.

    `clean` are the outputs without perturbation, `first` those with `initial_perturbation`, `second` those with
    `perturbation`, which is one step along `gradient`. `task` are the sums of the clean loss, `adversarial` the
    divergence of `second` and `clean`.
    """

    clean: Any
    first: Any
    second: Any
    initial_perturbation: Float[Array, "B T D"]
    gradient: Float[Array, "B T D"]
    perturbation: Float[Array, "B T D"]
    task: Sums
    adversarial: Float[Array, ""]


def adversarial_passes(
    task: TaskObjective,
    config: SiftConfig,
    model: Any,
    batch: ArrayBatch,
    noise: Float[Array, "B T D"],
    keys: tuple[PRNGKeyArray | None, ...] = (None, None, None),
) -> AdversarialPasses:
    """A clean pass, one with `noise` whose gradient increases the divergence, and one with the moved perturbation."""
    clean = task.outputs(perturb(model), batch, keys[0])
    sums = task.sums(clean, batch)
    # The original sums two of the divergences over the batch, and takes the mean of the third, squared errors.
    divisor = sums.weight if config.divergence == "mse" else 1.0
    initial = jnp.clip(noise, -2 * config.initial, 2 * config.initial)
    frozen, target = jax.lax.stop_gradient((model, clean))

    def distance(perturbation: Float[Array, "B T D"]) -> tuple[Float[Array, ""], Any]:
        outputs = task.outputs(perturb(frozen, perturbation), batch, keys[1])
        return task.divergence(config.divergence, outputs, target, batch) / divisor, outputs

    gradient, first = jax.grad(distance, has_aux=True)(initial)
    largest = jnp.max(jnp.abs(gradient), axis=-1, keepdims=True)
    moved = initial + config.learning_rate * gradient / (_SCALE_EPSILON + largest)
    is_finite = jnp.isfinite(jnp.sum(jnp.square(gradient)))
    perturbation = jax.lax.stop_gradient(jnp.where(is_finite, moved, initial))
    second = task.outputs(perturb(model, perturbation), batch, keys[2])
    return AdversarialPasses(
        clean,
        first,
        second,
        initial,
        gradient,
        perturbation,
        sums,
        task.divergence("symmetric_kl", second, clean, batch),
    )


def sift(task: TaskObjective, config: SiftConfig) -> Objective:
    """The objective of a task plus `weight` times the adversarial loss.

    Without a key, that is in evaluation, it is the objective of the task alone.
    """

    def objective(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
        if key is None:
            return task.sums(task.outputs(model, batch, None), batch)
        noise_key, *keys = jax.random.split(key, 4)
        T = batch["input_ids"].shape[-1]
        sequences = batch["input_ids"].size // T
        noise = config.initial * jax.random.normal(noise_key, (sequences, T, model.deberta.config.hidden_size))
        passes = adversarial_passes(task, config, model, batch, noise, tuple(keys))
        sums = passes.task
        metrics = sums.metrics | {"task_loss": sums.loss, "adversarial_loss": passes.adversarial}
        return sums._replace(loss=sums.loss + config.weight * passes.adversarial, metrics=metrics)

    return objective
