"""The predictions of a model for the examples of a task."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.stream import stream
from deberta_jax.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


def predict(
    kind: Kind,
    model: Any,
    tokenizer: Tokenizer,
    examples: Sequence[Any],
    batching: Batching,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """The outcome of each example, in order; `check_stop` is called after each and may raise.

    An example that cannot be encoded gets the empty prediction of its kind, which is logged; without one it raises
    InputError.
    """
    outcomes: list[Outcome] = []
    failed: list[str] = []
    results = stream(kind.pipeline(model, tokenizer, batching), (example.inputs for example in examples))
    for example, result in zip(examples, results, strict=True):
        if isinstance(result, InputError):
            message = f"example {example.id}: {result}"
            if kind.empty_prediction is None:
                raise InputError(message)
            failed.append(message)
            result = Outcome(kind.empty_prediction)
        outcomes.append(result)
        check_stop()
    if failed:
        _log.warning("%d of %d examples get an empty prediction; first: %s", len(failed), len(examples), failed[0])
    return outcomes
