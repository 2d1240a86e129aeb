"""The encoder: one layer, and the stack with its relative table."""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Precision, Remat
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation
from deberta_jax.model.attention import Attention, AttentionChoice, AttentionInputs, RelativePositions
from deberta_jax.model.convolution import Convolution
from deberta_jax.model.inputs import Each, Key, Mask, as_pairs, as_token_mask, check_tokens, split_key
from deberta_jax.model.linear import Embedding, LayerNorm, Linear
from deberta_jax.model.module import Configured, in_precision
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.masks import token_segments
from deberta_jax.ops.positions import relative_index
from deberta_jax.sharding import constrain, on_explicit_meshes

_policies = jax.checkpoint_policies
# What a layer saves for its backward pass: values by name, and products with parameters.
_SAVED = {
    "none": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("probabilities", "context")
    ),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("context")
    ),
    "full": _policies.nothing_saveable,
}


class Layer(Configured):
    """Attention and feed-forward, each with a residual and a norm after it."""

    def __init__(
        self,
        config: DebertaConfig,
        *,
        precision: Precision = "float32",
        attention: AttentionChoice = "auto",
        key: PRNGKeyArray,
    ):
        self.config, self.precision = config, precision
        keys = jax.random.split(key, 3)
        D, F, stddev = config.hidden_size, config.intermediate_size, config.initializer_range
        self.attention = Attention(config, attention=attention, key=keys[0])
        self.up = Linear((D, F), ("embed", "mlp"), stddev=stddev, key=keys[1])
        self.down = Linear((F, D), ("mlp", "embed"), stddev=stddev, key=keys[2])
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    @in_precision
    def __call__(
        self,
        x: Float[Array, "B S D"],
        inputs: AttentionInputs | None = None,
        *,
        with_probabilities: bool = False,
        key: Key = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """The next states, and on request the attention probabilities; `inputs` is what the encoder passes to it."""
        if inputs is None:
            raise ValueError(
                "a layer needs the relative positions of its encoder; for layer k alone, call "
                "encoder(x, attention_mask, start=k, depth=k + 1)"
            )
        keys = split_key(key, 2)
        attended, probabilities = self.attention(x, inputs, with_probabilities=with_probabilities, key=keys[0])
        return self.feed_forward(attended, key=keys[1]), probabilities

    def feed_forward(self, attended: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B T D"]:
        """The second half of the layer: two linear maps, the residual and the norm."""
        inner = constrain(self.up(attended), "batch", None, "mlp")
        y = self.down(activation(self.config.hidden_act)(inner))
        y = self.norm(dropout(y, self.config.hidden_dropout_prob, key=key) + attended)
        return constrain(y, "batch", "sequence", None)


class EncoderOutput(NamedTuple):
    """`hidden_states` begin with the embeddings; `attentions` are probabilities before dropout. Both on request."""

    last_hidden_state: Float[Array, "B T D"]
    hidden_states: Float[Array, "L B T D"] | None = None
    attentions: Float[Array, "L B N T S"] | None = None


class Encoder(Configured):
    """Layers stacked on a leading axis and scanned, with one relative table for all.

    Layers that share their parameters (`num_hidden_groups`) are one entry of that axis.

    `remat` is what the backward pass recomputes: operations that are cheap beside matrix products ("none"), attention
    scores too ("dots"), or everything but the inputs of the layers ("full").
    """

    def __init__(
        self,
        config: DebertaConfig,
        *,
        remat: Remat = "none",
        precision: Precision = "float32",
        attention: AttentionChoice = "auto",
        key: PRNGKeyArray,
    ):
        if remat not in _SAVED:
            raise InputError(f"remat is {remat!r}, expected one of {', '.join(_SAVED)}")
        self.config, self.remat = config, remat
        # No gradient reaches the parameters of this number of layers at the bottom.
        self.frozen = 0
        keys = jax.random.split(key, 3)
        layer_keys = jax.random.split(keys[0], config.num_groups)
        build = functools.partial(Layer, config, precision=precision, attention=attention)
        self.layers = jax.vmap(lambda key: build(key=key))(layer_keys)
        D, rows, stddev = config.hidden_size, 2 * config.relative_span, config.initializer_range
        table = Embedding(rows, D, (None, "embed"), stddev=stddev, key=keys[1]) if config.relative_attention else None
        self.relative = table
        normalized = "layer_norm" in config.norm_rel_ebd
        self.relative_norm = LayerNorm(D, epsilon=config.layer_norm_eps) if normalized else None
        self.convolution = Convolution(config, key=keys[2]) if config.conv_kernel_size > 0 else None

    @property
    def precision(self) -> Precision:
        """The precision of float32 matrix products."""
        return self.layers.precision

    def relative_positions(self, length: int, dtype: jnp.dtype) -> RelativePositions | None:
        """The rows of the relative table that sequences of this length use, normalized; None without relative terms."""
        config = self.config
        if self.relative is None or not config.active_terms:
            return None
        sizes = {"buckets": config.position_buckets, "max_distance": config.max_distance}
        index = relative_index(length, length, **sizes, clamp=config.clamp_distances)
        # Short sequences use part of the table: normalize and project only that part.
        table = self.relative.embedding[...][index.min() : index.max() + 1]
        if self.relative_norm is not None:
            table = self.relative_norm(table)
        # One table for all layers: each device needs all of it.
        return RelativePositions(constrain(table.astype(dtype), None, None), index - index.min())

    def layer(self, number: int) -> Layer:
        """Layer `number`, from 0, with the parameters of its group."""
        group = self.config.group_of(number)
        return jax.tree.map(lambda parameter: parameter[group], self.layers)

    @on_explicit_meshes
    @in_precision
    def __call__(
        self,
        x: Float[Array, "B T D"],
        attention_mask: Mask = None,
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        order: Int[Array, "B T"] | None = None,
        pair_mask: Mask = None,
        bias: Float[Array, "..."] | None = None,
        start: int = 0,
        depth: int | None = None,
        each: Each | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: Key = None,
    ) -> EncoderOutput:
        """Run the layers from `start` to `depth` (default: all) on embeddings, or on the output of layer `start` - 1.

        `each(state, layer)` replaces the output of each layer, which has the index `layer` from 0. It runs inside the
        scan, after the convolution of v2. Layer k alone is `start=k, depth=k + 1`. Other arguments and errors as
        `Deberta`. Raises ValueError for layers that do not exist.
        """
        B, T, _ = x.shape
        token_mask = as_token_mask(attention_mask, segment_ids)
        check_tokens((B, T), attention_mask=attention_mask, segment_ids=segment_ids, order=order)
        pair_mask, bias = as_pairs(pair_mask, bias, (B, self.config.num_attention_heads, T, T))
        L = self.config.num_hidden_layers
        depth = L if depth is None else depth
        if not 0 <= start <= depth <= L:
            raise ValueError(f"start is {start} and depth is {depth}, but the model has {L} layers")
        relative = self.relative_positions(x.shape[1], x.dtype)
        # With a pair mask, the attention mask only zeroes embeddings and convolution, as in the original.
        visible = token_segments(token_mask if pair_mask is None else None, segment_ids), order, pair_mask
        convolution_key, layers_key = split_key(key, 2)
        layer_keys = None if layers_key is None else jax.random.split(layers_key, depth - start)
        convolution = self.convolution
        convolved = None
        if convolution is not None and start == 0:
            convolved = convolution(x, token_mask, segment_ids, order, key=convolution_key)

        def step(x: Array, scanned: tuple) -> tuple[Array, tuple]:
            layer, number, key = scanned
            # The barrier keeps JAX from computing the mask of all pairs before the scan and storing it.
            segments, ordered, pairs = jax.lax.optimization_barrier((visible, number))[0]
            inputs = AttentionInputs(relative, segments, pairs, bias=bias, order=ordered)
            y, attentions = layer(x, inputs, with_probabilities=output_attentions, key=key)
            if convolution is not None and convolved is not None:
                y = jax.lax.cond(number == 0, lambda y: convolution.merge(y, convolved, token_mask), lambda y: y, y)
            y = y if each is None else each(y, number)
            return y, (y if output_hidden_states else None, attentions)

        step = jax.checkpoint(step, policy=_SAVED[self.remat], prevent_cse=False)
        last, (states, attentions) = self._scan(step, x, start, depth, layer_keys)
        if states is not None:
            states = jnp.concatenate([x[None], states])
        return EncoderOutput(last, states, attentions)

    def _scan(self, step: Callable[..., Any], x: Array, start: int, depth: int, keys: Any) -> tuple[Array, Any]:
        """`jax.lax.scan` of `step(x, (layer, number, key))` over the layers from `start` to `depth`."""
        config, numbers = self.config, jnp.arange(start, depth)
        if start < self.frozen < depth:
            # The backward pass of the first scan has nothing to compute.
            count = self.frozen - start
            first_keys, last_keys = (None, None) if keys is None else (keys[:count], keys[count:])
            x, first = self._scan(step, x, start, self.frozen, first_keys)
            x, last = self._scan(step, x, self.frozen, depth, last_keys)
            return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), first, last)
        if config.num_groups == config.num_hidden_layers:
            whole = depth - start == config.num_hidden_layers
            layers = self.layers if whole else jax.tree.map(lambda p: p[start:depth], self.layers)
            layers = layers if start >= self.frozen else jax.lax.stop_gradient(layers)
            return jax.lax.scan(step, x, (layers, numbers, keys))
        # One scan for each group: its parameters are a constant of the scan, so their gradients are summed in it.
        outputs = []
        for first, last in _runs(config, start, depth):
            part = slice(first - start, last - start)
            scanned = numbers[part], None if keys is None else keys[part]
            layer = self.layer(first) if first >= self.frozen else jax.lax.stop_gradient(self.layer(first))
            x, output = jax.lax.scan(functools.partial(_shared_step, step, layer), x, scanned)
            outputs.append(output)
        return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def _shared_step(step: Callable[..., Any], layer: Layer, x: Array, scanned: tuple) -> tuple[Array, Any]:
    """A step of a scan whose layers are all `layer`."""
    return step(x, (layer, *scanned))


def _runs(config: DebertaConfig, start: int, depth: int) -> list[tuple[int, int]]:
    """The first layer, and one past the last, of each group between two layers; one empty run without layers."""
    groups = {config.group_of(number): number for number in reversed(range(start, depth))}
    return list(pairwise([*sorted(groups.values()), depth])) or [(start, start)]
