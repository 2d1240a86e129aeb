"""`deberta-jax evaluate perplexity`: how well a language model predicts text files."""

import time

from deberta_jax.cli.evaluate_options import PerplexityConfig
from deberta_jax.data.sources import documents, find_files
from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.perplexity import perplexity
from deberta_jax.processes.first_process import print_once


def run(config: PerplexityConfig) -> None:
    """Read the files, predict each token, and print perplexity per token and per word."""
    if not config.data:
        raise InputError("no text given: use --data with text files or patterns")
    if config.model is None:
        raise InputError("no model given: use --model with a folder, or with owner/name on the Hugging Face hub")
    # A missing file is reported before the model is loaded.
    files = find_files(config.data)
    model, tokenizer = load_pretrained(
        resolve(config.model),
        "masked_lm",
        base=config.base,
        dtype=config.dtype,
        param_dtype=config.dtype,
        precision=config.precision,
        attention=config.attention,
    )
    started = time.perf_counter()
    result = perplexity(
        model,
        tokenizer,
        documents(files),
        max_length=config.max_length,
        stride=config.stride,
        batch_tokens=config.batch_tokens,
    )
    seconds = time.perf_counter() - started
    print_once(
        f"perplexity {result.per_token:.2f} per token ({result.tokens:,} tokens, {result.nats / result.tokens:.4f} "
        f"nats per token), {result.per_word:.2f} per word ({result.words:,} words and line ends)"
    )
    print_once(f"{seconds:.1f} s, {result.tokens / seconds:,.0f} tokens/s")
