"""The functions that turn the logits of a classification head into scores, and the one that a model folder names."""

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np
import scipy.special
from jaxtyping import Float

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.inference.names import ScoreFunction

SCORE_FUNCTIONS: dict[ScoreFunction, Callable[[Float[np.ndarray, "C"]], Float[np.ndarray, "C"]]] = {
    "sigmoid": scipy.special.expit,
    "softmax": scipy.special.softmax,
    "none": lambda logits: logits,
}
# The classes of torch.nn that sentence-transformers writes by their full names.
_TORCH_CLASSES: dict[str, ScoreFunction] = {"Sigmoid": "sigmoid", "Identity": "none", "Softmax": "softmax"}


def check_function(function: ScoreFunction, labels: Sequence[str]) -> None:
    """Raise InputError for an unknown function, and for the softmax of a single label."""
    if function not in get_args(ScoreFunction):
        raise InputError(f"unknown function {function!r}: use one of {', '.join(get_args(ScoreFunction))}")
    if function == "softmax" and len(labels) == 1:
        raise InputError("the softmax of a single label is always 1: use the function sigmoid or none")


def folder_function(config: DebertaConfig) -> ScoreFunction | None:
    """The function that a folder of sentence-transformers' CrossEncoder names in its config; None without one.

    Version 4 and later write `sentence_transformers.activation_fn`, older ones `sbert_ce_default_activation_function`.
    Raises InputError for any other function.
    """
    settings = config.extra.get("sentence_transformers")
    name = settings.get("activation_fn") if isinstance(settings, Mapping) else None
    name = name or config.extra.get("sbert_ce_default_activation_function")
    if name is None:
        return None
    function = _TORCH_CLASSES.get(str(name).rpartition(".")[2])
    if function is None or not str(name).startswith("torch."):
        raise InputError(
            f"config.json names the activation {str(name)[:80]!r}, which is not one of {', '.join(_TORCH_CLASSES)} of "
            "torch.nn: choose a function with function=... (--function)"
        )
    return function


def label_index(labels: Sequence[str], label: str, option: str) -> int:
    """The index of the label that an option names; raises InputError if the model does not have it."""
    if label not in labels:
        raise InputError(f"{option} is {label!r}, but the model's labels are {list_names(labels)}")
    return list(labels).index(label)
