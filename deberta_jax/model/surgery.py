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

    Args:
        model: a single model: `merge_lora(model)` of a `LoraModel`, `pair.detector()` or `pair.generator` of a pair.
        changes: fields of `DebertaConfig` and their values.

    Raises:
        InputError: unknown fields, invalid values, and a change that needs other parameters.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> dj.with_config(model, hidden_dropout_prob=0.1).config.hidden_dropout_prob
        0.1
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

    Args:
        model: a single model, as for `with_config`; for an ensemble, call the function inside `jax.vmap`.
        k: the number of layers. Layers that share their parameters stay one entry.

    Raises:
        InputError: fewer layers than `k`, k < 1, a part of a group of shared layers, or parameters that are not those
            of the config.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> dj.first_layers(model, 1).config.num_hidden_layers
        1
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
    """Encoder layer number `k` as a module with the parameters of that layer.

    To run it on states [B, T, D], call the encoder, which has the relative positions.

    Args:
        model: a single model with any head or none, as for `with_config`.
        k: the number of the layer, from 0.

    Raises:
        InputError: no such layer, or parameters that are not those of the config, such as those of an ensemble.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> dj.layer(model, 1).up.kernel.shape  # [D, F]
        (128, 512)
        >>> states = model(jnp.array([[1, 7, 8, 2]]), depth=1).last_hidden_state
        >>> model.encoder(states, start=1, depth=2).last_hidden_state.shape
        (1, 4, 128)
    """
    encoder = encoder_of(model).encoder
    if not 0 <= k < encoder.config.num_hidden_layers:
        raise InputError(f"layer: k is {k}, expected 0 to {encoder.config.num_hidden_layers - 1}")
    _check_shapes("layer", model)
    return encoder.layer(k)


def resized(model: AnyModel, vocab_size: int, *, key: PRNGKeyArray) -> AnyModel:
    """A copy of a model with another number of words: embeddings and the bias of a masked language model's head.

    New words have random embeddings with the standard deviation `initializer_range` of the config, and a bias of 0. If
    the vocabulary shrinks, the last words are removed.

    Args:
        model: a single model, as for `with_config`.
        vocab_size: the new V: embeddings [V, E] become [vocab_size, E], the bias [V] becomes [vocab_size].
        key: initializes the new embeddings.

    Raises:
        InputError: [PAD] would be removed, or parameters that are not those of the config.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> dj.resized(model, 8200, key=jax.random.key(1)).embeddings.word.embedding.shape
        (8200, 128)
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

    Args:
        model: a model, its gradients, or its shapes from `jax.eval_shape`.

    Returns:
        Arrays by path. Encoder layers are stacked: `deberta.encoder.layers.up.kernel` is [L, D, F].

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> dj.parameters(model)["encoder.layers.up.kernel"].shape
        (2, 128, 512)
    """
    return _leaves(model)


def label(model: object, function: Callable[[str], object]) -> Callable[[object], object]:
    """Labels for `optax.multi_transform`, or booleans for `optax.masked`: `function(path)` for each parameter.

    Args:
        model: a model.
        function: from a path of `parameters` to a label.

    Returns:
        A function that returns a tree like the model, because optax would call the tree itself: a model can be called.

    Example:
        >>> import jax, optax
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> groups = dj.label(model, lambda path: "slow" if path.startswith("embeddings") else "fast")
        >>> optimizer = optax.multi_transform({"slow": optax.adam(1e-5), "fast": optax.adam(1e-4)}, groups)
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
