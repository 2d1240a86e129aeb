"""The discriminator of v3: detection of replaced tokens."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.activation import activation
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.inputs import Key, Mask, ModelInputs, Tokens, as_arrays
from deberta_jax.model.linear import LayerNorm
from deberta_jax.model.module import Configured, HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.outputs import HeadOutput, head_call, with_encoder_output
from deberta_jax.model.pooler import project, square
from deberta_jax.ops.arguments import known_values
from deberta_jax.ops.precision import upcast
from deberta_jax.sharding import on_explicit_meshes


class ReplacedTokenHead(Configured):
    """Norm of each state plus the first state, dense layer, activation, one logit; the norm comes first."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.config = config
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.dense = square(config, keys[0])
        self.classifier = project(config, 1, keys[1])

    def __call__(self, states: Float[Array, "B T D"], first: Float[Array, "B #T D"]) -> Float[Array, "B T"]:
        hidden = activation(self.config.hidden_act)(self.dense(self.norm(states + first)))
        return upcast(self.classifier(hidden))[..., 0]


class ReplacedTokenDetection(HeadModel):
    """The discriminator of v3: was each token replaced? (He, Gao and Chen 2023, section 3.1).

    See docs/numerics.md, "Replaced-token detection".

    Args:
        config: the architecture.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.ReplacedTokenDetection(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model(jnp.array([[1, 7, 8, 2]])).shape  # [B, T]
        (1, 4)
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.detector = ReplacedTokenHead(config, key=keys[1])
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
    ) -> Float[Array, "B T"] | HeadOutput[Array]:
        """The logit [B, T] that a token was replaced (above 0: yes), in float32 or wider, or a `HeadOutput`.

        The first state is that of position 0 in the token's document, so packed sequences need their `position_ids`.
        Arguments and errors are those of `Deberta`; a ValueError also for positions that do not count from 0.
        """
        output = self.deberta(input_ids, attention_mask, key=key, **inputs)
        return with_encoder_output(self.head(output.last_hidden_state, inputs.get("position_ids")), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], position_ids: Tokens | None = None) -> Float[Array, "B T"]:
        """Logits from the states of the last layer."""
        (positions,) = as_arrays(position_ids)
        if positions is None:
            return self.detector(states, states[:, :1])
        starts = jnp.arange(states.shape[1], dtype=positions.dtype)[None] - positions
        if (known := known_values(starts)) is not None and (known < 0).any():
            raise ValueError("position_ids: no token has that position in its document; positions count from 0 in each")
        return self.detector(states, jnp.take_along_axis(states, starts[..., None], axis=1))
