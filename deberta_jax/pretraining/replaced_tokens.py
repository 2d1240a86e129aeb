"""Replaced-token detection: a training method that updates a generator and a discriminator.

See docs/numerics.md, "Replaced-token detection" (He, Gao and Chen 2023, 2.3 and 3).
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deberta_jax.model.pair import ReplacedTokenPair, detector
from deberta_jax.model.tree import replace_parts
from deberta_jax.pretraining.baselines import BaselinesOf, accuracy_curve, loss_curve
from deberta_jax.pretraining.config import RtdConfig
from deberta_jax.pretraining.replaced_token_evaluation import collapse_warning, evaluate_pair, prior_loss, summarize
from deberta_jax.pretraining.replaced_token_losses import (
    add_draws,
    discriminator_objective,
    generator_objective,
    replace_tokens,
)
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.objective import ArrayBatch, Sums
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.plot import Curve, Curves
from deberta_jax.training.state import Build, TrainState
from deberta_jax.training.step import Step, Update, Updated, apply_gradients, compile_step, mean_gradient

# Paths of the difference tables (E_Δ in the paper) in the discriminator of a "gdes" pair.
_DIFFERENCES = "deberta.embeddings.word.embedding", "deberta.embeddings.position.embedding"


def pair_curves(baselines_of: BaselinesOf) -> Curves:
    """The curves of generator and discriminator."""
    generator = "Generator", "masked token", baselines_of("")
    constant = {"best constant": lambda line: prior_loss(line["replaced"])}
    return {
        "generator_loss": loss_curve(*generator),
        "generator_accuracy": accuracy_curve(*generator),
        "discriminator_loss": Curve("Discriminator: loss", "loss (nats per token)", constant),
        "auc": Curve("Discriminator: replaced or original", "ROC AUC", {"guessing": 0.5}),
    }


class DecoupledOptimizers(NamedTuple):
    """The two optimizers of decoupled steps."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation

    def init(self, pair: ReplacedTokenPair) -> dict[str, Any]:
        return {
            "generator": self.generator.init(pair.generator),
            "discriminator": self.discriminator.init(pair.discriminator),
        }


def replaced_token_detection(training: TrainingConfig, rtd: RtdConfig, build: Build) -> TrainingMethod:
    """The training method of DeBERTa v3; `build` makes a `ReplacedTokenPair` with the sharing of `rtd`."""
    no_decay = _DIFFERENCES if rtd.sharing == "gdes" and rtd.difference_decay == "none" else ()
    rates = {"learning_rate": learning_rate(training.optimizer, training.steps)}
    if rtd.step == "joint":
        optimizer: Any = make_optimizer(
            training.optimizer, training.steps, [f"discriminator.{path}" for path in no_decay]
        )
        make_update: Any = joint_update
    else:
        discriminator = training.optimizer
        if rtd.discriminator_learning_rate is not None:
            discriminator = dataclasses.replace(discriminator, learning_rate=rtd.discriminator_learning_rate)
            rates["discriminator_learning_rate"] = learning_rate(discriminator, training.steps)
        optimizer = DecoupledOptimizers(
            make_optimizer(training.optimizer, training.steps), make_optimizer(discriminator, training.steps, no_decay)
        )
        make_update = decoupled_update

    def step(shardings: TrainState) -> Step:
        return compile_step(make_update(rtd, optimizer, shardings.model, training.accumulate), rates, shardings)

    warning = partial(collapse_warning, training)
    return TrainingMethod(build, optimizer, step, evaluate_pair, summarize, warning)


