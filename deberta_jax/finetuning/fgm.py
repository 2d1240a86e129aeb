"""The fast gradient method: a second pass with embeddings moved along the gradient of the loss (Miyato et al. 2017)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.model.linear import LayerNorm
from deberta_jax.model.tree import replace_parts
from deberta_jax.ops.precision import upcast
from deberta_jax.sharding import constrain
from deberta_jax.training.objective import ArrayBatch, Objective, Sums


class ShiftedNorm(nnx.Module):
    """The layer norm of the embeddings, to whose input a perturbation is added in float32 or wider."""

    def __init__(self, norm: LayerNorm, perturbation: Float[Array, "B T D"]):
        self.norm, self.perturbation = norm, nnx.Param(perturbation)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.norm(upcast(x) + self.perturbation[...]).astype(x.dtype)


class FgmPasses(NamedTuple):
    """The clean and the perturbed pass of a step.

    `gradient` is that of the clean loss with respect to the embeddings, `model_gradient` that of the sum of both losses
    with respect to the parameters.
    """

    clean: Sums
    adversarial: Sums
    gradient: Float[Array, "B T D"]
    perturbation: Float[Array, "B T D"]
    model_gradient: Any


def fgm_passes(
    task: TaskObjective,
    epsilon: float,
    model: Any,
    batch: ArrayBatch,
    keys: tuple[PRNGKeyArray | None, ...] = (None, None),
) -> FgmPasses:
    """Two forward and two backward passes; the first backward pass also gives the gradient of the embeddings."""

    def loss(model: Any, perturbation: Float[Array, "B T D"], key: PRNGKeyArray | None) -> tuple[Array, Sums]:
        norm = ShiftedNorm(model.deberta.embeddings.norm, perturbation)
        perturbed = replace_parts(model, {"deberta.embeddings.norm": norm})
        sums = task.sums(task.outputs(perturbed, batch, key), batch)
        return sums.loss, sums

    T = batch["input_ids"].shape[-1]
    shape = batch["input_ids"].size // T, T, model.deberta.config.hidden_size
    zeros = constrain(jnp.zeros(shape, jnp.float32), "batch", None, None)
    passes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, clean), (clean_gradient, gradient) = passes(model, zeros, keys[0])
    perturbation = epsilon * direction(gradient)
    (_, adversarial), adversarial_gradient = jax.value_and_grad(loss, has_aux=True)(model, perturbation, keys[1])
    model_gradient = jax.tree.map(jnp.add, clean_gradient, adversarial_gradient)
    return FgmPasses(clean, adversarial, gradient, perturbation, model_gradient)


def direction(gradient: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """g / ||g|| of each sequence (Miyato et al. 2017, equation 5); zero where the gradient is zero."""
    # A norm of tiny numbers would be zero.
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(scaled), axis=(1, 2), keepdims=True))
    return scaled / jnp.where(norm > 0, norm, 1)


def fgm(task: TaskObjective, epsilon: float) -> Objective:
    """The loss of a task plus its loss with a perturbation of norm `epsilon` per sequence.

    Without a key, that is in evaluation, it is the objective of the task alone.
    """

    def forward(model: Any, batch: ArrayBatch, key: PRNGKeyArray) -> tuple[Sums, Any]:
        passes = fgm_passes(task, epsilon, model, batch, tuple(jax.random.split(key)))
        clean, adversarial = passes.clean, passes.adversarial
        metrics = clean.metrics | {"task_loss": clean.loss, "adversarial_loss": adversarial.loss}
        return clean._replace(loss=clean.loss + adversarial.loss, metrics=metrics), passes.model_gradient

    def backward(gradient: Any, cotangent: Sums) -> tuple[Any, None, None]:
        return jax.tree.map(lambda g: cotangent.loss.astype(g.dtype) * g, gradient), None, None

    # JAX would differentiate through the first pass once more.
    adversarial = jax.custom_vjp(lambda model, batch, key: forward(model, batch, key)[0])
    adversarial.defvjp(forward, backward)

    def objective(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
        if key is None:
            return task.sums(task.outputs(model, batch, None), batch)
        return adversarial(model, batch, key)

    return objective
