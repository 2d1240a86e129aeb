"""AdamW with the original's decay exclusions, and the original's own optimizers by name."""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from deberta_jax.errors import InputError
from deberta_jax.training.config import OptimizerConfig as OptimizerConfig
from deberta_jax.training.schedules import SCHEDULES, warmup_steps

# Where the stacked layers stand in a model.
_LAYERS = ".encoder.layers."


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of an update, as a function of the number of updates made before it."""
    warmup = warmup_steps(config.warmup, total_steps)
    if warmup > total_steps:
        raise InputError(f"optimizer.warmup is {config.warmup:g} steps, the run has {total_steps}")
    scale = SCHEDULES[config.schedule]
    return lambda step: (
        config.learning_rate * scale(jnp.asarray(step, jnp.float32), total_steps, warmup, config.final_scale)
    )


def make_optimizer(
    config: OptimizerConfig, total_steps: int, no_decay: Collection[str] = ()
) -> optax.GradientTransformation:
    """Clipping by the global norm, moments, decoupled weight decay, learning rate; lookahead around them.

    Parameters with the dotted paths `no_decay` do not decay, besides those that never do.
    """
    moments = {
        "adamw": optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        "microsoft_adam": scale_by_microsoft_adam(config.beta1, config.beta2, config.epsilon),
        "radam": scale_by_microsoft_adam(config.beta1, config.beta2, config.epsilon),
        "admax": scale_by_admax(config.beta1, config.beta2, config.epsilon),
    }[config.name]
    radam = config.name == "radam"
    # Where it is off the chain, and so the state that checkpoints hold, is as if it were not there.
    scaled = (scale_by_layer(config.layer_decay),) if config.layer_decay < 1 else ()
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        moments,
        optax.add_decayed_weights(config.weight_decay, mask=functools.partial(is_decayed, no_decay=no_decay)),
        scale_by_radam_correction(config.beta1, config.beta2, total_steps) if radam else optax.identity(),
        *scaled,
        optax.scale_by_learning_rate(learning_rate(config, total_steps)),
    )
    return lookahead(chain, config.lookahead) if config.lookahead else chain


def is_decayed(model: Any, no_decay: Collection[str] = ()) -> Any:
    """True for each leaf whose weight decays: all but biases, the scales of layer norms, and the paths `no_decay`.

    Follows Microsoft's regexes `bias` and `LayerNorm.weight` (spec 7.1): embeddings do decay, relative ones too.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        last = name.rsplit(".")[-1]
        return not (last.endswith("bias") or last == "scale" or name in no_decay)

    return jax.tree_util.tree_map_with_path(decays, model)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Updates of layer l of L, from 1, times decay^(L + 1 - l); the head's once, those of embeddings decay^(L + 1).

    As layer-wise learning rates of Clark et al. 2020 (appendix B). What serves all layers, the relative table and its
    norm, counts as embeddings, the convolution of version 2 as the first layer.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        names = [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, _ in jax.tree_util.tree_leaves_with_path(updates)
        ]
        leaves, structure = jax.tree.flatten(updates)
        depths = [leaf.shape[0] for name, leaf in zip(names, leaves, strict=True) if _LAYERS in f".{name}"]
        if not depths:
            raise InputError("optimizer.layer_decay: the model has no encoder layers")
        L = depths[0]

        def scaled(name: str, leaf: Array) -> Array:
            dotted = f".{name}"
            if _LAYERS in dotted:
                by_layer = np.asarray(decay, np.float64) ** np.arange(L, 0, -1)
                return leaf * jnp.asarray(by_layer, leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
            if ".encoder.convolution." in dotted:
                return leaf * jnp.asarray(decay**L, leaf.dtype)
            if ".deberta." in dotted:
                return leaf * jnp.asarray(decay ** (L + 1), leaf.dtype)
            return leaf

        return jax.tree.unflatten(structure, list(map(scaled, names, leaves))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Moments(NamedTuple):
    """Decayed sums of a gradient: of itself, and of its square or its size."""

    first: Any
    second: Any


def scale_by_microsoft_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + epsilon) without bias correction (spec 7.1; optims/xadam.py)."""

    def update(gradients: Any, moments: Moments, params: Any = None) -> tuple[Any, Moments]:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments.first, gradients)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, moments.second, gradients)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second), Moments(first, second)

    return optax.GradientTransformation(_zero_moments, update)


def scale_by_admax(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m / (v + epsilon) with v the decayed maximum of |g|, without bias correction (spec 7.1; optims/xadam.py)."""

    def update(gradients: Any, moments: Moments, params: Any = None) -> tuple[Any, Moments]:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments.first, gradients)
        second = jax.tree.map(lambda v, g: jnp.maximum(beta2 * v, jnp.abs(g)), moments.second, gradients)
        return jax.tree.map(lambda m, v: m / (v + epsilon), first, second), Moments(first, second)

    return optax.GradientTransformation(_zero_moments, update)


def scale_by_radam_correction(beta1: float, beta2: float, total_steps: int) -> optax.GradientTransformation:
    """The original's RAdam factor on step and decay: 0 while the variance is intractable (spec 7.1; optims/xadam.py).

    The factor is a difference of large numbers, so it is tabulated in float64; its last value stays.
    """
    t = np.arange(1, total_steps + 1, dtype=np.float64)
    limit = 2 / (1 - beta2) - 1
    degrees = limit - 2 * t / np.expm1(-t * np.log(beta2))
    tractable = degrees > 4
    safe = np.where(tractable, degrees, 5)
    variance = (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)
    factor = np.sqrt((1 - beta2**t) * variance) / (1 - beta1**t)
    table = np.where(tractable, factor, 0).astype(np.float32)
    return optax.scale_by_schedule(lambda count: jnp.asarray(table)[jnp.minimum(count, total_steps - 1)])


class LookaheadState(NamedTuple):
    """The slow parameters, the number of updates made, and the state of the optimizer inside."""

    slow: Any
    made: Int[Array, ""]
    inner: Any


def lookahead(inner: optax.GradientTransformation, period: int, pull: float = 0.5) -> optax.GradientTransformation:
    """Each `period` updates slow = (1 - pull) slow + pull fast, and fast = slow (spec 7.1; Zhang et al. 2019)."""

    def init(params: Any) -> LookaheadState:
        return LookaheadState(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32), inner.init(params))

    def update(gradients: Any, state: LookaheadState, params: Any) -> tuple[Any, LookaheadState]:
        updates, inner_state = inner.update(gradients, state.inner, params)
        made = state.made + 1
        meet = made % period == 0
        fast = optax.apply_updates(params, updates)
        slow = jax.tree.map(lambda s, f: jnp.where(meet, s + pull * (f - s), s), state.slow, fast)
        updates = jax.tree.map(lambda u, s, p: jnp.where(meet, s - p, u), updates, slow, params)
        return updates, LookaheadState(slow, made, inner_state)

    return optax.GradientTransformation(init, update)


def _zero_moments(params: Any) -> Moments:
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return Moments(zeros(params), zeros(params))
