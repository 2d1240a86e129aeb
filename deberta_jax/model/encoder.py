"""The encoder: one layer, the convolution of v2, and the stack with its relative table."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.model.activation import activation
from deberta_jax.model.attention import Attention, RelativePositions
from deberta_jax.model.embeddings import Embedding
from deberta_jax.model.linear import LayerNorm, Linear
from deberta_jax.ops.attention import make_attention_mask
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.positions import relative_index
from deberta_jax.sharding import constrain

_policies = jax.checkpoint_policies
# What a layer keeps for its backward pass, by name or as a product with parameters.
_SAVED = {
    "none": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("probabilities", "context")
    ),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("context")
    ),
    "full": _policies.nothing_saveable,
}


class Layer(nnx.Module):
    """Attention and feed-forward, each with its residual and a norm after it (spec 2.2)."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        keys = jax.random.split(key, 3)
        D, F, stddev = config.hidden_size, config.intermediate_size, config.initializer_range
        self.attention = Attention(config, key=keys[0])
        self.up = Linear((D, F), ("embed", "mlp"), stddev=stddev, key=keys[1])
        self.down = Linear((F, D), ("mlp", "embed"), stddev=stddev, key=keys[2])
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        relative: RelativePositions | None,
        mask: Bool[Array, "B #N #T S"] | None,
        *,
        query_states: Float[Array, "B T D"] | None = None,
        query_positions: Int[Array, "B T"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        keys = (None, None) if key is None else jax.random.split(key)
        attended = self.attention(
            x, relative, mask, query_states=query_states, query_positions=query_positions, key=keys[0]
        )
        y = self.down(activation(self.config.hidden_act)(self.up(attended)))
        y = self.norm(dropout(y, self.config.hidden_dropout_prob, key=keys[1]) + attended)
        return constrain(y, "batch", None, None)


class Convolution(nnx.Module):
    """The convolution over the embeddings that v2 adds to the output of its first layer (spec 2.3).

    A tap that falls on padding, or on another document of a packed row, reads zero.
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        K, D, inputs = config.conv_kernel_size, config.hidden_size, config.hidden_size // config.conv_groups
        # Torch's own initialisation of a convolution, which the original leaves in place (spec 2.7).
        bound = 1 / np.sqrt(inputs * K)
        keys = jax.random.split(key)
        self.kernel = nnx.Param(
            jax.random.uniform(keys[0], (K, inputs, D), minval=-bound, maxval=bound), axes=(None, "embed", "mlp")
        )
        self.bias = nnx.Param(jax.random.uniform(keys[1], (D,), minval=-bound, maxval=bound), axes=("mlp",))
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"] | None,
        segment_ids: Int[Array, "B T"] | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        """What is added to the first layer's output, before its norm."""
        B, T, D = embedded.shape
        K, inputs, _ = self.kernel.shape
        groups = self.config.conv_groups
        reach = K // 2
        taps = _taps(embedded, reach)
        if segment_ids is not None:
            same = _taps(segment_ids[..., None], reach) == segment_ids[:, :, None, None]
            taps = jnp.where(same, taps, jnp.zeros((), taps.dtype))
        kernel = self.kernel[...].astype(embedded.dtype).reshape(K, inputs, groups, D // groups)
        y = jnp.einsum("BTKGI,KIGO->BTGO", taps.reshape(B, T, K, groups, inputs), kernel).reshape(B, T, D)
        y = y + self.bias[...].astype(y.dtype)
        if attention_mask is not None:
            y = jnp.where(attention_mask[..., None], y, jnp.zeros((), y.dtype))
        y = activation(self.config.conv_act)(dropout(y, self.config.hidden_dropout_prob, key=key))
        # Without this XLA's partitioner computes other values on a mesh of 2 x 2 x 2 (jax 0.10.2).
        return constrain(y, "batch", None, None)

    def merge(
        self, first: Float[Array, "B T D"], y: Float[Array, "B T D"], attention_mask: Bool[Array, "B T"] | None
    ) -> Float[Array, "B T D"]:
        """The first layer's output with the convolution, normed, zero at padding."""
        merged = self.norm(first + y)
        return (
            merged
            if attention_mask is None
            else jnp.where(attention_mask[..., None], merged, jnp.zeros((), merged.dtype))
        )


def _taps(x: Array, reach: int) -> Array:
    """Each position beside its neighbours up to `reach` away, zero beyond the ends: [B, T, 2 reach + 1, D]."""
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.stack([padded[:, tap : tap + x.shape[1]] for tap in range(2 * reach + 1)], axis=2)


class EncoderOutput(NamedTuple):
    """Hidden states start with the embeddings; attentions are probabilities before dropout. Both only on request."""

    last_hidden_state: Float[Array, "B T D"]
    hidden_states: Float[Array, "L B T D"] | None = None
    attentions: Float[Array, "L B N T S"] | None = None


class Encoder(nnx.Module):
    """Layers stacked on a leading axis and scanned, one relative table for all (spec 1.6, 2.4).

    `remat` says what the backward pass computes again: what costs nothing beside a matrix product ("none"), the
    attention scores too ("dots"), or all but the layers' inputs ("full").
    """

    def __init__(self, config: DebertaConfig, *, remat: Remat = "none", key: PRNGKeyArray):
        self.config, self.remat = config, remat
        keys = jax.random.split(key, 3)
        self.layers = jax.vmap(lambda key: Layer(config, key=key))(jax.random.split(keys[0], config.num_hidden_layers))
        D, rows, stddev = config.hidden_size, 2 * config.relative_span, config.initializer_range
        normed = "layer_norm" in config.norm_rel_ebd
        self.relative = (
            Embedding(rows, D, (None, "embed"), stddev=stddev, key=keys[1]) if config.relative_attention else None
        )
        self.relative_norm = LayerNorm(D, epsilon=config.layer_norm_eps) if normed else None
        self.convolution = Convolution(config, key=keys[2]) if config.conv_kernel_size > 0 else None

    def relative_positions(self, length: int, dtype: jnp.dtype) -> RelativePositions | None:
        """The rows of the relative table that sequences of this length use, normed."""
        if self.relative is None or not self.config.active_terms:
            return None
        rows = relative_index(
            length,
            length,
            buckets=self.config.position_buckets,
            max_distance=self.config.max_distance,
            clamp=self.config.clamp_distances,
        )
        # Short sequences use a part of the table: norm and project no more than that.
        table = self.relative.embedding[...][rows.min() : rows.max() + 1]
        if self.relative_norm is not None:
            table = self.relative_norm(table)
        return RelativePositions(table.astype(dtype), rows - rows.min())

    def last_layer(self) -> Layer:
        return jax.tree.map(lambda parameter: parameter[-1], self.layers)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"] | None = None,
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        pair_mask: Bool[Array, "B #N #T T"] | None = None,
        depth: int | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> EncoderOutput:
        """Run the first `depth` layers (all by default) on embedded tokens."""
        L = self.config.num_hidden_layers if depth is None else depth
        layers = self.layers if self.config.num_hidden_layers == L else jax.tree.map(lambda p: p[:L], self.layers)
        relative = self.relative_positions(x.shape[1], x.dtype)
        # Under a full attention mask the input mask only zeroes embeddings and convolution, as in the original.
        visible_keys = (
            make_attention_mask(attention_mask, segment_ids)
            if pair_mask is None
            else make_attention_mask(None, segment_ids, pair_mask)
        )
        convolution_key, layer_keys = None, None
        if key is not None:
            convolution_key, layers_key = jax.random.split(key)
            layer_keys = jax.random.split(layers_key, L)
        convolution = self.convolution
        convolved = None if convolution is None else convolution(x, attention_mask, segment_ids, key=convolution_key)

        def step(x: Array, scanned: tuple) -> tuple[Array, tuple]:
            layer, number, key = scanned
            # What JAX can compute before a scan it keeps whole, such as a mask for every head.
            mask = None if visible_keys is None else jax.lax.optimization_barrier((visible_keys, number))[0]
            attentions = layer.attention.probabilities(x, relative, mask) if output_attentions else None
            y = layer(x, relative, mask, key=key)
            if convolution is not None and convolved is not None:
                y = jax.lax.cond(number == 0, lambda y: convolution.merge(y, convolved, attention_mask), lambda y: y, y)
            return y, (y if output_hidden_states else None, attentions)

        step = jax.checkpoint(step, policy=_SAVED[self.remat], prevent_cse=False)
        last, (states, attentions) = jax.lax.scan(step, x, (layers, jnp.arange(L), layer_keys))
        if states is not None:
            states = jnp.concatenate([x[None], states])
        return EncoderOutput(last, states, attentions)
