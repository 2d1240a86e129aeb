"""Rows of language models: the order of the tokens of a sequence, and the token that each position predicts."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int, Int32

from deberta_jax.data.packing import PackedSequence
from deberta_jax.errors import InputError

Direction = Literal["left_to_right", "right_to_left", "sequence_to_sequence"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True)
class Directions:
    """The shares of auto-regressive sequences in each direction (Dong et al. 2019, section 2.2)."""

    left_to_right: float = 1.0
    """Share of sequences whose tokens attend to the tokens before them and predict the next one."""
    right_to_left: float = 0.0
    """Share of sequences whose tokens attend to the tokens after them and predict the previous one."""
    sequence_to_sequence: float = 0.0
    """Share of sequences with a first part that sees itself, and a second part that predicts its next token."""

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares) < 0 or not 0 < sum(shares) < float("inf"):
            raise InputError(
                f"shares of directions: {', '.join(map(str, shares))}; they must be numbers of at least 0, and one of "
                "them must be positive"
            )

    def shares(self) -> tuple[float, ...]:
        """The shares in the order of `DIRECTIONS`."""
        return tuple(getattr(self, name) for name in DIRECTIONS)


def order_tokens(
    input_ids: Int[np.ndarray, "T"], segment_ids: Int[np.ndarray, "T"], direction: Direction, rng: np.random.Generator
) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "T"], Float32[np.ndarray, "T"]]:
    """The order of a packed sequence (`ops.masks.order_mask`), the id that each position predicts, and its weight.

    From left to right a position predicts the next token of its document, from right to left the previous one; the
    weight is 0 where there is none. With "sequence_to_sequence" each document is split at a random token: the tokens
    before it see each other, and the last of them and the tokens after it predict the next token.
    """
    T = len(input_ids)
    position = np.arange(T, dtype=np.int32)
    step = -1 if direction == "right_to_left" else 1
    same = segment_ids[1:] == segment_ids[:-1]
    labels, predicts = np.zeros(T, np.int32), np.zeros(T, bool)
    own, target = (slice(T - 1), slice(1, T)) if step == 1 else (slice(1, T), slice(T - 1))
    labels[own], predicts[own] = input_ids[target], same & (segment_ids[own] > 0)
    order = step * position
    if direction == "sequence_to_sequence":
        order = order.copy()
        for segment in range(1, int(segment_ids.max(initial=0)) + 1):
            tokens = np.flatnonzero(segment_ids == segment)
            # At least [CLS] and a token before the split, and one token after it.
            if len(tokens) < 3:
                continue
            source = tokens[: int(rng.integers(2, len(tokens)))]
            order[source] = source[0]
            predicts[source[:-1]] = False
    return order, np.where(predicts, labels, 0).astype(np.int32), predicts.astype(np.float32)


@dataclass(frozen=True)
class OrderSequence:
    """Turns a packed sequence into a row of a language model, in a direction that is drawn by its share."""

    directions: Directions

    def __call__(self, sequence: PackedSequence, rng: np.random.Generator) -> dict[str, np.ndarray]:
        shares = np.asarray(self.directions.shares())
        direction = DIRECTIONS[int(rng.choice(len(DIRECTIONS), p=shares / shares.sum()))]
        order, labels, weights = order_tokens(*sequence, direction, rng)
        return {
            "input_ids": sequence.input_ids.astype(np.int32),
            "segment_ids": sequence.segment_ids,
            "position_ids": sequence.position_ids,
            "order": order,
            "labels": labels,
            "label_weights": weights,
        }
