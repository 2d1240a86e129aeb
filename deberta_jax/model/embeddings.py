"""Input embeddings: words, and token types and absolute positions where the model adds them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.linear import LayerNorm, Linear
from deberta_jax.ops.dropout import dropout
from deberta_jax.sharding import constrain


class Embedding(nnx.Module):
    """Rows looked up by number; normal with `stddev` (spec 2.7)."""

    def __init__(self, rows: int, width: int, axes: tuple[str | None, str], *, stddev: float, key: PRNGKeyArray):
        self.embedding = nnx.Param(stddev * jax.random.normal(key, (rows, width)), axes=axes)

    def __call__(self, rows: Int[Array, "*shape"]) -> Float[Array, "*shape E"]:
        return jnp.take(self.embedding[...], rows, axis=0)


class Embeddings(nnx.Module):
    """word (+ type) (+ position), projected where E is not D, normed, zero at padding, dropped out (spec 2.1).

    `dtype` is the compute dtype of the whole model: the sum is cast to it, and every later layer follows its input.
    """

    def __init__(self, config: DebertaConfig, *, dtype: DTypeLike | None = None, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        stddev, E = config.initializer_range, config.word_size
        self.config, self.dtype = config, dtype

        def table(rows: int, axis: str | None, key: PRNGKeyArray) -> Embedding:
            return Embedding(rows, E, (axis, "embed"), stddev=stddev, key=key)

        D, types = config.hidden_size, config.type_vocab_size
        self.word = table(config.vocab_size, "vocab", keys[0])
        self.token_type = table(types, None, keys[1]) if types > 0 else None
        self.position = table(config.max_position_embeddings, None, keys[2]) if config.position_biased_input else None
        self.projection = Linear((E, D), (None, "embed"), stddev=stddev, key=keys[3], bias=False) if D != E else None
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Bool[Array, "B T"] | None = None,
        *,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        x = self.summed(input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
        return self.finished(x, attention_mask, key=key)

    def summed(
        self,
        input_ids: Int[Array, "B T"],
        *,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """What goes into the norm."""
        x = self.word(input_ids)
        # The padding row takes no gradient through its lookup, only through a tied output (golden c18).
        x = jnp.where((input_ids == self.config.pad_token_id)[..., None], jax.lax.stop_gradient(x), x)
        if self.token_type is not None:
            x = x + self.token_type(jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        if self.position is not None:
            x = x + self.position(jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids)
        x = constrain(x if self.dtype is None else x.astype(self.dtype), "batch", None, None)
        return x if self.projection is None else self.projection(x)

    def finished(
        self,
        x: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        """The sum normed, zero at padding, dropped out."""
        x = self.norm(x)
        if attention_mask is not None:
            x = jnp.where(attention_mask[..., None], x, jnp.zeros((), x.dtype))
        return dropout(x, self.config.hidden_dropout_prob, key=key)
