"""The training set as features."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.finetuning.features import Feature, windows_of
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Examples that are tokenized together.
_CHUNK = 1024
_log = logging.getLogger(__name__)


def features_of(
    kind: Kind, tokenizer: Tokenizer, examples: Sequence[Any], labels: Sequence[str], max_length: int
) -> tuple[list[Feature], ReadReport]:
    """Encode a training set in sequences of at most `max_length` tokens; the report counts the examples.

    Raises InputError for an example without an answer, and if too many examples cannot be encoded.
    """
    features: list[Feature] = []
    report = ReadReport("training set")
    truncated = 0
    label_index = {label: index for index, label in enumerate(labels)}
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        for example in chunk:
            if example.answer is None:
                raise InputError(f"example {example.id} has no label; each row of a training file needs one")
        rows = kind.encoding.encode(tokenizer, list(map(kind.encoding.training_inputs, chunk)), max_length)
        windows = windows_of(rows, len(chunk))
        truncated += len(rows.truncated)
        for number, example in enumerate(chunk):
            if number in rows.errors:
                report.skip("cannot be encoded", f"example {example.id} ({rows.errors[number]})")
                continue
            features += kind.encoding.targets(example, windows[number], label_index, max_length)
            report.use()
    report.check()
    if truncated:
        _log.warning(
            "%d of %d training examples have more than %s and are truncated",
            truncated,
            len(examples),
            kind.encoding.limit(max_length),
        )
    return features, report


def digest(features: Sequence[Feature]) -> str:
    """A hash of the token ids and the targets."""
    sha256 = hashlib.sha256()
    for feature in features:
        for array in (*feature.sequences, *feature.targets.values()):
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()
