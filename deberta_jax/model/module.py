"""The base classes of modules and models: a config that is fixed, and a short representation."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike

from deberta_jax.config import AttentionName, DebertaConfig, Precision, Remat
from deberta_jax.errors import InputError
from deberta_jax.ops.attention import IMPLEMENTATIONS

if TYPE_CHECKING:
    from deberta_jax.model.deberta import Deberta

Function = TypeVar("Function", bound=Callable[..., Any])
_FIXED = "config is fixed when a model is built; with_config(model, ...) returns a changed model"


class ModelOptions(TypedDict, total=False):
    """The options of the constructors of all models; `Deberta` describes them."""

    dtype: DTypeLike | None
    param_dtype: DTypeLike | None
    remat: Remat
    precision: Precision
    attention: Callable[..., tuple[jax.Array, jax.Array]] | AttentionName


class Configured(nnx.Module):
    """A module with the config that it was built from.

    Assigning another config raises AttributeError: parameters and constants of other modules follow from it too.
    """

    config: DebertaConfig

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "config" and "config" in vars(self):
            raise AttributeError(_FIXED)
        super().__setattr__(name, value)

    def __nnx_repr__(self) -> Any:
        # Every module of a model has the same config.
        for item in super().__nnx_repr__():
            if getattr(item, "key", None) != "config":
                yield item


class Model(nnx.Module):
    """A model that people load, train and save; its representation is one line.

    `parts` names the models with a config that a combined model consists of, for messages.
    """

    parts: ClassVar[str] = ""

    def __repr__(self) -> str:
        return _summary(self)

    def __str__(self) -> str:
        return repr(self)

    def __treescope_repr__(self, path: Any, subtree_renderer: Any) -> Any:
        import treescope

        return treescope.rendering_parts.text(repr(self))


class HeadModel(Model):
    """An encoder, `deberta`, with a head."""

    deberta: "Deberta"

    @property
    def precision(self) -> Precision:
        """The precision of float32 matrix products."""
        return self.deberta.precision

    @property
    def config(self) -> DebertaConfig:
        """The config of the encoder; assigning another one raises AttributeError."""
        return self.deberta.config

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "config":
            raise AttributeError(_FIXED)
        super().__setattr__(name, value)


def _summary(model: Any) -> str:
    """One line: class, version, sizes, and the number and dtype of the parameters."""
    config, leaves = model.config, jax.tree.leaves(model)
    dtypes = sorted({str(leaf.dtype) for leaf in leaves if hasattr(leaf, "dtype")})
    parameters = sum(leaf.size for leaf in leaves if hasattr(leaf, "size"))
    return (
        f"{type(model).__name__}({config.model_type}, {config.num_hidden_layers} layers, hidden size "
        f"{config.hidden_size}, vocabulary {config.vocab_size:,}, {parameters:,} parameters of {' and '.join(dtypes)})"
    )


def in_precision(function: Function) -> Function:
    """A function whose float32 matrix products have the precision of its first argument, a module with `precision`.

    With "float32", that is `ops.precision.product_precision`, which JAX's setting overrides.
    """

    @functools.wraps(function)
    def call(module: Any, *arguments: Any, **options: Any) -> Any:
        if module.precision == "float32":
            return function(module, *arguments, **options)
        # JAX includes this setting in the keys of its caches: models of different precision share no program.
        with jax.default_matmul_precision("tensorfloat32"):
            return function(module, *arguments, **options)

    return call  # type: ignore[return-value]


def check_precision(precision: str) -> None:
    """Raise InputError for a precision that does not exist."""
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}; expected {' or '.join(get_args(Precision))}")


def check_attention(attention: object) -> None:
    """Raise InputError for an attention that is neither a function nor a name of an implementation."""
    names = ("auto", *IMPLEMENTATIONS)
    if not callable(attention) and attention not in names:
        raise InputError(f"attention is {attention!r}; expected {', '.join(names)}, or a function")


def cast_parameters(module: nnx.Module, dtype: DTypeLike | None) -> None:
    """Convert the parameters of a new module in place; None leaves them as they are.

    Raises InputError for a dtype of other than floating-point numbers.
    """
    if dtype is None:
        return
    check_floating("param_dtype", dtype)
    for variable in jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, nnx.Variable)):
        variable.set_value(jnp.asarray(variable.get_value(), dtype))


def check_floating(name: str, dtype: DTypeLike) -> None:
    """Raise InputError if the argument `name` is not a dtype of floating-point numbers."""
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise InputError(f"{name} is {dtype!r}; expected a floating-point type such as float32 or bfloat16")
