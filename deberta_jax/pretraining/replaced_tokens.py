"""Replaced-token detection: generator and discriminator trained together (He, Gao and Chen 2023, 2.3 and 3; spec 4)."""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair, detector
from deberta_jax.ops.sampling import sample
from deberta_jax.pretraining.config import RtdConfig as RtdConfig
from deberta_jax.pretraining.objectives import masked_logits, masked_sums
from deberta_jax.pretraining.ranking import average_precision, counts, roc_auc
from deberta_jax.sharding import constrain
from deberta_jax.training.losses import binary_cross_entropy
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.objective import ArrayBatch as Batch
from deberta_jax.training.objective import Sums
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.schedules import warmup_steps
from deberta_jax.training.state import Build, TrainState
from deberta_jax.training.step import Step, Update, Updated, apply_gradients, compile_step, mean_gradient

# Below these a discriminator is called collapsed: it ranks by chance, or gives all tokens the same state.
LEAST_AUC, LEAST_SPREAD = 0.55, 0.01
_CURVES = {
    "generator_loss": "generator loss (nats per masked token)",
    "generator_accuracy": "generator masked-token accuracy",
    "discriminator_loss": "discriminator loss (nats per token)",
    "auc": "detection of replaced tokens (ROC AUC)",
}
# Where a discriminator of a "gdes" pair has E_Δ.
_DIFFERENCES = "deberta.embeddings.word.embedding", "deberta.embeddings.position.embedding"


class Optimizers(NamedTuple):
    """Those of decoupled steps."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation

    def init(self, pair: ReplacedTokenPair) -> dict[str, Any]:
        return {
            "generator": self.generator.init(pair.generator),
            "discriminator": self.discriminator.init(pair.discriminator),
        }


def replaced_token_detection(config: TrainingConfig, rtd: RtdConfig, build: Build) -> TrainingMethod:
    """The method of version 3; `build` makes a `ReplacedTokenPair` of the config's sharing."""

    no_decay = _DIFFERENCES if rtd.sharing == "gdes" and rtd.difference_decay == "none" else ()
    rate = learning_rate(config.optimizer, config.steps)
    if rtd.step == "joint":
        optimizer: Any = make_optimizer(config.optimizer, config.steps, [f"discriminator.{path}" for path in no_decay])
        rates = {"learning_rate": rate}
        make_update: Any = joint
    else:
        own = rtd.discriminator_learning_rate
        second = config.optimizer if own is None else dataclasses.replace(config.optimizer, learning_rate=own)
        optimizer = Optimizers(
            make_optimizer(config.optimizer, config.steps), make_optimizer(second, config.steps, no_decay)
        )
        rates = {"learning_rate": rate}
        if own is not None:
            rates["discriminator_learning_rate"] = learning_rate(second, config.steps)
        make_update = decoupled

    def step(places: TrainState) -> Step:
        return compile_step(make_update(rtd, optimizer, places.model, config.accumulate), rates, places)

    return TrainingMethod(build, optimizer, step, evaluate, summarize, partial(collapse_warning, config), _CURVES)


def decoupled(rtd: RtdConfig, optimizers: Optimizers, places: Any, accumulate: int) -> Update:
    """An update of the generator, then one of the discriminator on its new embeddings (spec 4.2)."""

    def update(pair: ReplacedTokenPair, states: dict[str, Any], batch: Batch, key: PRNGKeyArray) -> Updated:
        keys = jax.random.split(key, 3)
        batch = with_draws(batch, keys[0])
        written, gradients = mean_gradient(generate, pair.generator, batch, keys[1], places.generator, accumulate)
        generator, first = apply_gradients(optimizers.generator, gradients, states["generator"], pair.generator)
        pair = _pair(pair, generator, pair.discriminator)
        found, gradient = mean_gradient(
            lambda own, batch, key: detect(detector(own, pair.shared, pair.sharing), batch, key),
            pair.discriminator,
            replaced(batch, written.rows["written"]),
            keys[2],
            places.discriminator,
            accumulate,
        )
        gradient = _scaled(gradient, rtd.loss_weight)
        discriminator, second = apply_gradients(
            optimizers.discriminator, gradient, states["discriminator"], pair.discriminator
        )
        pair = _pair(pair, generator, discriminator)
        metrics = _metrics(rtd, written, found, optax.tree.norm(gradients), optax.tree.norm(gradient))
        return Updated(pair, {"generator": first, "discriminator": second}, metrics)

    return update


