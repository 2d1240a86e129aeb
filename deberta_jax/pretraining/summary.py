"""What `pretrain` says before and after a run, and the folders that it leaves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.inference.fill_mask import fill_mask
from deberta_jax.inference.replaced_tokens import detect_replaced
from deberta_jax.pretraining.config import PretrainConfig, measure
from deberta_jax.pretraining.corpus import say
from deberta_jax.pretraining.recipes import PUBLISHED, recipe
from deberta_jax.pretraining.replaced_tokens import collapse_warning, prior_loss
from deberta_jax.pretraining.sentences import masked_sentences
from deberta_jax.tokenizers.special_tokens import MASK
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.loop import HostBatch


def totals(config: PretrainConfig, model: DebertaConfig) -> str:
    """How large a run is: parameters, tokens and FLOPs, those of the recipe where the run has no steps."""
    size = measure(config, model)
    training = config.training
    steps = training.steps or (recipe(config.recipe, config.objective).training.steps if config.recipe else 0)
    tokens = training.batch_size * config.data.length
    lines = [
        f"{config.model}: {size}",
        f"  a step: {training.batch_size:,} rows of {config.data.length}, {tokens:,} tokens",
        f"  {steps:,} steps: {steps * tokens:,} tokens, {steps * size.step_flops:.3g} FLOP",
    ]
    published = PUBLISHED.get(config.model, {}) if config.objective == "rtd" else {}
    for name, its in published.items():
        lines.append(
            f"  {name}: batch {its.batch_size:,}, {its.steps:,} steps, learning rate {its.learning_rate:g}, warm-up "
            f"{its.warmup:,g}, beta2 {its.beta2:g}, lambda {its.loss_weight:g} ({its.source})"
        )
    return "\n".join(lines)


def export(config: PretrainConfig, model: Any, tokenizer: Tokenizer) -> None:
    """Write what was trained: `model`, or `discriminator` with its tables summed and `generator`."""
    if config.objective == "mlm":
        save_pretrained(config.folder / "model", model, tokenizer)
        return
    save_pretrained(config.folder / "discriminator", model.detector(), tokenizer)
    save_pretrained(config.folder / "generator", model.generator, tokenizer)


def report(
    config: PretrainConfig,
    found: Mapping[str, float],
    evaluated: Iterable[HostBatch],
    tokenizer: Tokenizer,
    texts: Sequence[str],
) -> None:
    """What held-out text says of the models, and what they do with five sentences of it."""
    paired = config.objective == "rtd"
    named = {name.removeprefix("generator_"): value for name, value in found.items() if name != "loss" or not paired}
    loss = found["generator_loss" if paired else "loss"]
    say(
        f"held out{', generator' if paired else ''}: {named['accuracy']:.1%} of masked tokens found "
        f"(always guessing the most frequent one: {most_frequent_share(evaluated):.1%}), "
        f"loss {loss:.3f}, perplexity {named['perplexity']:.1f}"
    )
    if paired:
        say(
            f"held out, discriminator: AUC {found['auc']:.3f}, average precision {found['average_precision']:.3f} "
            f"(chance: 0.5, {found['replaced']:.3f}), loss {found['discriminator_loss']:.4f} (the best constant: "
            f"{prior_loss(found['replaced']):.4f}), spread {found['spread']:.2f}"
        )
        if warning := collapse_warning(config.training, config.training.steps, found):
            say(f"warning: {warning}")
    sentences = masked_sentences(texts, tokenizer, 5)
    models = ("discriminator", "generator") if paired else ("model",)
    _show_filled(config, models[-1], tokenizer, sentences)
    folders = " and ".join(str(config.folder / name) for name in models)
    say(f"model {folders}; curves {config.folder / 'loss.png'}; metrics {config.folder / 'metrics.jsonl'}")


def most_frequent_share(batches: Iterable[HostBatch]) -> float:
    """The accuracy of guessing the same token everywhere, the best one."""
    labels = np.concatenate([batch["labels"][batch["label_weights"] > 0] for batch in batches])
    return float(np.bincount(labels).max() / len(labels))


def _show_filled(config: PretrainConfig, name: str, tokenizer: Tokenizer, sentences: Sequence[tuple[str, str]]) -> None:
    """Masks filled by an exported model; with a discriminator beside it, what that finds in sentences so filled.

    The second best filling is written there: the best one is often the word that stood there.
    """
    model, _ = from_pretrained(config.folder / name, head="masked_lm")
    filled = fill_mask(model, tokenizer, [sentence for sentence, _ in sentences], top_k=3)
    for (sentence, word), masks in zip(sentences, filled, strict=True):
        listed = ", ".join(f"{guess.token} {guess.probability:.0%}" for guess in masks[0])
        say(f"  {sentence.replace(MASK, '____')}\n    {listed} (it was: {word})")
    if config.objective == "rtd":
        detector, _ = from_pretrained(config.folder / "discriminator", head="replaced_token_detection")
        written = [
            sentence.replace(MASK, masks[0][1].token) for (sentence, _), masks in zip(sentences, filled, strict=True)
        ]
        for text, tokens in zip(written, detect_replaced(detector, tokenizer, written), strict=True):
            suspect = max((token for token in tokens if token.text.strip()), key=lambda token: token.probability)
            say(f"  {text}\n    replaced: {suspect.text} {suspect.probability:.0%}")
