"""Tokens per second of generation, with stored keys and values and without.

`python benchmarks/generation.py [MODEL PROMPT_TOKENS NEW_TOKENS BATCH_SIZE]` prints medians of alternating runs of a
random model of a preset on this machine, greedy, without stop tokens.
"""

import sys
from functools import partial

import jax
import numpy as np
from timing import alternate, seconds

from deberta_jax.inference.generation import Sampling, generate_tokens
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS

REPETITIONS = 3


def main(preset: str = "v3-small", prompt_tokens: int = 64, new_tokens: int = 64, batch_size: int = 4) -> None:
    config = PRESETS[preset]
    model = jax.jit(lambda key: MaskedLM(config, key=key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.vocab_size, (batch_size, prompt_tokens)).astype(np.int32)
    seeds = np.arange(batch_size, dtype=np.int32)[:, None]
    inputs = ModelInputs(ids, np.ones_like(ids), np.zeros_like(ids), seeds)
    options = {"allowed": np.ones(config.vocab_size, bool), "stops": np.asarray([-1], np.int32)}
    measures, texts = {}, {}
    for name, use_cache in (("stored", True), ("computed again", False)):
        settings = Sampling(max_new_tokens=new_tokens, use_cache=use_cache)
        run = partial(generate_tokens, model, inputs, **options, key=jax.random.key(0), settings=settings)
        texts[name] = np.asarray(run()[0])
        measures[name] = lambda run=run: seconds(lambda: jax.block_until_ready(run()))
    medians = alternate(measures, REPETITIONS)
    same = (texts["stored"] == texts["computed again"]).mean()
    print(f"{preset}, {batch_size} prompts of {prompt_tokens} tokens, {new_tokens} new ones each, {same:.1%} the same")
    for name, median in medians.items():
        print(f"keys and values {name}: {batch_size * new_tokens / median:,.0f} tokens/s")
    print(f"ratio {medians['computed again'] / medians['stored']:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:5]))
