"""Features: the token ids of an example and its training targets."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.inference.encode import EncodedRows


class Feature(NamedTuple):
    """One item of a training batch: one sequence of tokens, or several for the choices of an example.

    `second_starts` are the positions at which the second text of each sequence begins. `targets` are arrays by name,
    one of them `weights`.
    """

    sequences: tuple[Int[np.ndarray, "T"], ...]
    second_starts: tuple[int, ...]
    targets: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))


class Window(NamedTuple):
    """One sequence of an example, without padding; `positions` are the token positions of its entities."""

    input_ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    sequence_ids: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "E P"] | None

    @property
    def second_start(self) -> int:
        """Position of the first token of the second text; the length if there is none."""
        inside = np.flatnonzero(self.sequence_ids == 1)
        return int(inside[0]) if len(inside) else len(self.input_ids)


def windows_of(rows: EncodedRows, count: int) -> list[list[Window]]:
    """The windows of each of `count` encoded examples, in order."""
    windows: list[list[Window]] = [[] for _ in range(count)]
    lengths = rows.batch.attention_mask.sum(1).tolist()
    for number, (source, length) in enumerate(zip(rows.batch.sources.tolist(), lengths, strict=True)):
        windows[source].append(
            Window(
                rows.batch.input_ids[number, :length].copy(),
                rows.batch.offsets[number, :length],
                rows.batch.sequence_ids[number, :length],
                None if rows.positions is None else rows.positions[number],
            )
        )
    return windows


def text_feature(windows: Sequence[Window], **targets: Any) -> Feature:
    """The feature of an example whose windows have one target: its only sequence, or the windows of a long text."""
    return Feature(
        tuple(window.input_ids for window in windows), tuple(window.second_start for window in windows), targets
    )


def single_feature(window: Window, **targets: Any) -> Feature:
    """The feature of an example that is one sequence."""
    return Feature((window.input_ids,), (window.second_start,), targets)
