"""The head that chooses one of several texts."""

from typing import Unpack

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import classify_pooled
from deberta_jax.model.inputs import Key, Mask, ModelInputs, split_key
from deberta_jax.model.module import HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.outputs import HeadOutput, head_call, with_encoder_output
from deberta_jax.model.pooler import Pooler, project
from deberta_jax.model.row_axes import join_sequences
from deberta_jax.sharding import on_explicit_meshes


class MultipleChoice(HeadModel):
    """One of several choices: each choice is a text, with the question before it, which is pooled and scored.

    Args:
        config: the architecture.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.MultipleChoice(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> ids = jnp.array([[[1, 7, 2], [1, 8, 2]]])  # [B, M, T] of M choices
        >>> jax.eval_shape(model, ids).shape  # [B, M]
        (1, 2)
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, 1, keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Int[ArrayLike, "B M T"] | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B M"] | HeadOutput[Array]:
        """Logits [B, M] of the M choices, in float32 or wider, or a `HeadOutput`.

        Args:
            input_ids: token ids [B, M, T].
            attention_mask: 1 for real tokens, 0 for padding [B, M, T].
            key: applies dropout; without a key there is none.
            inputs: the other arguments of `Deberta`, which start with the axes B and M too; `pair_mask` and `bias`
                [B, M, N, T, S] may have them with size 1.

        Raises:
            ValueError: as `Deberta`.
        """
        keys = split_key(key, 2)
        arrays, B, M = join_sequences({"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        output = self.deberta(**arrays, key=keys[0])
        return with_encoder_output(self.head(output.last_hidden_state, key=keys[1]).reshape(B, M), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B"]:
        """The score of each text from the states of the last layer."""
        keys = split_key(key, 2)
        return classify_pooled(self.config, self.classifier, self.pooler(states, key=keys[0]), keys[1])[:, 0]
