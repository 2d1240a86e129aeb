"""Input embeddings: words, and token types and absolute positions where the model adds them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.inputs import DType, Key
from deberta_jax.model.linear import Embedding, LayerNorm, Linear
from deberta_jax.model.module import Configured, check_floating
from deberta_jax.ops.dropout import dropout
from deberta_jax.sharding import constrain, on_explicit_meshes


class Embeddings(Configured):
    """word (+ type) (+ position), projected if E is not D, normalized, zero at padding, with dropout.

    `dtype` is the compute dtype of the whole model: the sum is cast to it, and every later layer follows its input. See
    docs/numerics.md, "Layers, norms and activations".
    """

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, key: PRNGKeyArray):
        if dtype is not None:
            check_floating("dtype", dtype)
        keys = jax.random.split(key, 4)
        stddev, E, D = config.initializer_range, config.word_size, config.hidden_size
        self.config, self.dtype = config, dtype

        def table(rows: int, axis: str | None, key: PRNGKeyArray) -> Embedding:
            return Embedding(rows, E, (axis, "embed"), stddev=stddev, key=key)

        types = config.type_vocab_size
        self.word = table(config.vocab_size, "vocab", keys[0])
        self.token_type = table(types, None, keys[1]) if types > 0 else None
        self.position = table(config.max_position_embeddings, None, keys[2]) if config.position_biased_input else None
        projected = D != E
        self.projection = Linear((E, D), (None, "embed"), stddev=stddev, key=keys[3], bias=False) if projected else None
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    @on_explicit_meshes
    def lookup(
        self,
        input_ids: Int[Array, "B T"] | None,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
        inputs_embeds: Float[Array, "B T E"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The sum of the embeddings, projected: the input of the norm. `inputs_embeds` replace those of words."""
        if input_ids is not None:
            x = self.word(input_ids)
            # The padding row gets no gradient through its lookup, only through a tied output (golden c18).
            x = jnp.where((input_ids == self.config.pad_token_id)[..., None], jax.lax.stop_gradient(x), x)
        else:
            assert inputs_embeds is not None
            x = inputs_embeds
        if self.token_type is not None:
            x = x + self.token_type(jnp.zeros(x.shape[:2], int) if token_type_ids is None else token_type_ids)
        if self.position is not None:
            x = x + self.position(jnp.arange(x.shape[1])[None] if position_ids is None else position_ids)
        x = constrain(x if self.dtype is None else x.astype(self.dtype), "batch", None, None)
        return x if self.projection is None else self.projection(x)

    @on_explicit_meshes
    def finish(
        self, x: Float[Array, "B T D"], attention_mask: Bool[Array, "B T"] | None = None, *, key: Key = None
    ) -> Float[Array, "B T D"]:
        """The sum, normalized, zero at padding, with dropout."""
        x = self.norm(x)
        if attention_mask is not None:
            x = jnp.where(attention_mask[..., None], x, 0)
        return dropout(x, self.config.hidden_dropout_prob, key=key)
