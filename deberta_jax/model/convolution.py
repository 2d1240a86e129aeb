"""The convolution of v2 beside the first layer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.activation import activation
from deberta_jax.model.inputs import Key
from deberta_jax.model.linear import LayerNorm, over_rows
from deberta_jax.model.module import Configured
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.precision import einsum
from deberta_jax.sharding import constrain


class Convolution(Configured):
    """The convolution over the embeddings that v2 adds to the output of its first layer.

    A tap on padding, on another document of a packed sequence, or on a token that the own one does not see because of
    `order`, reads zero (docs/numerics.md, "Convolution of v2").
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        K, D, inputs = config.conv_kernel_size, config.hidden_size, config.hidden_size // config.conv_groups
        # PyTorch's default initialization of a convolution, which the original keeps.
        bound = 1 / np.sqrt(inputs * K)
        keys = jax.random.split(key)
        self.kernel = nnx.Param(
            jax.random.uniform(keys[0], (K, inputs, D), minval=-bound, maxval=bound), axes=(None, "embed", "mlp")
        )
        self.bias = nnx.Param(jax.random.uniform(keys[1], (D,), minval=-bound, maxval=bound), axes=("mlp",))
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"] | None,
        segment_ids: Int[Array, "B T"] | None,
        order: Int[Array, "B T"] | None = None,
        *,
        key: Key = None,
    ) -> Float[Array, "B T D"]:
        """The term that `merge` adds to the output of the first layer."""
        B, T, D = embeddings.shape
        K, inputs, _ = self.kernel.shape
        groups, reach = self.config.conv_groups, K // 2
        taps = _taps(embeddings, reach)
        if segment_ids is not None:
            same_document = _taps(segment_ids[..., None], reach) == segment_ids[:, :, None, None]
            taps = jnp.where(same_document, taps, 0)
        if order is not None:
            visible = _taps(order[..., None], reach) <= order[:, :, None, None]
            taps = jnp.where(visible, taps, 0)
        kernel = self.kernel[...].astype(embeddings.dtype).reshape(K, inputs, groups, D // groups)
        y = einsum("BTKGI,KIGO->BTGO", taps.reshape(B, T, K, groups, inputs), kernel).reshape(B, T, D)
        y = y + over_rows(self.bias[...].astype(y.dtype), y)
        if attention_mask is not None:
            y = jnp.where(attention_mask[..., None], y, 0)
        y = activation(self.config.conv_act)(dropout(y, self.config.hidden_dropout_prob, key=key))
        # Without this XLA's partitioner computes other values on a mesh of 2 x 2 x 2 (jax 0.10.2).
        return constrain(y, "batch", None, None)

    def merge(
        self,
        layer_output: Float[Array, "B T D"],
        y: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"] | None,
    ) -> Float[Array, "B T D"]:
        """The output of the first layer plus the convolution, normalized, zero at padding."""
        merged = self.norm(layer_output + y)
        if attention_mask is None:
            return merged
        return jnp.where(attention_mask[..., None], merged, 0)


def _taps(x: Array, reach: int) -> Array:
    """Each position with its neighbors up to `reach` away, zero beyond the ends: [B, T, 2 reach + 1, D]."""
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.stack([padded[:, tap : tap + x.shape[1]] for tap in range(2 * reach + 1)], axis=2)
