"""Virtual adversarial fine-tuning, scale-invariant (SiFT; He et al. 2021, 5; spec 6)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.finetuning.objectives import Divergence, TaskObjective
from deberta_jax.model.embeddings import Embeddings
from deberta_jax.ops.precision import accumulation_dtype
from deberta_jax.training.objective import ArrayBatch as Batch
from deberta_jax.training.objective import Objective, Sums

# Of the norm without parameters, and of the perturbation's scale (spec 6).
_NORM_EPSILON, _SCALE_EPSILON = 1e-7, 1e-6


@dataclasses.dataclass(frozen=True)
class SiftConfig:
    """Virtual adversarial training: a step costs three forward and two backward passes.

    `weight` is that of the adversarial loss, 0: none; published are 5, and 3 for v3-xsmall. A perturbation of standard
    deviation `initial` is moved by `learning_rate` along the gradient of `divergence`; the adversarial loss itself is
    the symmetric one (spec 6).
    """

    weight: float = 0.0
    learning_rate: float = 1e-4
    initial: float = 1e-2
    divergence: Divergence = "symmetric_kl"

    def __post_init__(self) -> None:
        for name in ("weight", "learning_rate", "initial"):
            if getattr(self, name) < 0:
                raise InputError(f"sift.{name} is {getattr(self, name)}; it cannot be negative")


class Perturbed(nnx.Module):
    """Embeddings whose sum is normed without parameters, and perturbed, before their own norm.

    With a perturbation no gradient reaches the sum.
    """

    def __init__(self, embeddings: Embeddings, perturbation: Float[Array, "B T D"] | None = None):
        self.embeddings = embeddings
        self.perturbation = None if perturbation is None else nnx.Param(perturbation)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Bool[Array, "B T"] | None = None,
        *,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        x = self.embeddings.summed(input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
        e = normalised(x)
        if self.perturbation is not None:
            perturbation = self.perturbation[...]
            e = jax.lax.stop_gradient(e) + perturbation.astype(e.dtype)
        return self.embeddings.finished(e, attention_mask, key=key).astype(x.dtype)


def normalised(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Mean 0 and variance 1 over the last axis, in float32 or wider."""
    x = x.astype(accumulation_dtype(x.dtype))
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _NORM_EPSILON)


def perturbed(model: Any, perturbation: Float[Array, "B T D"] | None = None) -> Any:
    """The model with such embeddings."""
    copy = jax.tree.map(lambda leaf: leaf, model)
    copy.deberta.embeddings = Perturbed(copy.deberta.embeddings, perturbation)
    return copy


class Adversarial(NamedTuple):
    """The passes of a step: outputs, the perturbation before and after, its gradient, the sums of both losses."""

    clean: Any
    first: Any
    second: Any
    before: Float[Array, "B T D"]
    gradient: Float[Array, "B T D"]
    after: Float[Array, "B T D"]
    task: Sums
    adversarial: Float[Array, ""]


def adversarial(
    task: TaskObjective,
    config: SiftConfig,
    model: Any,
    batch: Batch,
    noise: Float[Array, "B T D"],
    keys: tuple[PRNGKeyArray | None, ...] = (None, None, None),
) -> Adversarial:
    """A clean pass, one that finds a worse perturbation than `noise`, and one with that (spec 6, steps 1 to 6)."""
    clean = task.outputs(perturbed(model), batch, keys[0])
    sums = task.sums(clean, batch)
    # Of the three the original sums two over the batch, and takes the mean of squared distances.
    over = sums.weight if config.divergence == "mse" else 1.0
    before = jnp.clip(noise, -2 * config.initial, 2 * config.initial)
    frozen, target = jax.lax.stop_gradient((model, clean))

    def apart(perturbation: Float[Array, "B T D"]) -> tuple[Float[Array, ""], Any]:
        outputs = task.outputs(perturbed(frozen, perturbation), batch, keys[1])
        return task.divergence(config.divergence, outputs, target, batch) / over, outputs

    gradient, first = jax.grad(apart, has_aux=True)(before)
    largest = jnp.max(jnp.abs(gradient), axis=-1, keepdims=True)
    moved = before + config.learning_rate * gradient / (_SCALE_EPSILON + largest)
    after = jax.lax.stop_gradient(jnp.where(jnp.isfinite(jnp.sum(jnp.square(gradient))), moved, before))
    second = task.outputs(perturbed(model, after), batch, keys[2])
    return Adversarial(
        clean,
        first,
        second,
        before,
        gradient,
        after,
        sums,
        task.divergence("symmetric_kl", second, clean, batch),
    )


def sift(task: TaskObjective, config: SiftConfig) -> Objective:
    """A task's objective plus `weight` times the adversarial loss; without a key (in evaluation) the task's alone."""

    def objective(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Sums:
        if key is None:
            return task.sums(task.outputs(model, batch, None), batch)
        noise_key, *keys = jax.random.split(key, 4)
        T = batch["input_ids"].shape[-1]
        rows = batch["input_ids"].size // T
        noise = config.initial * jax.random.normal(noise_key, (rows, T, model.deberta.config.hidden_size))
        found = adversarial(task, config, model, batch, noise, tuple(keys))
        sums = found.task
        metrics = sums.metrics | {"task_loss": sums.loss, "adversarial_loss": found.adversarial}
        return sums._replace(loss=sums.loss + config.weight * found.adversarial, metrics=metrics)

    return objective
