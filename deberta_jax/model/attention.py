"""Disentangled self-attention: the projections of content and of the relative table."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.linear import LayerNorm, Linear
from deberta_jax.ops.attention import attention_probabilities, disentangled_attention
from deberta_jax.ops.dropout import dropout


class RelativePositions(NamedTuple):
    """The relative table as one forward pass uses it: the rows that occur, normed, and the row of each distance."""

    table: Float[Array, "R D"]
    rows: Int[np.ndarray, "W"]


class Attention(nnx.Module):
    """Multi-head attention on content and relative positions, output projection, residual and norm (spec 1, 2.2).

    Version 1 has no bias on its keys and position keys. With `share_att_key` the content projections serve the relative
    table too, biases included.
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        keys = jax.random.split(key, 6)
        shape, axes = (config.hidden_size, config.num_attention_heads, config.head_size), ("embed", "heads", None)
        first = config.model_type == "deberta"

        def project(key: PRNGKeyArray, bias: bool = True) -> Linear:
            return Linear(shape, axes, stddev=config.initializer_range, key=key, bias=bias)

        self.query, self.key, self.value = project(keys[0]), project(keys[1], bias=not first), project(keys[2])
        own = () if config.share_att_key else config.active_terms
        self.position_key = project(keys[3], bias=not first) if "c2p" in own else None
        self.position_query = project(keys[4]) if "p2c" in own else None
        self.output = Linear(
            (shape[1], shape[2], shape[0]),
            ("heads", None, "embed"),
            inputs=2,
            stddev=config.initializer_range,
            key=keys[5],
        )
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)

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
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        queries = x if query_states is None else query_states
        terms = self.score_terms(x, queries, relative, query_positions, key=keys[0])
        context = disentangled_attention(
            **terms,
            v=self.value(x),
            mask=mask,
            dropout_rate=self.config.attention_probs_dropout_prob,
            key=keys[1],
        )
        context = checkpoint_name(context, "context")
        return self.norm(dropout(self.output(context), self.config.hidden_dropout_prob, key=keys[2]) + queries)

    def probabilities(
        self, x: Float[Array, "B S D"], relative: RelativePositions | None, mask: Bool[Array, "B #N #T S"] | None
    ) -> Float[Array, "B N S S"]:
        """What each token attends to, before dropout."""
        return attention_probabilities(**self.score_terms(x, x, relative, None, key=None), mask=mask)

    def score_terms(
        self,
        x: Float[Array, "B S D"],
        queries: Float[Array, "B T D"],
        relative: RelativePositions | None,
        query_positions: Int[Array, "B T"] | None,
        *,
        key: PRNGKeyArray | None,
    ) -> dict[str, Any]:
        """Projected content and positions, as the functions of `ops.attention` take them."""
        # The scale counts the configured terms even where no relative table exists (golden b10).
        scale = 1 / np.sqrt(self.config.head_size * (1 + len(self.config.pos_att_type)))
        terms: dict[str, Any] = {"q": self.query(queries), "k": self.key(x), "scale": float(scale)}
        if relative is None:
            return terms
        table = dropout(relative.table, self.config.hidden_dropout_prob, key=key)
        active = self.config.active_terms
        return terms | {
            "rows": relative.rows,
            "query_positions": query_positions,
            "rel_k": (self.position_key or self.key)(table) if "c2p" in active else None,
            "rel_q": (self.position_query or self.query)(table) if "p2c" in active else None,
        }
