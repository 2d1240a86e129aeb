"""A small config for pretraining, with the vocabulary of `packed_batches`."""

import dataclasses

from packed_batches import VOCABULARY

from deberta_jax.presets import PRESETS

_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def toy_config(**changes):
    """The preset "tiny" with a smaller width, and with other changes."""
    return dataclasses.replace(PRESETS["tiny"], **_SIZES | changes)
