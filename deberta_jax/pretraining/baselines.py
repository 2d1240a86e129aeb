"""Predictions of tokens without a model, and the curves of a language model beside them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from deberta_jax.training.plot import Curve


class LabelBaselines(NamedTuple):
    """The results of constant predictions at all predicted positions of held-out text; losses in nats.

    `uniform_loss` is that of equal probabilities (ln V), `constant_loss` that of the frequencies of the labels, the
    best constant, and `majority_accuracy` the accuracy of predicting the most frequent token.
    """

    uniform_loss: float
    constant_loss: float
    majority_accuracy: float


# Prefix of the names of the arrays of held-out batches -> the baselines.
BaselinesOf = Callable[[str], LabelBaselines]


def label_baselines(batches: Iterable[Mapping[str, np.ndarray]], prefix: str, vocab_size: int) -> LabelBaselines:
    """The baselines of the labels of batches."""
    labels = np.concatenate([batch[f"{prefix}labels"][batch[f"{prefix}label_weights"] > 0] for batch in batches])
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return LabelBaselines(math.log(vocab_size), -float(np.sum(shares * np.log(shares))), float(shares.max()))


def loss_curve(title: str, token: str, baselines: LabelBaselines) -> Curve:
    """The loss of a language model with the uniform and the best constant prediction; `token` names the unit."""
    values = {"best constant": baselines.constant_loss, "uniform guess, ln V": baselines.uniform_loss}
    return Curve(f"{title}: loss", f"loss (nats per {token})", values)


def accuracy_curve(title: str, token: str, baselines: LabelBaselines) -> Curve:
    """The accuracy of a language model with that of the most frequent token."""
    values = {"majority-class baseline": baselines.majority_accuracy}
    return Curve(f"{title}: accuracy", f"accuracy ({token}s)", values, percent=True)
