"""Copies of a model with another config, fewer layers or another vocabulary, and its parameters by name."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.encoder import Layer
from deberta_jax.model.heads import TokenClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.module import HeadModel
from deberta_jax.model.tree import named_leaves

AnyModel = TypeVar("AnyModel", bound=Deberta | HeadModel)
# The field of the config that is the size of an axis, for parameters whose path contains a text.
_SIZES = (
    ("encoder.layers.", 0, "num_hidden_layers"),
    ("embeddings.word.", 0, "vocab_size"),
    ("head.bias", 0, "vocab_size"),
    ("embeddings.position.", 0, "max_position_embeddings"),
    ("decoder.position.", 0, "max_position_embeddings"),
    ("embeddings.token_type.", 0, "type_vocab_size"),
)


def with_config(model: AnyModel, **changes: Any) -> AnyModel:
    """A copy of a model with changes to its config in every module; parameters are shared with the original.

    `with_config(model, hidden_dropout_prob=0.0)`. Raises InputError for a change that needs other parameters.
    """
    config = dataclasses.replace(model.config, **changes)
    abstract = _abstract(model, config)
    if problems := list(_differences(model, abstract, config)):
        raise InputError(
            f"with_config: {problems[0]}; first_layers and resized change the number of layers and words, other sizes "
            "need a new model"
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(model))


def first_layers(model: AnyModel, k: int) -> AnyModel:
    """A copy of a model with only its first `k` encoder layers. Raises InputError if the model has fewer, or k < 1."""
    L = model.config.num_hidden_layers
    if not 1 <= k <= L:
        raise InputError(f"first_layers: k is {k}, expected 1 to {L}, the number of layers of the model")
    return _changed(model, lambda name, leaf: leaf[:k] if "encoder.layers." in name else leaf, num_hidden_layers=k)


def layer(model: Deberta | HeadModel, k: int) -> Layer:
    """Encoder layer number `k`, from 0, as a module of its own. Raises InputError if the model has no such layer."""
    encoder = encoder_of(model).encoder
    if not 0 <= k < encoder.config.num_hidden_layers:
        raise InputError(f"layer: k is {k}, expected 0 to {encoder.config.num_hidden_layers - 1}")
    return jax.tree.map(lambda parameter: parameter[k], encoder.layers)


def resized(model: AnyModel, vocab_size: int, *, key: PRNGKeyArray) -> AnyModel:
    """A copy of a model with another number of words: embeddings and the bias of a masked language model's head.

    New words have random embeddings with the standard deviation `initializer_range` of the config, and a bias of 0. If
    the vocabulary shrinks, the last words are removed. Raises InputError if [PAD] would be removed.
    """
    stddev = model.config.initializer_range

    def resize(name: str, leaf: Array) -> Array:
        if not name.endswith(("embeddings.word.embedding", "head.bias")):
            return leaf
        new = jnp.zeros((max(vocab_size - leaf.shape[0], 0), *leaf.shape[1:]), leaf.dtype)
        if leaf.ndim > 1:
            new = stddev * jax.random.normal(key, new.shape, leaf.dtype)
        return jnp.concatenate([leaf[:vocab_size], new])

    return _changed(model, resize, vocab_size=vocab_size)


def parameters(model: Any) -> dict[str, Array]:
    """The parameters of a model, or of its gradients, by their dotted paths, in the order of `jax.tree.leaves`.

    Encoder layers are stacked: `deberta.encoder.layers.up.kernel` is [L, D, F].
    """
    return _leaves(model)


def label(model: Any, function: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Labels for `optax.multi_transform`, or booleans for `optax.masked`: `function(path)` for each parameter.

    Paths are those of `parameters`. The result is a function that returns a tree like the model, because optax would
    call the tree itself: a model can be called.
    """
    labels = jax.tree.unflatten(jax.tree.structure(model), [function(name) for name in _leaves(model)])
    return lambda _: labels


def check_parameters(model: Deberta | HeadModel) -> None:
    """Raise InputError that lists where the parameters of a model are not those that its config describes."""
    config = model.config
    if problems := list(_differences(model, _abstract(model, config), config)):
        raise InputError(f"{type(model).__name__}: " + "; ".join(problems))


def _leaves(tree: Any) -> dict[str, Any]:
    """Parameters, or their shapes, by dotted paths."""
    return {name.removesuffix(".value"): leaf for name, leaf in named_leaves(tree).items()}


def _abstract(model: AnyModel, config: DebertaConfig) -> AnyModel:
    """A model with the class and options of `model` and another config, with shapes in place of arrays."""
    encoder = encoder_of(model)
    options: dict[str, Any] = {
        "dtype": encoder.embeddings.dtype,
        "remat": encoder.encoder.remat,
        "precision": encoder.precision,
        "attention": encoder.encoder.layers.attention.attention,
    }
    if isinstance(model, MaskedLM):
        options["enhanced_mask_decoder"] = model.decoder is not None
    if isinstance(model, TokenClassification):
        options["projected"] = model.projection is not None
    kind: Any = type(model)
    return jax.eval_shape(lambda key: kind(config, key=key, **options), jax.random.key(0))


def _changed(model: AnyModel, change: Callable[[str, Array], Array], **changes: Any) -> AnyModel:
    """A copy with changed parameters and the config that describes them."""
    config = dataclasses.replace(model.config, **changes)
    leaves = [change(name, leaf) for name, leaf in _leaves(model).items()]
    return jax.tree.unflatten(jax.tree.structure(_abstract(model, config)), leaves)


def _differences(model: Deberta | HeadModel, abstract: Deberta | HeadModel, config: DebertaConfig) -> Iterator[str]:
    """Each difference between the parameters of a model and those of its config, the sizes of the config first."""
    actual, expected = _leaves(model), _leaves(abstract)
    sizes = {
        f"config says {field} {getattr(config, field)}, the model has {actual[name].shape[axis]}": None
        for text, axis, field in _SIZES
        for name in actual.keys() & expected.keys()
        if text in name and actual[name].shape[axis] != getattr(config, field)
    }
    yield from sizes
    if sizes:
        return
    for name in [name for name in expected if name not in actual]:
        yield f"{name} is missing, the config describes it"
    for name in [name for name in actual if name not in expected]:
        yield f"{name} is not described by the config"
    for name in [name for name in expected if name in actual]:
        if actual[name].shape != expected[name].shape:
            yield f"{name} has shape {actual[name].shape}, the config describes {expected[name].shape}"
