"""Low-rank adapters: an encoder that holds still, and small matrices that are trained in its place (Hu et al. 2021)."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.model.linear import Linear
from deberta_jax.training.objective import ArrayBatch as Batch
from deberta_jax.training.objective import Objective, Sums

Targets = Literal["attention", "all"]
# The kernels of a layer by the dotted path of their projection.
_ATTENTION = "attention.query", "attention.key", "attention.value"
_TARGETS: dict[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "attention.output", "up", "down"),
}


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a rank, 0: none, the whole model is trained.

    The product of an adapter's matrices counts `alpha` / `rank` times. `targets`: the kernels of queries, keys and
    values ("attention"), or of every product of a layer ("all"). The head is trained as a whole.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: Targets = "attention"

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise InputError(
                f"lora.rank is {self.rank}, lora.alpha {self.alpha:g}; both must be positive, rank 0 is off"
            )


class Adapter(nnx.Module):
    """The two matrices beside the stacked kernels of a projection: normal, and zero."""

    def __init__(self, projection: Linear, rank: int, *, key: PRNGKeyArray):
        # The axis of layers has no name.
        axes, shape, inputs = projection.kernel.get_metadata()["axes"], projection.kernel.shape, projection.inputs
        L, into, out = shape[0], shape[1 : 1 + inputs], shape[1 + inputs :]
        stddev = 1 / math.sqrt(math.prod(into))
        self.down = nnx.Param(stddev * jax.random.normal(key, (L, *into, rank)), axes=(*axes[:inputs], None))
        self.up = nnx.Param(jnp.zeros((L, rank, *out)), axes=(None, *axes[inputs:]))

    def product(self) -> Float[Array, "..."]:
        """What is added to the kernels, before it is scaled."""
        down, up = self.down[...], self.up[...]
        L, rank = up.shape[:2]
        return jnp.matmul(down.reshape(L, -1, rank), up.reshape(L, rank, -1)).reshape(*down.shape[:-1], *up.shape[2:])


class Adapted(nnx.Module):
    """A model with a head, and adapters of its encoder's kernels in the order of the config's targets."""

    def __init__(self, base: Any, config: LoraConfig, *, key: PRNGKeyArray):
        names = _TARGETS[config.targets]
        keys = jax.random.split(key, len(names))
        self.scale = config.alpha / config.rank
        self.targets = names
        self.base = base
        self.adapters = nnx.List(
            [Adapter(_projection(base, name), config.rank, key=one) for name, one in zip(names, keys, strict=True)]
        )


def merged(adapted: Adapted) -> Any:
    """A model of the base's own kind whose kernels have the adapters in them; it can stand alone."""
    model = jax.tree.map(lambda leaf: leaf, adapted.base)
    for name, adapter in zip(adapted.targets, adapted.adapters, strict=True):
        projection = _projection(model, name)
        kernel = projection.kernel
        added = adapted.scale * adapter.product()
        projection.kernel = jax.tree.map(lambda w, added=added: w + added.astype(w.dtype), kernel)
    return model


def adapted_objective(objective: Objective) -> Objective:
    """The objective of a model with adapters: no gradient reaches the encoder that they are beside."""

    def held_still(adapted: Adapted, batch: Batch, key: PRNGKeyArray | None) -> Sums:
        still = jax.tree.map(lambda leaf: leaf, adapted)
        still.base.deberta = jax.lax.stop_gradient(still.base.deberta)
        return objective(merged(still), batch, key)

    return held_still


def trainable(adapted: Any) -> Any:
    """True for each leaf that is trained: adapters and head."""

    def is_trained(path: tuple[Any, ...], _: Any) -> bool:
        return not jax.tree_util.keystr(path, simple=True, separator=".").startswith("base.deberta.")

    return jax.tree_util.tree_map_with_path(is_trained, adapted)


def _projection(model: Any, name: str) -> Linear:
    layer = model.deberta.encoder.layers
    for part in name.split("."):
        layer = getattr(layer, part)
    return layer
