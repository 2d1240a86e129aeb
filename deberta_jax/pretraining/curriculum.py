"""The lengths of the sequences over a run: stages of one length each, with the same number of tokens per step."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deberta_jax.errors import InputError

_WORD = re.compile(r"(\d+)(?::(?:(\d+(?:\.\d+)?)%|(\d+)))?")


class LengthShare(NamedTuple):
    """A length, and the share of the run or the number of steps with it; neither for the rest of the run."""

    length: int
    share: float | None
    steps: int | None


@dataclass(frozen=True)
class Stage:
    """Steps `start`, `start` + 1, ... before `end`, with sequences of one length."""

    length: int
    start: int
    end: int
    batch_size: int


def parse_lengths(words: Sequence[str]) -> tuple[LengthShare, ...]:
    """The lengths of `128:90% 512:10%`, of `128:9000 512` or of `512`; raises InputError for anything else."""
    shares = []
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise InputError(
                f"data.length: {word!r} is no length; write LENGTH, LENGTH:PERCENT% or LENGTH:STEPS, for example "
                "128:90% 512:10%"
            )
        length, percent, steps = match.groups()
        share = float(percent) / 100 if percent else None
        shares.append(LengthShare(int(length), share, int(steps) if steps else None))
    if not shares:
        raise InputError("data.length: no length given")
    if len({share.length for share in shares}) < len(shares):
        raise InputError(f"data.length: {' '.join(words)} has a length twice; use each length once")
    *others, last = shares
    if any(share.share is None and share.steps is None for share in others) or last.steps is not None:
        raise InputError(
            f"data.length: {' '.join(words)}: give each length but the last one its share or its steps; the last one "
            "lasts to the end of the run"
        )
    total = sum(share.share or 0 for share in shares)
    if total > 1 + 1e-9 or (last.share is not None and abs(total - 1) > 1e-9):
        raise InputError(f"data.length: the shares of {' '.join(words)} sum to {total:.0%}; they must sum to 100%")
    return tuple(shares)


def first_steps(lengths: Sequence[LengthShare], steps: int) -> list[int]:
    """The number of steps before each length, in a run of `steps` steps."""
    sizes = [share * steps if share is not None else count or 0 for _, share, count in lengths]
    return [round(sum(sizes[:number])) for number in range(len(sizes))]


def make_stages(lengths: Sequence[LengthShare], steps: int, batch_size: int) -> tuple[Stage, ...]:
    """The stages of a run of `steps` steps that have at least one step.

    A batch has `batch_size` sequences of the first length, and as many tokens at the other lengths; raises InputError
    for a length that does not divide them.
    """
    tokens = batch_size * lengths[0].length
    starts = [*first_steps(lengths, steps), steps]
    stages = []
    for (length, _, _), start, end in zip(lengths, starts[:-1], starts[1:], strict=True):
        if tokens % length:
            raise InputError(
                f"data.length: {batch_size} sequences of {lengths[0].length} tokens are no whole number of sequences "
                f"of {length}; choose another batch size or length"
            )
        if start < min(end, steps):
            stages.append(Stage(length, start, min(end, steps), tokens // length))
    return tuple(stages)


def stage_at(stages: Sequence[Stage], batch: int) -> int:
    """The number of the stage with a batch; the last stage continues without end."""
    return next((number for number, stage in enumerate(stages[:-1]) if batch < stage.end), len(stages) - 1)
