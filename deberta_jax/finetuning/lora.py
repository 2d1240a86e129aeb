"""Low-rank adapters: the encoder is frozen, and small matrices beside its kernels are trained (Hu et al. 2021)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning.config import LoraConfig, Targets
from deberta_jax.model.linear import Linear
from deberta_jax.model.tree import replace_parts
from deberta_jax.training.objective import ArrayBatch, Objective, Sums

# The paths of the adapted projections in a layer.
_ATTENTION = "attention.query", "attention.key", "attention.value"
_TARGETS: dict[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "attention.output", "up", "down"),
}


class Adapter(nnx.Module):
    """Two matrices beside the stacked kernels of a projection; `up` is initialized with zeros."""

    def __init__(self, projection: Linear, rank: int, *, key: PRNGKeyArray):
        # The layer axis has no logical name.
        axes, shape, inputs = projection.kernel.get_metadata()["axes"], projection.kernel.shape, projection.inputs
        L, in_shape, out_shape = shape[0], shape[1 : 1 + inputs], shape[1 + inputs :]
        stddev = 1 / math.sqrt(math.prod(in_shape))
        self.down = nnx.Param(stddev * jax.random.normal(key, (L, *in_shape, rank)), axes=(*axes[:inputs], None))
        self.up = nnx.Param(jnp.zeros((L, rank, *out_shape)), axes=(None, *axes[inputs:]))

    def product(self) -> Float[Array, "..."]:
        """The product of the matrices, in the shape of the kernels."""
        down, up = self.down[...], self.up[...]
        L, rank = up.shape[:2]
        return jnp.matmul(down.reshape(L, -1, rank), up.reshape(L, rank, -1)).reshape(*down.shape[:-1], *up.shape[2:])


class LoraModel(nnx.Module):
    """A model with a head, and one adapter per target, in the order of `targets`."""

    def __init__(self, base: Any, config: LoraConfig, *, key: PRNGKeyArray):
        targets = _TARGETS[config.targets]
        keys = jax.random.split(key, len(targets))
        self.scale = config.alpha / config.rank
        self.targets = targets
        self.base = base
        self.adapters = nnx.List(
            [Adapter(_projection(base, name), config.rank, key=k) for name, k in zip(targets, keys, strict=True)]
        )


def merge(model: LoraModel) -> Any:
    """The base model with the adapters added to its kernels."""
    kernels = {}
    for name, adapter in zip(model.targets, model.adapters, strict=True):
        kernel, update = _projection(model.base, name).kernel, model.scale * adapter.product()
        merged = jax.tree.map(lambda w, update=update: w + update.astype(w.dtype), kernel)
        kernels[f"deberta.encoder.layers.{name}.kernel"] = merged
    return replace_parts(model.base, kernels)


def lora_objective(objective: Objective) -> Objective:
    """The objective of a model with adapters; the encoder has no gradient."""

    def merged_objective(model: LoraModel, batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
        frozen = replace_parts(model, {"base.deberta": jax.lax.stop_gradient(model.base.deberta)})
        return objective(merge(frozen), batch, key)

    return merged_objective


def trainable(model: Any) -> Any:
    """A tree of bool like the model: True for the parameters of adapters and head."""

    def is_trainable(path: tuple[Any, ...], _: Any) -> bool:
        return not jax.tree_util.keystr(path, simple=True, separator=".").startswith("base.deberta.")

    return jax.tree_util.tree_map_with_path(is_trainable, model)


def _projection(model: Any, name: str) -> Linear:
    module = model.deberta.encoder.layers
    for part in name.split("."):
        module = getattr(module, part)
    return module