def joint(rtd: RtdConfig, optimizer: optax.GradientTransformation, places: Any, accumulate: int) -> Update:
    """One update by the gradient of L_G + λ L_D (spec 4.2, last line), each loss a mean over its own tokens."""

    def update(pair: ReplacedTokenPair, state: Any, batch: Batch, key: PRNGKeyArray) -> Updated:
        keys = jax.random.split(key, 3)
        batch = with_draws(batch, keys[0])
        written, gradients = mean_gradient(generate, pair.generator, batch, keys[1], places.generator, accumulate)
        generator_norm = optax.tree.norm(gradients)
        moved = pair.sharing == "es"
        found, (own, shared) = mean_gradient(
            lambda both, batch, key: detect(detector(both[0], both[1] or pair.shared, pair.sharing), batch, key),
            (pair.discriminator, pair.shared if moved else {}),
            replaced(batch, written.rows["written"]),
            keys[2],
            (places.discriminator, places.shared if moved else {}),
            accumulate,
        )
        gradient = _scaled(own, rtd.loss_weight)
        shared = _scaled(shared, rtd.loss_weight)
        for name, table in shared.items():
            embeddings = gradients.deberta.embeddings
            setattr(embeddings, name, jax.tree.map(jnp.add, getattr(embeddings, name), table))
        gradients = _pair(pair, gradients, gradient)
        pair, state = apply_gradients(optimizer, gradients, state, pair)
        metrics = _metrics(rtd, written, found, generator_norm, optax.tree.norm((gradient, shared)))
        return Updated(pair, state, metrics)

    return update