def decoupled_update(rtd: RtdConfig, optimizers: DecoupledOptimizers, shardings: Any, accumulate: int) -> Update:
    """Update the generator, then the discriminator, which reads the generator's updated embeddings."""

    def update(state: TrainState, batch: ArrayBatch, key: PRNGKeyArray) -> Updated:
        pair: Any = state.model
        states, keys = state.optimizer_state, jax.random.split(key, 3)
        batch = add_draws(batch, keys[0])
        generator_sums, generator_gradient = mean_gradient(
            generator_objective, pair.generator, batch, keys[1], shardings.generator, accumulate
        )
        generator, generator_state = apply_gradients(
            optimizers.generator, generator_gradient, states["generator"], pair.generator
        )
        pair = replace_parts(pair, {"generator": generator})
        sums, gradient = mean_gradient(
            lambda model, batch, key: discriminator_objective(detector(model, pair.shared, pair.sharing), batch, key),
            pair.discriminator,
            replace_tokens(batch, generator_sums.rows["sampled"]),
            keys[2],
            shardings.discriminator,
            accumulate,
        )
        gradient = _scaled(gradient, rtd.loss_weight)
        discriminator, discriminator_state = apply_gradients(
            optimizers.discriminator, gradient, states["discriminator"], pair.discriminator
        )
        norms = optax.tree.norm(generator_gradient), optax.tree.norm(gradient)
        return Updated(
            replace_parts(pair, {"discriminator": discriminator}),
            {"generator": generator_state, "discriminator": discriminator_state},
            _metrics(rtd, generator_sums, sums, *norms),
        )

    return update


def joint_update(rtd: RtdConfig, optimizer: optax.GradientTransformation, shardings: Any, accumulate: int) -> Update:
    """One update with the gradient of L_G + λ L_D, where each loss is a mean over its own tokens."""

    def update(state: TrainState, batch: ArrayBatch, key: PRNGKeyArray) -> Updated:
        pair: Any = state.model
        keys = jax.random.split(key, 3)
        batch = add_draws(batch, keys[0])
        generator_sums, generator_gradient = mean_gradient(
            generator_objective, pair.generator, batch, keys[1], shardings.generator, accumulate
        )
        generator_norm = optax.tree.norm(generator_gradient)
        # Only with "es" does the discriminator's loss have a gradient for the shared tables.
        shares_gradient = pair.sharing == "es"
        sums, gradients = mean_gradient(
            lambda parts, batch, key: discriminator_objective(
                detector(parts[0], parts[1] or pair.shared, pair.sharing), batch, key
            ),
            (pair.discriminator, pair.shared if shares_gradient else {}),
            replace_tokens(batch, generator_sums.rows["sampled"]),
            keys[2],
            (shardings.discriminator, shardings.shared if shares_gradient else {}),
            accumulate,
        )
        gradient, shared_gradient = _scaled(gradients, rtd.loss_weight)
        generator_tables = generator_gradient.deberta.embeddings
        generator_gradient = replace_parts(
            generator_gradient,
            {
                f"deberta.embeddings.{name}": jax.tree.map(jnp.add, getattr(generator_tables, name), table)
                for name, table in shared_gradient.items()
            },
        )
        pair_gradient = replace_parts(pair, {"generator": generator_gradient, "discriminator": gradient})
        pair, optimizer_state = apply_gradients(optimizer, pair_gradient, state.optimizer_state, pair)
        norms = generator_norm, optax.tree.norm((gradient, shared_gradient))
        return Updated(pair, optimizer_state, _metrics(rtd, generator_sums, sums, *norms))

    return update


def _metrics(
    rtd: RtdConfig, generator: Sums, discriminator: Sums, generator_norm: Array, discriminator_norm: Array
) -> dict[str, Array]:
    """Metrics of a step; the norms are those of each model's gradient, the discriminator's times λ."""
    generator_loss = generator.loss / generator.weight
    discriminator_loss = discriminator.loss / discriminator.weight
    return {
        "loss": generator_loss + rtd.loss_weight * discriminator_loss,
        "generator_loss": generator_loss,
        "generator_accuracy": generator.metrics["accuracy"] / generator.weight,
        "discriminator_loss": discriminator_loss,
        "replaced": discriminator.metrics["replaced"] / discriminator.weight,
        "tokens": generator.tokens,
        "grad_norm": jnp.sqrt(generator_norm**2 + discriminator_norm**2),
        "generator_grad_norm": generator_norm,
        "discriminator_grad_norm": discriminator_norm,
    }


def _scaled(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)
