"""The head that chooses one of several texts."""

from typing import Any, Unpack

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import classify_pooled, with_encoder_output
from deberta_jax.model.inputs import Key, Mask, ModelInputs, split_key
from deberta_jax.model.module import HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.pooler import Pooler, project
from deberta_jax.model.row_axes import join_sequences
from deberta_jax.sharding import on_explicit_meshes


class MultipleChoice(HeadModel):
    """One of several choices: each choice is a text of its own, pooled and scored."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, 1, keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Int[ArrayLike, "B M T"] | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits [B, M] of the choices, in float32 or wider, or a `HeadOutput`.

        Arguments and errors as `Deberta`, but arrays start with the axes B and M, which `pair_mask` and `bias`
        [B, M, N, T, S] may have with size 1.
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
