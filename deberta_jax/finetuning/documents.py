"""Long texts in fine-tuning: an example is all windows of a text, with one loss."""

import dataclasses
import functools
from typing import Any

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.text_config import TextConfig
from deberta_jax.inference.documents import encode_documents, windows_limit


def with_windows(kind: Kind, config: TextConfig) -> Kind:
    """The kind with all windows of a text as one example, if the options say so; raises InputError for other kinds."""
    if config.long == "truncate":
        return kind
    if kind.head != "sequence_classification":
        raise InputError(
            "long windows is for single_label, ordinal, multi_label and regression; "
            f"this task is of kind {kind.name}: omit it"
        )
    encoding = kind.encoding._replace(
        encode=functools.partial(encode_documents, max_windows=config.max_windows),
        several_sequences=True,
        padded_count=functools.partial(padded_windows, max_windows=config.max_windows),
        limit=functools.partial(windows_limit, config.max_windows),
    )
    return dataclasses.replace(kind, encoding=encoding)


def padded_windows(count: int, max_windows: int) -> int:
    """The number of windows that texts are padded to: 1, 2, 3, 4, 6, 8, 12, 16, … and `max_windows`."""
    power = 1 << (count - 1).bit_length()
    padded = 3 * power // 4 if power > 2 and 3 * power // 4 >= count else power
    return min(padded, max_windows)


def text_fields(kind: Kind, pretrained: DebertaConfig, config: TextConfig, max_length: int) -> dict[str, Any]:
    """The fields of the fine-tuned model's config that follow from the options, so that it predicts as it was trained.

    The pooling is that of the pretrained model by default. Raises InputError for a kind without a text classifier.
    """
    is_longer = max_length > pretrained.max_position_embeddings
    fields: dict[str, Any] = dict.fromkeys(("classifier_pooling", "window_pooling", "max_windows"))
    fields["sequence_length"] = max_length if is_longer or config.long == "windows" else None
    if kind.head == "sequence_classification":
        fields["classifier_pooling"] = config.pooling or pretrained.classifier_pooling
    elif config.pooling is not None:
        raise InputError(
            "pooling is for single_label, ordinal, multi_label and regression; "
            f"this task is of kind {kind.name}: omit it"
        )
    if config.long == "windows":
        fields |= {"window_pooling": config.window_pooling, "max_windows": config.max_windows}
    return fields
