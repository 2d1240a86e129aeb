"""The options of text classifiers: what the classifier reads, and long texts."""

import dataclasses
from typing import Literal

from deberta_jax.config_values import ClassifierPooling, WindowPooling
from deberta_jax.errors import check_at_least

LongTexts = Literal["truncate", "windows"]


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What a classifier reads of a text, for classification, multi-label classification and regression."""

    pooling: ClassifierPooling | None = None
    """Input of the classifier in place of the model's own pooler; weighted-layers is a trained mean of all layers."""
    long: LongTexts = "truncate"
    """Texts longer than --max-length: truncate them, or read them in overlapping windows, with one loss per text."""
    window_pooling: WindowPooling = "mean"
    """Combination of the logits of the windows: mean, maximum, or mean with trained weights (attention)."""
    max_windows: int = 8
    """Windows of a text that are read; all windows of a batch are in memory together."""

    def __post_init__(self) -> None:
        check_at_least("max_windows", self.max_windows, 1)
