"""AdamW with the original's exclusions from weight decay, and the original's optimizers by name.

The original's optimizers are described in docs/numerics.md, "Optimizers and schedules".
"""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from deberta_jax.errors import InputError
from deberta_jax.model.tree import named_leaves
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.schedules import SCHEDULES, Schedule, number_of_steps, wsd

# Part of the path of the stacked layers in a model, and of the adapters of a `LoraModel`.
_LAYERS = ".encoder.layers.", ".adapters."


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of an update as a function of the number of updates before it."""
    warmup = number_of_steps(config.warmup, total_steps)
    if warmup > total_steps:
        raise InputError(f"optimizer.warmup is {config.warmup:g} steps, but the run has only {total_steps}")
    scale: Schedule
    if config.schedule == "wsd":
        decay = number_of_steps(config.decay_steps, total_steps)
        if warmup + decay > total_steps:
            raise InputError(
                f"optimizer.warmup is {warmup:g} steps and optimizer.decay_steps {decay:g}, but the run has only "
                f"{total_steps}"
            )
        scale = functools.partial(wsd, decay=decay)
    else:
        scale = SCHEDULES[config.schedule]
    return lambda step: (
        config.learning_rate * scale(jnp.asarray(step, jnp.float32), total_steps, warmup, config.final_scale)
    )


def make_optimizer(
    config: OptimizerConfig, total_steps: int, no_decay: Collection[str] = ()
) -> optax.GradientTransformation:
    """Chain clipping by global norm, moments, decoupled weight decay and learning rate, all inside lookahead.

    `no_decay` lists dotted paths of parameters to exclude from weight decay, in addition to `is_decayed`'s exclusions.
    The state of the optimizer does not depend on `total_steps`.
    """
    moments = {
        "adamw": optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        "microsoft_adam": scale_by_microsoft_adam(config.beta1, config.beta2, config.epsilon),
        "radam": scale_by_microsoft_adam(config.beta1, config.beta2, config.epsilon),
        "admax": scale_by_admax(config.beta1, config.beta2, config.epsilon),
    }[config.name]
    radam = config.name == "radam"
    # Absent rather than the identity if disabled: the checkpointed state of such runs has no entry for it.
    layer_scaling = (scale_by_layer_decay(config.layer_decay),) if config.layer_decay < 1 else ()
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        moments,
        optax.add_decayed_weights(config.weight_decay, mask=functools.partial(is_decayed, no_decay=no_decay)),
        scale_by_radam_correction(config.beta1, config.beta2, total_steps) if radam else optax.identity(),
        *layer_scaling,
        optax.scale_by_learning_rate(learning_rate(config, total_steps)),
    )
    return lookahead(chain, config.lookahead) if config.lookahead else chain


def is_decayed(model: Any, no_decay: Collection[str] = ()) -> Any:
    """A tree like `model`, True where weight decay applies: not to biases, layer-norm scales or the paths `no_decay`.

    This follows Microsoft's regular expressions `bias` and `LayerNorm.weight`. Embeddings decay, including the
    relative ones (docs/numerics.md, "Optimizers and schedules").
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        last = name.rsplit(".")[-1]
        return not (last.endswith("bias") or last == "scale" or name in no_decay)

    return jax.tree_util.tree_map_with_path(decays, model)


def scale_by_layer(scales: Sequence[float], *, embeddings: float = 1.0) -> optax.GradientTransformation:
    """Multiply the updates of encoder layer l of L by `scales[l]`, and those of the embeddings by `embeddings`.

    The layers are stacked, so that no label can tell them apart; layers that share parameters count as one. The
    relative embeddings and their norm count as embeddings, the convolution of v2 as layer 0, the adapters of a
    `LoraModel` as their layers; a head is not scaled.

    Args:
        scales: a factor for each layer [L]; 0 freezes, if it is applied after weight decay.
        embeddings: the factor of the embeddings.

    Returns:
        A transformation of optax.

    Raises:
        InputError: in an update, if the number of scales is not that of the layers.

    Example:
        >>> import optax
        >>> import deberta_jax as dj
        >>> optimizer = optax.chain(optax.adamw(1e-4), dj.scale_by_layer([0.0, 0.5], embeddings=0.0))
    """
    return _scale_layers(lambda L: (np.asarray(scales, np.float64), embeddings))


