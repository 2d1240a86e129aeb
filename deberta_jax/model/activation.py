"""Activation functions, by their names in `config.json`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.errors import InputError, shorten


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU with erf: JAX's own uses erfc, which doubles the compile time for TPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * (1 / math.sqrt(2))))


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU approximated by a sigmoid (Hendrycks and Gimpel 2016)."""
    return x * jax.nn.sigmoid(1.702 * x)


def laplace(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The cumulative distribution of a normal distribution that approximates a squared ReLU (Ma et al. 2023)."""
    return 0.5 * (1 + jax.lax.erf((x - 0.707107) * (1 / (0.282095 * math.sqrt(2)))))


# The functions of transformers, under its names.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"), jax.nn.gelu),
    "gelu_10": lambda x: jnp.clip(gelu(x), -10, 10),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "hardswish": jax.nn.hard_swish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "laplace": laplace,
    "sqrtsoftplus": lambda x: jnp.sqrt(jax.nn.softplus(x)),
    "linear": lambda x: x,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of that name; raises InputError with the known names."""
    if name not in _ACTIVATIONS:
        raise InputError(f"config: unknown activation {shorten(repr(name))}, use one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
