"""Replaced-token detection (`--objective rtd`), the objective of DeBERTa v3: a generator and a discriminator."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.inference.replaced_tokens import detect_replaced
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair, initial_pair, tables, with_tables
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.config import RtdConfig, generator_config
from deberta_jax.pretraining.initial import InitialFiles, find_initial_pair, load_file
from deberta_jax.pretraining.objective_spec import ModelOptions, ObjectiveSpec, Results, masked_rows
from deberta_jax.pretraining.replaced_token_evaluation import prior_loss
from deberta_jax.pretraining.replaced_tokens import pair_curves, replaced_token_detection
from deberta_jax.pretraining.summary import accuracy_line, fill_sentences, filled_lines
from deberta_jax.tokenizers.special_tokens import MASK
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.state import Build

# Folders of the exported models in the run folder.
DISCRIMINATOR, GENERATOR = "discriminator", "generator"
_log = logging.getLogger(__name__)


def _build(options: ModelOptions, rtd: RtdConfig) -> Build:
    generator = generator_config(options.config)
    return lambda key: initial_pair(generator, options.config, rtd.sharing, key=key, **options.arguments)


def _method(options: ModelOptions, training: TrainingConfig, rtd: RtdConfig) -> TrainingMethod:
    return replaced_token_detection(training, rtd, _build(options, rtd))


def _load_files(
    files: InitialFiles, options: ModelOptions, rtd: RtdConfig, key: PRNGKeyArray, mesh: Mesh
) -> ReplacedTokenPair:
    """The pair of step 0; a model without a file is initialized randomly, with the embeddings of the other."""
    generator_key, discriminator_key = jax.random.split(key)
    config, arguments = options.config, options.arguments
    half = generator_config(config)

    def build_generator(key: PRNGKeyArray) -> MaskedLM:
        return MaskedLM(half, key=key, **arguments)

    def build_discriminator(key: PRNGKeyArray) -> ReplacedTokenDetection:
        return ReplacedTokenDetection(config, key=key, **arguments)

    def pair(generator: MaskedLM | None, discriminator: ReplacedTokenDetection | None) -> ReplacedTokenPair:
        if discriminator is None:
            assert generator is not None
            discriminator = with_tables(build_discriminator(discriminator_key), tables(generator))
        if generator is None:
            generator = with_tables(build_generator(generator_key), tables(discriminator))
        return ReplacedTokenPair(generator, discriminator, rtd.sharing)

    generator = discriminator = None
    if files.generator is not None:
        generator = load_file(build_generator, half, files.generator, generator_key, mesh)
    if files.model is not None:
        discriminator = load_file(build_discriminator, config, files.model, discriminator_key, mesh)
    _log_changes(files, generator, discriminator, rtd)
    pair_shardings = shardings(jax.eval_shape(_build(options, rtd), key), mesh)
    return jax.jit(pair, out_shardings=pair_shardings)(generator, discriminator)


def _log_changes(files: InitialFiles, generator: Any, discriminator: Any, rtd: RtdConfig) -> None:
    """Log which model is initialized randomly, and embeddings that are not used."""
    if files.model is None and files.generator is not None:
        _log.warning(
            "%s: the layers of the discriminator are initialized randomly, its embeddings from this file",
            files.generator.name,
        )
    elif files.generator is None and files.model is not None:
        _log.warning(
            "%s: the layers of the generator are initialized randomly, its embeddings from this file", files.model.name
        )
    elif files.model is not None and rtd.sharing == "es":
        embeddings = jax.tree.leaves(tables(generator)), jax.tree.leaves(tables(discriminator))
        if not all(map(jnp.array_equal, *embeddings)):
            _log.warning("%s: embeddings replaced by the generator's (rtd.sharing es)", files.model.name)


def pair_models(pair: ReplacedTokenPair) -> dict[str, Any]:
    """The models to export; the discriminator's embedding table is written as the sum that it reads."""
    return {DISCRIMINATOR: pair.detector(), GENERATOR: pair.generator}


def _report(results: Results) -> list[str]:
    metrics, prefix = results.metrics, f"{GENERATOR}_"
    generator_metrics = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    generator, _ = from_pretrained(results.folder / GENERATOR, head="masked_lm")
    sentences, tokenizer = results.sentences, results.tokenizer
    predictions = fill_sentences(generator, tokenizer, sentences)
    # The most likely token is often the original word, so the second one is inserted.
    texts = [
        sentence.text.replace(MASK, tokens[1].token) for sentence, tokens in zip(sentences, predictions, strict=True)
    ]
    return [
        accuracy_line("generator", generator_metrics, results.baselines("")),
        f"held-out discriminator: AUC {metrics['auc']:.3f}, average precision {metrics['average_precision']:.3f} "
        f"(chance: 0.5, {metrics['replaced']:.3f}), loss {metrics['discriminator_loss']:.4f} nats (best constant: "
        f"{prior_loss(metrics['replaced']):.4f}), spread {metrics['spread']:.2f}",
        *filled_lines(sentences, predictions),
        *_detected_lines(results.folder, tokenizer, texts),
    ]


def _detected_lines(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Each text, and below it the token that the discriminator finds most likely to be replaced."""
    discriminator, _ = from_pretrained(folder / DISCRIMINATOR, head="replaced_token_detection")
    lines = []
    for text, tokens in zip(texts, detect_replaced(discriminator, tokenizer, texts), strict=True):
        suspect = max((token for token in tokens if token.text.strip()), key=lambda token: token.probability)
        lines += [f"  {text}", f"    replaced: {suspect.text} {suspect.probability:.0%}"]
    return lines


REPLACED_TOKEN_DETECTION = ObjectiveSpec(
    rows=masked_rows,
    find_files=find_initial_pair,
    load_files=_load_files,
    method=_method,
    curves=pair_curves,
    models=pair_models,
    report=_report,
    next_command=lambda folder: (
        f"deberta-jax finetune generic --model {shlex.quote(str(folder / DISCRIMINATOR))} --data DATA.csv"
    ),
)
