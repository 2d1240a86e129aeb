"""Activations by the names that `config.json` uses."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.errors import InputError


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU by erf: the complementary form that JAX uses doubles the compile time for TPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * (1 / math.sqrt(2))))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The function of that name; an unknown name is refused with the known ones."""
    if name not in _ACTIVATIONS:
        raise InputError(f"config: activation {name!r} is not known: use one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
