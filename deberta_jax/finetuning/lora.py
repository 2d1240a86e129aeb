"""Low-rank adapters: the encoder is frozen, and small matrices beside its kernels are trained (Hu et al. 2021)."""

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.config import Precision
from deberta_jax.errors import InputError, list_names
from deberta_jax.finetuning.config import LoraConfig, Targets
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.linear import Linear
from deberta_jax.model.module import Model, in_precision
from deberta_jax.model.outputs import ModelOutput
from deberta_jax.model.tree import replace_parts
from deberta_jax.ops.precision import einsum
from deberta_jax.sharding import on_explicit_meshes
from deberta_jax.training.objective import AnyModule, ArrayBatch, Objective, Sums

# The paths of the adapted projections in a layer.
_ATTENTION = "attention.query", "attention.key", "attention.value"
_TARGETS: dict[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "attention.output", "up", "down"),
}


Base = TypeVar("Base", covariant=True, bound=nnx.Module)


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
        product = einsum("LIK,LKO->LIO", down.reshape(L, -1, rank), up.reshape(L, rank, -1))
        return product.reshape(*down.shape[:-1], *up.shape[2:])


class LoraModel(Model, Generic[Base]):
    """A model with low-rank adapters beside its kernels; it is called like the model (Hu et al. 2021).

    Its result is that of the merged model. Adapters change nothing before the first update.

    Args:
        base: a single model with any head or none.
        config: rank and scale of the adapters.
        targets: the adapted projections of a layer, such as "attention.query" or "up"; by default those that
            `config.targets` names.
        key: initializes the adapters.

    Attributes:
        base, targets: as given.
        adapters: one adapter for each target.
        scale: the factor alpha / rank of the adapters.

    Raises:
        InputError: unknown targets, rank 0, and a base that has adapters or is a pair.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> base = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model = dj.LoraModel(base, dj.LoraConfig(rank=8), key=jax.random.key(1))
        >>> model(jnp.array([[1, 7, 8, 2]])).shape
        (1, 2)
    """

    parts = "merge_lora(model)"

    def __init__(self, base: Base, config: LoraConfig, *, targets: Sequence[str] | None = None, key: PRNGKeyArray):
        if isinstance(targets, str):
            raise InputError(f"targets is {targets!r}, expected a list such as [{targets!r}]")
        self.targets = _TARGETS[config.targets] if targets is None else tuple(targets)
        _check(base, config, self.targets)
        keys = jax.random.split(key, len(self.targets))
        self.scale = config.alpha / config.rank
        self.base = base
        self.adapters = nnx.List(
            [Adapter(_projection(base, name), config.rank, key=k) for name, k in zip(self.targets, keys, strict=True)]
        )

    @property
    def precision(self) -> Precision:
        """The precision of float32 matrix products."""
        return encoder_of(self.base).precision

    def __repr__(self) -> str:
        rank = self.adapters[0].up.shape[1]
        return f"LoraModel(rank {rank}, targets {', '.join(self.targets)}, {self.base})"

    @on_explicit_meshes
    def __call__(self, *arguments: object, **options: object) -> ModelOutput:
        """The result of the base model with the adapters merged; arguments and errors are those of the base model."""
        return merge_lora(self)(*arguments, **options)


@in_precision
def merge_lora(model: LoraModel[AnyModule]) -> AnyModule:
    """The base model with the adapters added to its kernels: W + alpha / rank * A B (Hu et al. 2021, equation 3).

    Args:
        model: a model with adapters.

    Returns:
        A model of the class of the base, for `save_pretrained`.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> base = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model = dj.LoraModel(base, dj.LoraConfig(rank=8), key=jax.random.key(1))
        >>> type(dj.merge_lora(model)).__name__
        'SequenceClassification'
    """
    kernels, prefix = {}, "" if isinstance(model.base, Deberta) else "deberta."
    for name, adapter in zip(model.targets, model.adapters, strict=True):
        kernel, update = _projection(model.base, name).kernel, model.scale * adapter.product()
        merged = jax.tree.map(lambda w, update=update: w + update.astype(w.dtype), kernel)
        kernels[f"{prefix}encoder.layers.{name}.kernel"] = merged
    return replace_parts(model.base, kernels)


def lora_objective(objective: Objective[AnyModule]) -> Objective[LoraModel[AnyModule]]:
    """The objective of a `LoraModel`, from the objective of its base model; the gradient of the encoder is 0.

    An optimizer with weight decay still changes parameters whose gradient is 0: exclude the encoder, as below.

    Args:
        objective: `(model, batch, key) -> Sums` for the base model.

    Example:
        >>> import jax, optax
        >>> import deberta_jax as dj
        >>> base = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model = dj.LoraModel(base, dj.LoraConfig(rank=8), key=jax.random.key(1))
        >>> objective = dj.lora_objective(dj.plain_objective(dj.classification_objective()))
        >>> trained = dj.label(model, lambda path: not path.startswith("base.deberta."))
        >>> optimizer = optax.masked(optax.adamw(1e-3), trained)
    """

    def merged_objective(model: LoraModel[AnyModule], batch: ArrayBatch, key: PRNGKeyArray | None) -> Sums:
        frozen = replace_parts(model, {_frozen_path(model): jax.lax.stop_gradient(encoder_of(model.base))})
        return objective(merge_lora(frozen), batch, key)

    return merged_objective


def trainable(model: LoraModel) -> Any:
    """A tree of bool like the model: True for the parameters of adapters and head."""

    def is_trainable(path: tuple[Any, ...], _: Any) -> bool:
        return not jax.tree_util.keystr(path, simple=True, separator=".").startswith(f"{_frozen_path(model)}.")

    return jax.tree_util.tree_map_with_path(is_trainable, model)


def _check(base: Any, config: LoraConfig, targets: Sequence[str]) -> None:
    if config.rank < 1:
        raise InputError(f"lora.rank is {config.rank}; a model with adapters needs at least 1")
    known = _projection_paths(_layers(base))
    if unknown := [name for name in targets if name not in known]:
        raise InputError(f"targets: unknown {list_names(unknown)}; a layer of this model has {', '.join(known)}")
    if len(set(targets)) < len(targets) or not targets:
        raise InputError(f"targets: expected distinct projections, not {list_names(targets) or 'none'}")


def _frozen_path(model: LoraModel) -> str:
    return "base" if isinstance(model.base, Deberta) else "base.deberta"


def _layers(base: Any) -> nnx.Module:
    return encoder_of(base).encoder.layers


def _projection_paths(module: nnx.Module, prefix: str = "") -> list[str]:
    """The dotted paths of all projections in a layer."""
    paths = []
    for name, part in vars(module).items():
        if isinstance(part, Linear):
            paths.append(f"{prefix}{name}")
        elif isinstance(part, nnx.Module):
            paths += _projection_paths(part, f"{prefix}{name}.")
    return paths


def _projection(model: Any, name: str) -> Linear:
    module = _layers(model)
    for part in name.split("."):
        module = getattr(module, part)
    assert isinstance(module, Linear)
    return module
