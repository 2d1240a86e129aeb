"""Layers with fresh weights, and parameters that are frozen: no update, no optimizer state, no backward pass."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.finetuning.layers_config import LayersConfig
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.tree import replace_parts
from deberta_jax.training.objective import ArrayBatch, Objective, Sums
from deberta_jax.training.state import Build

_LAYERS = "encoder.layers."
# The relative embeddings belong to all layers, the convolution of v2 to the first one.
_EMBEDDINGS = "embeddings", "encoder.relative", "encoder.relative_norm"
_CONVOLUTION = "encoder.convolution"


def reinitialize_top(model: Any, build: Build, layers: int, key: PRNGKeyArray) -> Any:
    """The model with the weights of its last layers as `build` initializes them, and its other parameters."""
    fresh = build(key)
    count = _groups(encoder_of(model).config, layers)

    def replace(path: tuple[Any, ...], leaf: Any, new: Any) -> Any:
        if _LAYERS not in _name(path):
            return leaf
        return jnp.concatenate([leaf[:-count], new[-count:].astype(leaf.dtype)])

    return jax.tree_util.tree_map_with_path(replace, model, fresh)


def freeze_objective(objective: Objective, config: LayersConfig) -> Objective:
    """The objective without gradients for the frozen parameters; nothing is computed for them in the backward pass."""

    def frozen_objective(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
        prefix = "" if isinstance(model, Deberta) else "deberta."
        encoder = encoder_of(model)
        owners: dict[str, Any] = {"embeddings": encoder.embeddings, "encoder.relative": encoder.encoder.relative}
        owners |= {"encoder.relative_norm": encoder.encoder.relative_norm}
        if config.freeze_layers:
            owners[_CONVOLUTION] = encoder.encoder.convolution
        parts: dict[str, Any] = {prefix + name: jax.lax.stop_gradient(part) for name, part in owners.items()}
        parts[f"{prefix}encoder.frozen"] = config.freeze_layers
        return objective(replace_parts(model, parts), batch, key)

    return frozen_objective


def trained_parameters(model: Any, config: DebertaConfig, layers: LayersConfig) -> Any:
    """A tree of bool like the model, False for parameters that are frozen as a whole."""
    frozen = [*_EMBEDDINGS, *([_CONVOLUTION] if layers.freeze_layers else [])]
    if layers.freeze_layers == config.num_hidden_layers:
        frozen.append(_LAYERS.removesuffix("."))

    def is_trainable(path: tuple[Any, ...], _: Any) -> bool:
        name = _name(path).removeprefix("deberta.")
        return not any(name.startswith(f"{part}.") for part in frozen)

    return jax.tree_util.tree_map_with_path(is_trainable, model)


def frozen_groups(config: DebertaConfig, layers: LayersConfig) -> int:
    """The number of entries of the stacked layers that are frozen; 0 if `trained_parameters` excludes all of them."""
    groups = _groups(config, layers.freeze_layers)
    return 0 if groups == config.num_groups else groups


def of_upper_layers(inner: optax.GradientTransformation, frozen: int) -> optax.GradientTransformation:
    """An optimizer of all parameters except the first `frozen` of the stacked layers, for which it has no state."""

    def upper(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, x: x[frozen:] if _LAYERS in _name(path) else x, tree)

    def whole(path: tuple[Any, ...], update: Any) -> Any:
        if _LAYERS not in _name(path):
            return update
        return jnp.pad(update, [(frozen, 0), *[(0, 0)] * (update.ndim - 1)])

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(upper(gradients), state, None if params is None else upper(params))
        return jax.tree_util.tree_map_with_path(whole, updates), state

    return optax.GradientTransformation(lambda params: inner.init(upper(params)), update)


def _groups(config: DebertaConfig, layers: int) -> int:
    """The number of entries of the stacked layers that are this number of layers."""
    return layers * config.num_groups // config.num_hidden_layers


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