def scale_by_layer_decay(decay: float) -> optax.GradientTransformation:
    """Layer-wise learning rates (Clark et al. 2020, appendix B).

    The update of layer l of L, counted from 1, is multiplied by decay^(L + 1 - l), the embeddings' by decay^(L + 1) and
    the head's by 1. Layers that share parameters count as one.
    """
    return _scale_layers(lambda L: (np.asarray(decay, np.float64) ** np.arange(L, 0, -1), decay ** (L + 1)))


def _scale_layers(scales_of: Callable[[int], tuple[np.ndarray, float]]) -> optax.GradientTransformation:
    """Scale updates by `scales_of(L)`: the scales of the L layers, and the scale of the embeddings."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        leaves = named_leaves(updates)
        depths = [leaf.shape[0] for name, leaf in leaves.items() if is_stacked(name)]
        if not depths:
            raise InputError("scale_by_layer: the model has no encoder layers")
        scales, embeddings = scales_of(depths[0])
        if scales.shape != (depths[0],):
            raise InputError(f"scale_by_layer: {scales.size} scales for {depths[0]} encoder layers")

        def scaled(name: str, leaf: Array) -> Array:
            dotted = f".{name}"
            if is_stacked(name):
                return leaf * jnp.asarray(scales, leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
            if ".encoder.convolution." in dotted:
                return leaf * jnp.asarray(scales[0], leaf.dtype)
            if dotted.startswith((".embeddings.", ".encoder.")) or ".deberta." in dotted:
                return leaf * jnp.asarray(embeddings, leaf.dtype)
            return leaf

        return jax.tree.unflatten(jax.tree.structure(updates), list(map(scaled, leaves, leaves.values()))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def is_stacked(name: str) -> bool:
    """Whether the first axis of the parameter with this path is that of the layers."""
    return any(part in f".{name}" for part in _LAYERS)


class Moments(NamedTuple):
    """Decayed averages of the gradient, and of its square or the maximum of its magnitude."""

    first: Any
    second: Any


def scale_by_microsoft_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + epsilon) without bias correction (Microsoft's optims/xadam.py)."""

    def update(gradients: Any, moments: Moments, params: Any = None) -> tuple[Any, Moments]:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments.first, gradients)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, moments.second, gradients)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second), Moments(first, second)

    return optax.GradientTransformation(_zero_moments, update)


def scale_by_admax(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m / (v + epsilon), v the decayed maximum of |g|, without bias correction (Microsoft's optims/xadam.py)."""

    def update(gradients: Any, moments: Moments, params: Any = None) -> tuple[Any, Moments]:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments.first, gradients)
        second = jax.tree.map(lambda v, g: jnp.maximum(beta2 * v, jnp.abs(g)), moments.second, gradients)
        return jax.tree.map(lambda m, v: m / (v + epsilon), first, second), Moments(first, second)

    return optax.GradientTransformation(_zero_moments, update)


def scale_by_radam_correction(beta1: float, beta2: float, total_steps: int) -> optax.GradientTransformation:
    """The original's RAdam factor on update and weight decay: 0 while the variance is intractable (optims/xadam.py).

    The factor is a difference of large numbers, so it is tabulated in float64 for `total_steps` updates; later updates
    use the last entry.
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
    """The slow weights, the number of updates, and the state of the inner optimizer."""

    slow: Any
    num_updates: Int[Array, ""]
    inner: Any


def lookahead(inner: optax.GradientTransformation, period: int, pull: float = 0.5) -> optax.GradientTransformation:
    """Every `period` updates: slow = (1 - pull) slow + pull fast, then fast = slow (Zhang et al. 2019)."""

    def init(params: Any) -> LookaheadState:
        return LookaheadState(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32), inner.init(params))

    def update(gradients: Any, state: LookaheadState, params: Any) -> tuple[Any, LookaheadState]:
        updates, inner_state = inner.update(gradients, state.inner, params)
        num_updates = state.num_updates + 1
        synchronize = num_updates % period == 0
        fast = optax.apply_updates(params, updates)
        slow = jax.tree.map(lambda s, f: jnp.where(synchronize, s + pull * (f - s), s), state.slow, fast)
        updates = jax.tree.map(lambda u, s, p: jnp.where(synchronize, s - p, u), updates, slow, params)
        return updates, LookaheadState(slow, num_updates, inner_state)

    return optax.GradientTransformation(init, update)


def _zero_moments(params: Any) -> Moments:
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return Moments(zeros(params), zeros(params))
