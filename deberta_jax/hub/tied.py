"""Masked language models whose output table differs from the word embeddings (`tie_word_embeddings` false)."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import DECODER, DECODER_BIAS, POSITIONS, TIED, masked_lm_prefix
from deberta_jax.hub.tensors import Tensor

_log = logging.getLogger(__name__)


def masked_lm_tensors(
    tensors: Mapping[str, Tensor], config: DebertaConfig, *, source: str | Path
) -> tuple[dict[str, Tensor], bool]:
    """The tensors for a masked language model without copies of others, and whether its output table is untied.

    As in transformers 5, a table in the file that differs from the word embeddings is used even if the config ties
    them, and of two biases the one of the decoder is used. Raises InputError for an untied head without its table.
    """
    settled = dict(tensors)
    bias = settled.pop(DECODER_BIAS, None)
    if masked_lm_prefix(tensors, config) != "cls":
        settled.pop(DECODER, None)
        return settled, False
    if bias is not None:
        settled[TIED[DECODER_BIAS]] = bias
    says_untied = config.extra.get("tie_word_embeddings") is False
    words, decoder = tensors.get(TIED[DECODER]), tensors.get(DECODER)
    if decoder is None and says_untied:
        raise InputError(
            f"{source}: {DECODER} is missing, but tie_word_embeddings in the config is false; set it to true if the "
            "model predicts words with its embeddings"
        )
    if decoder is not None and words is not None and (says_untied or not _are_equal(decoder, words)):
        return settled, True
    settled.pop(DECODER, None)
    return settled, False


def warn_of_masked_lm(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Log a warning for a file without the positions of the decoder, and for the discriminator of a pair."""
    if POSITIONS not in tensors:
        _log.warning(
            "%s: no position embeddings in the file; masks are filled from the last layer, without the enhanced mask "
            "decoder",
            folder,
        )
    if any(name.startswith("mask_predictions.") for name in tensors):
        _log.warning(
            "%s: the discriminator of a pair, which is not trained to fill masks; load its generator with "
            "generator=True (--generator)",
            folder,
        )


def _are_equal(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and np.array_equal(tensor.read(), other.read(), equal_nan=True)