def generate(generator: MaskedLM, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    """The generator's loss, and what it writes in the masked places: a draw from its softmax at temperature 1."""
    logits = masked_logits(generator, batch, key)
    return masked_sums(logits, batch)._replace(rows={"written": sample(logits, batch["draws"])})


def detect(model: ReplacedTokenDetection, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    """The discriminator's loss: binary cross entropy over all real tokens, [CLS] and [SEP] too (spec 4.2)."""
    logits = model(batch["input_ids"], segment_ids=batch["segment_ids"], position_ids=batch["position_ids"], key=key)
    return detection_sums(logits, batch)


def detection_sums(logits: Float[Array, "B T"], batch: Batch) -> Sums:
    """The loss of those logits, and how many tokens were replaced."""
    real = batch["segment_ids"] > 0
    losses = binary_cross_entropy(logits, batch["replaced"].astype(logits.dtype))
    return Sums(
        loss=jnp.sum(jnp.where(real, losses, 0)),
        weight=jnp.sum(real).astype(losses.dtype),
        tokens=jnp.sum(real),
        metrics={"replaced": jnp.sum(jnp.where(real, batch["replaced"], False)).astype(losses.dtype)},
    )


def with_draws(batch: Batch, key: PRNGKeyArray) -> Batch:
    """A batch with the numbers by which the generator draws: the same however the batch is split."""
    draws = jax.random.uniform(key, (*batch["labels"].shape, 2))
    return {**batch, "draws": constrain(draws, "batch", None, None)}


def replaced(batch: Batch, written: Int[Array, "B M"]) -> Batch:
    """The batch as the discriminator reads it: drawn tokens in the masked places, and which of them are not the former.

    A draw may hit the token that stood there; it counts as not replaced (spec 4.2).
    """
    ids = batch["input_ids"]
    used = batch["label_weights"] > 0
    # A slot that is not used lies outside the row, and is dropped.
    places = jnp.where(used, batch["masked_positions"], ids.shape[1])
    rows = jnp.arange(ids.shape[0], dtype=places.dtype)[:, None]
    new = ids.at[rows, places].set(written.astype(ids.dtype), mode="drop")
    changed = jnp.zeros(ids.shape, bool).at[rows, places].set(written != batch["labels"], mode="drop")
    return {**batch, "input_ids": constrain(new, "batch", None), "replaced": constrain(changed, "batch", None)}


class PairSums(NamedTuple):
    """Over held-out text: both losses, the discriminator's logits counted in bins, and sums of its states."""

    generator: Sums
    discriminator: Sums
    positives: Any
    negatives: Any
    state: Any
    square: Any


def evaluate(pair: ReplacedTokenPair, batch: Batch, number: int | Array) -> PairSums:
    """Sums of a held-out batch, with draws that depend on its number alone."""
    batch = with_draws(batch, jax.random.fold_in(jax.random.key(0), number))
    written = generate(pair.generator, batch, None)
    batch = replaced(batch, written.rows["written"])
    model = pair.detector()
    states = model.deberta(
        batch["input_ids"], segment_ids=batch["segment_ids"], position_ids=batch["position_ids"]
    ).last_hidden_state
    logits = model.head(states, batch["position_ids"])
    real = batch["segment_ids"] > 0
    states = jnp.where(real[..., None], states.astype(jnp.float32), 0)
    return PairSums(
        written._replace(rows={}),
        detection_sums(logits, batch),
        counts(logits, real & batch["replaced"]),
        counts(logits, real & ~batch["replaced"]),
        jnp.sum(states, axis=(0, 1)),
        jnp.sum(jnp.square(states)),
    )


def summarize(sums: PairSums) -> dict[str, float]:
    """What is reported of held-out text.

    `gain` is how far `discriminator_loss` lies below that of the best constant, the entropy of the share replaced
    (nats). `auc` and `average_precision` rank replaced tokens before others. `spread` is the part of the mean square of
    the discriminator's last states that is not their common mean: 0 where all tokens have one state.
    """
    generator_loss = float(sums.generator.loss / sums.generator.weight)
    detector_loss = float(sums.discriminator.loss / sums.discriminator.weight)
    share = float(sums.discriminator.metrics["replaced"] / sums.discriminator.weight)
    tokens = sums.discriminator.weight
    mean_square = float(sums.square / tokens)
    return {
        "generator_loss": generator_loss,
        "generator_perplexity": math.exp(min(generator_loss, 700)),
        "generator_accuracy": float(sums.generator.metrics["accuracy"] / sums.generator.weight),
        "discriminator_loss": detector_loss,
        "gain": prior_loss(share) - detector_loss,
        "replaced": share,
        "auc": roc_auc(sums.positives, sums.negatives),
        "average_precision": average_precision(sums.positives, sums.negatives),
        "spread": 1 - float(np.sum(np.square(sums.state / tokens))) / mean_square if mean_square else 0.0,
    }


def collapse_warning(config: TrainingConfig, step: int, found: Mapping[str, float]) -> str | None:
    """What is wrong with a discriminator that does not tell tokens apart after the warm-up, in one line, or None."""
    if step <= warmup_steps(config.optimizer.warmup, config.steps):
        return None
    signs = []
    # What is not a number is no good sign either.
    if not found["auc"] >= LEAST_AUC:
        signs.append(f"AUC {found['auc']:.3f}, chance is 0.5")
    if collapsed := not found["spread"] >= LEAST_SPREAD:
        signs.append(f"its states are nearly one (spread {found['spread']:.4f})")
    if not signs:
        return None
    verdict = "has collapsed" if collapsed else "has collapsed, or has learned nothing yet"
    return f"the discriminator {verdict}: {', '.join(signs)}; lower the learning rate, or lengthen the warm-up"


def _metrics(rtd: RtdConfig, written: Sums, found: Sums, *norms: Array) -> dict[str, Array]:
    """`norms` are those of the gradients of the generator's loss and of the discriminator's, times λ."""
    generator_loss, detector_loss = written.loss / written.weight, found.loss / found.weight
    return {
        "loss": generator_loss + rtd.loss_weight * detector_loss,
        "generator_loss": generator_loss,
        "generator_accuracy": written.metrics["accuracy"] / written.weight,
        "discriminator_loss": detector_loss,
        "replaced": found.metrics["replaced"] / found.weight,
        "tokens": written.tokens,
        "grad_norm": jnp.sqrt(norms[0] ** 2 + norms[1] ** 2),
        "generator_grad_norm": norms[0],
        "discriminator_grad_norm": norms[1],
    }


def _pair(like: ReplacedTokenPair, generator: Any, discriminator: Any) -> Any:
    copy = jax.tree.map(lambda leaf: leaf, like)
    copy.generator, copy.discriminator = generator, discriminator
    return copy


def _scaled(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)


def prior_loss(share: float) -> float:
    """The binary cross entropy of guessing `share` everywhere, the best constant, in nats."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
