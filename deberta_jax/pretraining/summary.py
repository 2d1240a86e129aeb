"""The output of a pretraining run: its size, held-out examples, and the exported model folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.fill_mask import PredictedToken, fill_mask
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.pretraining.baselines import LabelBaselines
from deberta_jax.pretraining.curriculum import Stage
from deberta_jax.pretraining.recipes import PUBLISHED
from deberta_jax.tokenizers.special_tokens import MASK
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.sizes import Sizes


class MaskedSentence(NamedTuple):
    """A sentence with one word replaced by [MASK], and that word."""

    text: str
    word: str


def size_lines(preset: str, stages: Sequence[tuple[Stage, Sizes]]) -> list[str]:
    """Parameters, memory, tokens and FLOPs of a run, and of each of its stages."""
    lines = [f"{preset}: {stages[0][1]}"]
    for stage, size in stages:
        steps, tokens = stage.end - stage.start, stage.batch_size * stage.length
        lines += [
            f"  per step: {stage.batch_size:,} sequences of {stage.length} tokens, {tokens:,} tokens",
            f"  {steps:,} steps: {steps * tokens:,} tokens, {steps * size.step_flops:.3g} FLOP",
        ]
    return lines


def published_lines(preset: str) -> list[str]:
    """The published settings of replaced-token detection for a preset, one source per line."""
    return [
        f"  {name}: batch {run.batch_size:,}, {run.steps:,} steps, learning rate {run.learning_rate:g}, warm-up "
        f"{run.warmup:,g}, beta2 {run.beta2:g}, lambda {run.loss_weight:g} ({run.source})"
        for name, run in PUBLISHED.get(preset, {}).items()
    ]


def export_models(folder: Path, models: Mapping[str, Any], tokenizer: Tokenizer) -> list[Path]:
    """Write each model, by name, as a Hugging Face model folder in `folder`; returns these folders."""
    for name, model in models.items():
        save_pretrained(folder / name, model, tokenizer)
    return [folder / name for name in models]


def file_line(folder: Path, exported: Sequence[Path]) -> str:
    """The results of a run: the exported model folders, the curves and the metrics."""
    models = " and ".join(map(str, exported))
    return f"model: {models}; curves: {folder / 'loss.png'}; metrics: {folder / 'metrics.jsonl'}"


def accuracy_line(name: str, metrics: Mapping[str, float], baselines: LabelBaselines, tokens: str = "masked") -> str:
    """Held-out accuracy, loss and perplexity of a language model beside constant predictions."""
    return (
        f"held-out {name}: accuracy {metrics['accuracy']:.1%} at {tokens} tokens (majority-class baseline "
        f"{baselines.majority_accuracy:.1%}), loss {metrics['loss']:.3f} nats (best constant: "
        f"{baselines.constant_loss:.3f}), perplexity {metrics['perplexity']:.1f}"
    )


def masked_sentences(
    documents: Sequence[str], tokenizer: Tokenizer, number: int, seed: int = 0
) -> list[MaskedSentence]:
    """Sentences of 7 to 16 words, each with a masked word of one token, from as many documents, chosen by `seed`."""
    rng = np.random.default_rng(seed)
    sentences: list[MaskedSentence] = []
    for index in rng.permutation(len(documents)):
        words = documents[index].split("\n")[0].split(". ")[0].split()
        candidates = [k for k, word in enumerate(words) if word.isalpha() and len(tokenizer.encode(word)) == 1]
        if 7 <= len(words) <= 16 and len(candidates) > 3:
            position = int(rng.choice(candidates[1:]))
            masked = " ".join([*words[:position], MASK, *words[position + 1 :]])
            sentences.append(MaskedSentence(masked, words[position]))
        if len(sentences) == number:
            break
    return sentences


def fill_sentences(
    model: MaskedLM, tokenizer: Tokenizer, sentences: Sequence[MaskedSentence]
) -> list[list[PredictedToken]]:
    """The three most likely tokens for the mask of each sentence."""
    return [masks[0] for masks in fill_mask(model, tokenizer, [sentence.text for sentence in sentences], top_k=3)]


def filled_lines(sentences: Sequence[MaskedSentence], predictions: Sequence[Sequence[PredictedToken]]) -> list[str]:
    """Each sentence with a gap, and below it the predicted tokens and the original word."""
    lines = []
    for sentence, tokens in zip(sentences, predictions, strict=True):
        listed = ", ".join(f"{token.token} {token.probability:.0%}" for token in tokens)
        lines += [f"  {sentence.text.replace(MASK, '____')}", f"    {listed} (original: {sentence.word})"]
    return lines
