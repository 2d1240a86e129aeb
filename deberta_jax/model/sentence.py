"""A sentence encoder: an encoder whose states are pooled, mapped by dense layers and normalized, as
sentence-transformers does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Pooling
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.inputs import Mask, as_token_mask
from deberta_jax.model.linear import Linear
from deberta_jax.model.module import ModelOptions, cast_parameters, in_precision
from deberta_jax.model.tree import replace_parts
from deberta_jax.ops.pooling import pool
from deberta_jax.ops.precision import upcast


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """A dense layer of a sentence encoder: its sizes, and the name of its activation ("linear" for none)."""

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "tanh"


@dataclasses.dataclass(frozen=True)
class SentenceConfig:
    """What follows the encoder, and how texts are prepared.

    The vectors of several `pooling` are concatenated; `layers` come after them. `prompts` are pairs of a name and a
    text that precedes each input; `default_prompt` is the name of the one that is used by default. Without
    `include_prompt`, the tokens of the prompt are not pooled. Texts have at most `max_length` tokens, and are
    lower-cased with `lower_case`. `extra` preserves other keys of `config_sentence_transformers.json`.

    Raises InputError for an unknown pooling, and for a default prompt that does not exist.
    """

    pooling: tuple[Pooling, ...] = ("mean",)
    layers: tuple[DenseConfig | Literal["normalize"], ...] = ()
    include_prompt: bool = True
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        known = get_args(Pooling)
        if not self.pooling or set(self.pooling) - set(known):
            raise InputError(f"pooling is {', '.join(self.pooling) or 'empty'}; expected some of {', '.join(known)}")
        names = [name for name, _ in self.prompts]
        if self.default_prompt is not None and self.default_prompt not in names:
            raise InputError(
                f"the default prompt {self.default_prompt!r} is not one of the prompts: {', '.join(names) or 'none'}"
            )

    @property
    def dense(self) -> tuple[DenseConfig, ...]:
        """The dense layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, DenseConfig))


class Dense(nnx.Module):
    """A linear map of vectors and its activation."""

    def __init__(self, config: DenseConfig, *, stddev: float, key: PRNGKeyArray):
        activation(config.activation)
        self.activation = config.activation
        shape = config.inputs, config.outputs
        self.linear = Linear(shape, (None, None), stddev=stddev, key=key, bias=config.bias)

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        return activation(self.activation)(self.linear(x))


class SentenceEncoder(Deberta):
    """A `Deberta` with the layers of a sentence-transformers folder after it, which `embed` applies.

    Calling it returns the hidden states, as a `Deberta` does; `pool` turns them into one vector for each text.
    `from_pretrained` returns it for such a folder.

    Args:
        config: the architecture.
        sentence: pooling, layers, prompts and maximum length.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Attributes:
        sentence: as given.
        dense: the dense layers.

    Raises:
        InputError: dense layers whose sizes do not match.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("embedding-data/deberta-sentence-transformer")
        >>> model.sentence.pooling
        ('mean',)
        >>> dj.embed(model, tokenizer, ["A man eats.", "A woman sings."]).shape[0]
        2
    """

    def __init__(
        self, config: DebertaConfig, sentence: SentenceConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]
    ):
        keys = jax.random.split(key)
        super().__init__(config, key=keys[0], **options)
        _check_sizes(config, sentence)
        self.sentence = sentence
        dense_keys = jax.random.split(keys[1], max(len(sentence.dense), 1))
        stddev = config.initializer_range
        self.dense = nnx.List(
            [Dense(layer, stddev=stddev, key=k) for layer, k in zip(sentence.dense, dense_keys, strict=False)]
        )
        cast_parameters(self, options.get("param_dtype"))

    @in_precision
    def pool(
        self, states: Float[Array, "B T D"], attention_mask: Mask = None, *, excluded: Int[ArrayLike, "B"] | None = None
    ) -> Float[Array, "B E"]:
        """The vector of each text from the states of the last layer.

        Args:
            states: hidden states [B, T, D].
            attention_mask: 1 for real tokens, 0 for padding [B, T].
            excluded: the number of tokens at the start of each text, those of a prompt, that are not pooled [B].

        Returns:
            Vectors [B, E], in float32 or wider.
        """
        mask = as_token_mask(attention_mask)
        mask = jnp.ones(states.shape[:2], bool) if mask is None else mask
        excluded = None if excluded is None else jnp.asarray(excluded)
        x = jnp.concatenate([pool(states, mask, name, excluded) for name in self.sentence.pooling], -1)
        dense = iter(self.dense)
        for layer in self.sentence.layers:
            x = normalize(x) if layer == "normalize" else next(dense)(x)
        return x


def normalize(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Vectors of length 1; zero stays zero."""
    x = upcast(x)
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, jnp.asarray(1e-24, x.dtype)))


def vector_size(model: Any) -> int:
    """The width of a vector of a sentence encoder; the hidden size of another encoder."""
    size = model.config.hidden_size
    if not isinstance(model, SentenceEncoder):
        return size
    dense = model.sentence.dense
    return dense[-1].outputs if dense else size * len(model.sentence.pooling)


def with_layers(encoder: Deberta, sentence: SentenceConfig, dense: list[Dense]) -> SentenceEncoder:
    """A sentence encoder from an encoder and its dense layers; parameters are shared, not copied."""
    abstract = jax.eval_shape(lambda key: SentenceEncoder(encoder.config, sentence, key=key), jax.random.key(0))
    parts = {"embeddings": encoder.embeddings, "encoder": encoder.encoder, "dense": nnx.List(dense)}
    return replace_parts(abstract, parts)


def without_layers(model: Deberta) -> Deberta:
    """The encoder of a sentence encoder as a plain `Deberta`; parameters are shared, not copied."""
    if not isinstance(model, SentenceEncoder):
        return model
    abstract = jax.eval_shape(lambda key: Deberta(model.config, key=key), jax.random.key(0))
    return replace_parts(abstract, {"embeddings": model.embeddings, "encoder": model.encoder})


def _check_sizes(config: DebertaConfig, sentence: SentenceConfig) -> None:
    width = config.hidden_size * len(sentence.pooling)
    for number, layer in enumerate(sentence.dense, 1):
        if layer.inputs != width:
            raise InputError(f"dense layer {number} takes {layer.inputs} features, but its input has {width}")
        width = layer.outputs
