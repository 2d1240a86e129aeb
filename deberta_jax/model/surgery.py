"""Copies of a model with another config, fewer layers or another vocabulary, and its parameters by name."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.encoder import Layer
from deberta_jax.model.heads import TokenClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.module import HeadModel
from deberta_jax.model.sentence import SentenceEncoder
from deberta_jax.model.tree import named_leaves

AnyModel = TypeVar("AnyModel", bound=Deberta | HeadModel)
# The field of the config that is the size of an axis, for parameters whose path contains a text.
_SIZES = (
    ("encoder.layers.", 0, "num_groups"),
    ("embeddings.word.", 0, "vocab_size"),
    ("head.bias", 0, "vocab_size"),
    ("embeddings.position.", 0, "max_position_embeddings"),
    ("decoder.position.", 0, "max_position_embeddings"),
    ("embeddings.token_type.", 0, "type_vocab_size"),
)
# The end of messages about parameters of other shapes.
_ENSEMBLE = "; for an ensemble of models, call the function inside jax.vmap"


def with_config(model: AnyModel, **changes: object) -> AnyModel:
    """A copy of a model with changes to its config in every module; parameters are shared with the original.

    `with_config(model, hidden_dropout_prob=0.0)`. Raises InputError for unknown fields, for invalid values, and for a
    change that needs other parameters.
    """
    config = encoder_of(model).config
    if unknown := [name for name in changes if name not in {field.name for field in dataclasses.fields(config)}]:
        raise InputError(f"with_config: DebertaConfig has no field {list_names(unknown)}")
    fields: dict[str, Any] = changes
    config = dataclasses.replace(config, **fields)
    abstract = _abstract(model, config)
    if problems := list(_differences(model, abstract, config)):
        raise InputError(
            f"with_config: {problems[0]}; first_layers and resized change the number of layers and words, other sizes "
            f"need a new model{_ENSEMBLE}"
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(model))


def first_layers(model: AnyModel, k: int) -> AnyModel:
    """A copy of a model with only its first `k` encoder layers: parameters [L, ...] become [k, ...].

    Layers that share their parameters stay one entry. Raises InputError if the model has fewer layers, or k < 1, for a
    part of a group of several, and for a model whose parameters are not those of its config, such as an ensemble.
    """
    config = encoder_of(model).config
    L, G = config.num_hidden_layers, config.num_groups
    if not 1 <= k <= L:
        raise InputError(f"first_layers: k is {k}, expected 1 to {L}, the number of layers of the model")
    size = L // G
    if G > 1 and k % size:
        raise InputError(f"first_layers: k is {k}, expected a multiple of {size}, the layers that share parameters")
    groups = -(-k // size)

    def shorten(name: str, leaf: Array) -> Array:
        if name.endswith("pooler.layer_scores"):
            return leaf[:k]
        return leaf[:groups] if "encoder.layers." in name else leaf

    return _changed("first_layers", model, shorten, num_hidden_layers=k, num_hidden_groups=groups)


def layer(model: Deberta | HeadModel, k: int) -> Layer:
    """Encoder layer number `k`, from 0, as a module with the parameters of that layer.

    To run a layer, call the encoder, which has the relative positions: `encoder(x, attention_mask, start=k, depth=k +
    1)`, where `encoder` is the attribute of a `Deberta`. Raises InputError if the model has no such layer, and for a
    model whose parameters are not those of its config, such as an ensemble.
    """
    encoder = encoder_of(model).encoder
    if not 0 <= k < encoder.config.num_hidden_layers:
        raise InputError(f"layer: k is {k}, expected 0 to {encoder.config.num_hidden_layers - 1}")
    _check_shapes("layer", model)
    return encoder.layer(k)


def resized(model: AnyModel, vocab_size: int, *, key: PRNGKeyArray) -> AnyModel:
    """A copy of a model with another number of words: embeddings and the bias of a masked language model's head.

    Embeddings [V, E] become [vocab_size, E], the bias [V] becomes [vocab_size]. New words have random embeddings with
    the standard deviation `initializer_range` of the config, and a bias of 0. If the vocabulary shrinks, the last words
    are removed. Raises InputError if [PAD] would be removed, and for a model whose parameters are not those of its
    config, such as an ensemble.
    """
    stddev = encoder_of(model).config.initializer_range

    def resize(name: str, leaf: Array) -> Array:
        if not name.endswith(("embeddings.word.embedding", "head.bias", "head.decoder.embedding")):
            return leaf
        new = jnp.zeros((max(vocab_size - leaf.shape[0], 0), *leaf.shape[1:]), leaf.dtype)
        if leaf.ndim > 1:
            new = stddev * jax.random.normal(key, new.shape, leaf.dtype)
        return jnp.concatenate([leaf[:vocab_size], new])

    return _changed("resized", model, resize, vocab_size=vocab_size)


def parameters(model: object) -> dict[str, Array]:
    """The parameters of a model, or of its gradients, by their dotted paths, in the order of `jax.tree.leaves`.

    Encoder layers are stacked: `deberta.encoder.layers.up.kernel` is [L, D, F].
    """
    return _leaves(model)


def label(model: object, function: Callable[[str], object]) -> Callable[[object], object]:
    """Labels for `optax.multi_transform`, or booleans for `optax.masked`: `function(path)` for each parameter.

    Paths are those of `parameters`. The result is a function that returns a tree like the model, because optax would
    call the tree itself: a model can be called.
    """
    labels = jax.tree.unflatten(jax.tree.structure(model), [function(name) for name in _leaves(model)])
    return lambda _: labels


def check_parameters(model: Deberta | HeadModel) -> None:
    """Raise InputError that lists where the parameters of a model are not those that its config describes.

    Parameters of any floating-point type are accepted.
    """
    config = encoder_of(model).config
    problems = list(_differences(model, _abstract(model, config), config))
    problems += [
        f"{name} has dtype {leaf.dtype}, expected a floating-point type"
        for name, leaf in _leaves(model).items()
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if problems:
        raise InputError(f"{type(model).__name__}: " + list_names(problems, "; "))


def _check_shapes(function: str, model: Deberta | HeadModel) -> None:
    """Raise InputError if the parameters of a model do not have the shapes that its config describes."""
    config = encoder_of(model).config
    if problems := list(_differences(model, _abstract(model, config), config)):
        raise InputError(f"{function}: {problems[0]}{_ENSEMBLE}")


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
        options |= {"enhanced_mask_decoder": model.decoder is not None, "untied": model.head.decoder is not None}
    if isinstance(model, TokenClassification):
        options["projected"] = model.projection is not None
    if isinstance(model, SentenceEncoder):
        options["sentence"] = model.sentence
    kind: Any = type(model)
    return jax.eval_shape(lambda key: kind(config, key=key, **options), jax.random.key(0))


def _changed(function: str, model: AnyModel, change: Callable[[str, Array], Array], **changes: Any) -> AnyModel:
    """A copy with changed parameters and the config that describes them."""
    _check_shapes(function, model)
    config = dataclasses.replace(model.config, **changes)
    leaves = [change(name, leaf) for name, leaf in _leaves(model).items()]
    return jax.tree.unflatten(jax.tree.structure(_abstract(model, config)), leaves)


def _differences(model: Deberta | HeadModel, abstract: Deberta | HeadModel, config: DebertaConfig) -> Iterator[str]:
    """Each difference between the parameters of a model and those of its config, the sizes of the config first."""
    actual, expected = _leaves(model), _leaves(abstract)
    is_shared = config.num_hidden_groups or encoder_of(model).config.num_hidden_groups
    layers = "num_hidden_groups" if is_shared else "num_hidden_layers"
    sizes = {
        f"config says {layers if field == 'num_groups' else field} {getattr(config, field)}, the model has "
        f"{actual[name].shape[axis]}": None
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
