"""Disentangled self-attention: the projections of content and of the relative table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from deberta_jax.config import AttentionName, DebertaConfig
from deberta_jax.model.inputs import Key, split_key
from deberta_jax.model.linear import LayerNorm, Linear
from deberta_jax.model.module import Configured, check_attention
from deberta_jax.ops.attention import attention_with_probabilities, disentangled_attention
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.sharding import constrain

# Logical axes of content by head.
_HEADS = "batch", None, "heads", None


class RelativePositions(NamedTuple):
    """The relative table of one forward pass: the rows that occur, normalized, and the row of each distance."""

    table: Float[Array, "R D"]
    rows: Int[np.ndarray, "W"]


class Queries(NamedTuple):
    """Queries other than the keys' own states, and their positions in the sequence; None for one for each key."""

    states: Float[Array, "B T D"]
    positions: Int[Array, "B T"] | None


class AttentionInputs(NamedTuple):
    """What a layer reads beside the states: relative positions, which pairs are visible, a bias, and other queries.

    `segment_ids` and `order` are as in `ops.masks`; `mask` restricts pairs further.
    """

    relative: RelativePositions | None
    segment_ids: Int[Array, "B S"] | None = None
    mask: Bool[Array, "B #N #T S"] | None = None
    queries: Queries | None = None
    bias: Float[Array, "#B #N #T S"] | None = None
    order: Int[Array, "B S"] | None = None


# Arguments as `ops.attention.attention_with_probabilities`: it returns the context [B, T, N, H] and the probabilities
# [B, N, T, S].
AttentionFunction = Callable[..., tuple[Array, Array]]
# A function, or the name of an implementation that does not return probabilities.
AttentionChoice = AttentionFunction | AttentionName


def check_attention_runs(
    attention: AttentionChoice, config: DebertaConfig, dtype: DTypeLike, *, training: bool
) -> None:
    """Raise InputError if this attention cannot run in a model, in `dtype` on the current devices.

    `training` is with the config's dropout. Nothing is computed: attention is traced for a few tokens.
    """
    check_attention(attention)
    if callable(attention):
        return
    rate = config.attention_probs_dropout_prob if training else 0.0

    def attend(q: Float[Array, "B T N H"], key: PRNGKeyArray) -> Float[Array, "B T N H"]:
        return disentangled_attention(q, q, q, dropout_rate=rate, key=key, implementation=attention)

    q = jax.ShapeDtypeStruct((1, 16, config.num_attention_heads, config.head_size), dtype)
    jax.eval_shape(attend, q, jax.eval_shape(lambda: jax.random.key(0)))


class Attention(Configured):
    """Multi-head attention on content and relative positions, output projection, residual and norm.

    Version 1 has no bias on keys and position keys. With `share_att_key` the content projections also project the
    relative table, biases included. See docs/numerics.md, "Score terms and scale". `attention` is the function that
    computes context and probabilities from the projections, or an implementation of `disentangled_attention`.
    """

    def __init__(self, config: DebertaConfig, *, attention: AttentionChoice = "auto", key: PRNGKeyArray):
        self.config, self.attention = config, attention
        keys = jax.random.split(key, 6)
        D, N, H = config.hidden_size, config.num_attention_heads, config.head_size
        version1, stddev = config.model_type == "deberta", config.initializer_range

        def project(key: PRNGKeyArray, bias: bool = True) -> Linear:
            return Linear((D, N, H), ("embed", "heads", None), stddev=stddev, key=key, bias=bias)

        self.query, self.key, self.value = project(keys[0]), project(keys[1], bias=not version1), project(keys[2])
        terms = () if config.share_att_key else config.active_terms
        self.position_key = project(keys[3], bias=not version1) if "c2p" in terms else None
        self.position_query = project(keys[4]) if "p2c" in terms else None
        self.output = Linear((N, H, D), ("heads", None, "embed"), inputs=2, stddev=stddev, key=keys[5])
        self.norm = LayerNorm(D, epsilon=config.layer_norm_eps)

    def __call__(
        self, x: Float[Array, "B S D"], inputs: AttentionInputs, *, with_probabilities: bool = False, key: Key = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """The attended states, and on request the probabilities before dropout that gave them."""
        keys = split_key(key, 3)
        residual = x if inputs.queries is None else inputs.queries.states
        terms = self.score_terms(x, inputs, key=keys[0])
        terms |= {
            "v": constrain(self.value(x), *_HEADS),
            "dropout_rate": self.config.attention_probs_dropout_prob,
            "key": keys[1],
        }
        probabilities = None
        if with_probabilities or callable(self.attention):
            positions = None if inputs.queries is None else inputs.queries.positions
            segment_ids, order = terms.pop("segment_ids"), terms.pop("order")
            terms["mask"] = make_attention_mask(None, segment_ids, terms["mask"], positions, order)
            attend = self.attention if callable(self.attention) else attention_with_probabilities
            context, probabilities = attend(**terms)
        else:
            context = disentangled_attention(**terms, implementation=self.attention)
        attended = self.finish(checkpoint_name(context, "context"), residual, key=keys[2])
        return attended, probabilities if with_probabilities else None

    def finish(
        self, context: Float[Array, "B T N H"], residual: Float[Array, "B T D"], *, key: Key = None
    ) -> Float[Array, "B T D"]:
        """The output projection of the context, with dropout, the residual and the norm."""
        y = self.norm(dropout(self.output(context), self.config.hidden_dropout_prob, key=key) + residual)
        return constrain(y, "batch", "sequence", None)

    @property
    def scale(self) -> float:
        """The factor of the scores: it counts the configured terms even without a relative table (golden b10)."""
        return float(1 / np.sqrt(self.config.head_size * (1 + len(self.config.pos_att_type))))

    def relative_terms(
        self, table: Float[Array, "R D"]
    ) -> tuple[Float[Array, "R N H"] | None, Float[Array, "R N H"] | None]:
        """The relative table, projected for c2p and for p2c; None for a term that is not active."""
        projections = {"c2p": self.position_key or self.key, "p2c": self.position_query or self.query}
        rel_k, rel_q = (
            constrain(project(table), None, "heads", None) if term in self.config.active_terms else None
            for term, project in projections.items()
        )
        return rel_k, rel_q

    def score_terms(self, x: Float[Array, "B S D"], inputs: AttentionInputs, *, key: Key) -> dict[str, Any]:
        """Projected content and positions, mask and scale, as arguments of the functions in `ops`."""
        relative, segment_ids, mask, queries, bias, order = inputs
        query = constrain(self.query(x if queries is None else queries.states), *_HEADS)
        terms: dict[str, Any] = {"q": query, "k": constrain(self.key(x), *_HEADS), "scale": self.scale}
        terms |= {"segment_ids": segment_ids, "order": order, "mask": mask, "bias": bias}
        if queries is not None and queries.positions is not None:
            terms["query_positions"] = queries.positions
        if relative is None:
            return terms
        table = dropout(relative.table, self.config.hidden_dropout_prob, key=key)
        rel_k, rel_q = self.relative_terms(table)
        return terms | {"index": relative.rows, "rel_k": rel_k, "rel_q": rel_q}
