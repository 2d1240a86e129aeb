"""What models with a head return, and the types of their calls."""

from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Required,
    TypeVar,
    Unpack,
    overload,
    runtime_checkable,
)

from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from deberta_jax.model.encoder import EncoderOutput
from deberta_jax.model.inputs import Key, Mask, PlainInputs

Logits = TypeVar("Logits")
# One integer per token of a text, or of each of several texts.
Ids = Int[ArrayLike, "..."] | None


class SpanLogits(NamedTuple):
    """How well an answer starts, and ends, at each token."""

    start: Float[Array, "B T"]
    end: Float[Array, "B T"]


if TYPE_CHECKING:

    class HeadOutput(NamedTuple, Generic[Logits]):
        """What a model with a head returns if hidden states or attentions are requested."""

        logits: Logits
        hidden_states: Float[Array, "L B T D"] | None
        attentions: Float[Array, "L B N T S"] | None

else:

    class HeadOutput(NamedTuple):
        """What a model with a head returns if hidden states or attentions are requested; otherwise, the logits alone.

        Attributes:
            logits: what the model returns otherwise, such as logits [B, C].
            hidden_states: [L + 1, B, T, D], the embeddings first; None if they are not requested.
            attentions: probabilities before dropout [L, B, N, T, S]; None if they are not requested.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> import deberta_jax as dj
            >>> model = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
            >>> output = model(jnp.array([[1, 7, 8, 2]]), output_attentions=True)
            >>> output.logits.shape, output.attentions.shape  # [B, C], [L, B, N, T, S]
            ((1, 2), (2, 1, 2, 4, 4))
        """

        logits: Array | SpanLogits
        hidden_states: Float[Array, "L B T D"] | None
        attentions: Float[Array, "L B N T S"] | None

        @classmethod
        def __class_getitem__(cls, logits: object) -> "type[HeadOutput]":
            """The class itself: beartype, which checks the tests, does not read generic named tuples."""
            return cls


def with_encoder_output(logits: Logits, output: EncoderOutput) -> Logits | HeadOutput[Logits]:
    """The logits, with what the encoder returned on request."""
    if output.hidden_states is None and output.attentions is None:
        return logits
    return HeadOutput(logits, output.hidden_states, output.attentions)


# What a model of any kind returns.
ModelOutput = EncoderOutput | Array | SpanLogits | HeadOutput[Array] | HeadOutput[SpanLogits]


class Inputs(PlainInputs, total=False):
    """The keyword arguments of a call that returns logits."""

    key: Key
    masked_positions: Int[ArrayLike, "B M"] | None
    entity_positions: Int[ArrayLike, "B E P"]


class InputsWithStates(Inputs, total=False):
    """The keyword arguments of a call that also returns hidden states."""

    output_hidden_states: Required[Literal[True]]
    output_attentions: bool


class InputsWithAttentions(Inputs, total=False):
    """The keyword arguments of a call that also returns attentions."""

    output_hidden_states: bool
    output_attentions: Required[Literal[True]]


class AnyInputs(Inputs, total=False):
    """The keyword arguments of any call."""

    output_hidden_states: bool
    output_attentions: bool


@runtime_checkable
class HeadCall(Protocol[Logits]):
    """The call of a model with a head, for type checkers: the result depends on what is requested.

    `masked_positions` belong to `MaskedLM`, `entity_positions` to `EntityScoring`.
    """

    @overload
    def __call__(self, input_ids: Ids = None, attention_mask: Mask = None, **inputs: Unpack[Inputs]) -> Logits: ...
    @overload
    def __call__(
        self, input_ids: Ids = None, attention_mask: Mask = None, **inputs: Unpack[InputsWithStates]
    ) -> HeadOutput[Logits]: ...
    @overload
    def __call__(
        self, input_ids: Ids = None, attention_mask: Mask = None, **inputs: Unpack[InputsWithAttentions]
    ) -> HeadOutput[Logits]: ...
    @overload
    def __call__(
        self, input_ids: Ids = None, attention_mask: Mask = None, **inputs: Unpack[AnyInputs]
    ) -> Logits | HeadOutput[Logits]: ...


def head_call(method: Callable[..., Logits | HeadOutput[Logits]]) -> HeadCall[Logits]:
    """The method `__call__` of a model with a head, unchanged, with the type of its calls."""
    return method  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
