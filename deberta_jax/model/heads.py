"""Heads for tasks: classification of texts and tokens, spans and choices."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.activation import gelu
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.encoder import EncoderOutput
from deberta_jax.model.inputs import Key, Mask, ModelInputs, Tokens, real_tokens, split_key
from deberta_jax.model.linear import Linear
from deberta_jax.model.module import HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.outputs import HeadOutput, SpanLogits, head_call, with_encoder_output
from deberta_jax.model.pooler import (
    LayerPooler,
    LayerStates,
    Pooler,
    Scorer,
    TokenMask,
    WindowLogits,
    classifier_pooler,
    project,
    square,
)
from deberta_jax.model.row_axes import has_sequences, join_sequences
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.pooling import WINDOW_POOLING
from deberta_jax.ops.precision import upcast
from deberta_jax.sharding import on_explicit_meshes


class SequenceClassification(HeadModel):
    """Classification or regression of a text: pooler and linear map (docs/numerics.md, "Heads and losses").

    `classifier_pooling` of the config selects the pooler.

    Args:
        config: the architecture; its C `labels` are the outputs. One label is a regression or a score.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model(jnp.array([[1, 7, 8, 2]])).shape  # [B, C]
        (1, 2)
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.pooler = classifier_pooler(config, key=keys[1])
        classifier = project(config, len(config.labels), keys[2])
        # A classifier that does not read the context pooler has another name, in files too.
        is_usual = isinstance(self.pooler, Pooler)
        self.classifier = classifier if is_usual else None
        self.text_classifier = None if is_usual else classifier
        scorer_key = jax.random.fold_in(keys[2], 1)
        self.window_scorer = Scorer(config, key=scorer_key) if config.window_pooling == "attention" else None
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Int[ArrayLike, "B T"] | Int[ArrayLike, "B M T"] | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B C"] | HeadOutput[Array]:
        """Logits [B, C], in float32 or wider; with one label, the predicted number.

        Arguments and errors are those of `Deberta`. A model with `window_pooling` also takes texts as M windows each:
        arrays then start with the axes B and M, and a window without a real token does not count. Returns a
        `HeadOutput` if hidden states or attentions are requested.
        """
        arrays: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        if self.config.window_pooling is None or not has_sequences(arrays):
            (logits, _), output = self._read(arrays, key)
            return with_encoder_output(logits, output)
        rows, B, M = join_sequences(arrays)
        (logits, scores), output = self._read(rows, key)
        mask = real_tokens(rows)
        present = jnp.ones((B, M), bool) if mask is None else mask.any(1).reshape(B, M)
        combined = WINDOW_POOLING[self.config.window_pooling](
            logits.reshape(B, M, logits.shape[1]), scores.reshape(B, M), present
        )
        return with_encoder_output(combined, output)

    @on_explicit_meshes
    def window_logits(
        self, input_ids: Tokens, attention_mask: Mask = None, *, token_type_ids: Tokens | None = None
    ) -> WindowLogits:
        """The logits and the score of each sequence [B, T]; those of the windows of a text are combined later."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self._read(inputs, None)[0]

    def _read(self, inputs: dict[str, Any], key: Key) -> tuple[WindowLogits, EncoderOutput]:
        """The logits and scores of sequences, with what the encoder returns; `inputs` are those of `Deberta`."""
        keys = split_key(key, 2)
        with_layers = isinstance(self.pooler, LayerPooler)
        requested = inputs.get("output_hidden_states", False)
        output = self.deberta(**inputs | {"output_hidden_states": requested or with_layers}, key=keys[0])
        layers = None if output.hidden_states is None else output.hidden_states[1:]
        outputs = self.head(output.last_hidden_state, real_tokens(inputs), layers, key=keys[1])
        return outputs, output if requested else output._replace(hidden_states=None)

    @in_precision
    def head(
        self, states: Float[Array, "B T D"], mask: TokenMask = None, layers: LayerStates = None, *, key: Key = None
    ) -> WindowLogits:
        """Logits and scores from the states of the last layer, the mask of real tokens, the states of each layer."""
        keys = split_key(key, 2)
        pooled = self.pooler(states, mask, layers, key=keys[0])
        classifier: Any = self.text_classifier if self.classifier is None else self.classifier
        logits = classify_pooled(self.config, classifier, pooled, keys[1])
        scores = jnp.zeros(logits.shape[:1], logits.dtype) if self.window_scorer is None else self.window_scorer(pooled)
        return WindowLogits(logits, scores)


class TokenClassification(HeadModel):
    """A label for each token: a linear map, after a dense layer in Microsoft's form.

    Args:
        config: the architecture; its C `labels` are the outputs.
        projected: whether the head has Microsoft's dense layer, as models of their code have.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.TokenClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model(jnp.array([[1, 7, 8, 2]])).shape  # [B, T, C]
        (1, 4, 2)
    """

    def __init__(
        self,
        config: DebertaConfig,
        *,
        projected: bool = False,
        key: PRNGKeyArray,
        **options: Unpack[ModelOptions],
    ):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.projection = square(config, keys[1]) if projected else None
        self.classifier = project(config, len(config.labels), keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B T C"] | HeadOutput[Array]:
        """Logits [B, T, C], in float32 or wider, or a `HeadOutput`; arguments and errors are those of `Deberta`."""
        keys = split_key(key, 2)
        output = self.deberta(input_ids, attention_mask, key=keys[0], **inputs)
        return with_encoder_output(self.head(output.last_hidden_state, key=keys[1]), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B T C"]:
        """Logits from the states of the last layer."""
        if self.projection is not None:
            states = gelu(self.projection(states))
        return upcast(self.classifier(dropout(states, classifier_dropout(self.deberta.config), key=key)))


class QuestionAnswering(HeadModel):
    """Start and end of an answer in a text: one linear map, as Hugging Face's head.

    Args:
        config: the architecture.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.QuestionAnswering(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> logits = model(jnp.array([[1, 7, 8, 2]]))
        >>> logits.start.shape, logits.end.shape  # [B, T]
        ((1, 4), (1, 4))
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.span = project(config, 2, keys[1])
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> SpanLogits | HeadOutput[SpanLogits]:
        """Logits `start` and `end` of the answer, [B, T] each, in float32 or wider, or a `HeadOutput`.

        Arguments and errors are those of `Deberta`.
        """
        output = self.deberta(input_ids, attention_mask, key=key, **inputs)
        return with_encoder_output(self.head(output.last_hidden_state), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"]) -> SpanLogits:
        """Logits from the states of the last layer."""
        logits = upcast(self.span(states))
        return SpanLogits(logits[..., 0], logits[..., 1])


def classify_pooled(
    config: DebertaConfig, classifier: Linear, pooled: Float[Array, "B D"], key: Key
) -> Float[Array, "B C"]:
    """Dropout and linear map."""
    return upcast(classifier(dropout(pooled, classifier_dropout(config), key=key)))


def classifier_dropout(config: DebertaConfig) -> float:
    """The rate of dropout before a classifier."""
    return config.hidden_dropout_prob if config.cls_dropout is None else config.cls_dropout
