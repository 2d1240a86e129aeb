"""The model that pretraining goes on from, in place of random weights."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.download import GENERATOR, resolve
from deberta_jax.hub.placing import import_tensors
from deberta_jax.hub.pretrained import read_folder, read_generator
from deberta_jax.hub.tensors import Tensor
from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair, tables, with_tables
from deberta_jax.model.shardings import shardings
from deberta_jax.training.pretrain import FRESH, PretrainConfig, generator_config

_log = logging.getLogger(__name__)


def config_with_start(config: PretrainConfig, tokenizer: Tokenizer) -> DebertaConfig:
    """The model's config with as many rows as the model to start from has; raises InputError where they do not fit."""
    plain = config.model_config(tokenizer.vocab_size)
    if not config.start:
        return plain
    there = read_folder(resolve(config.start))[0]
    if tokenizer.vocab_size > there.vocab_size:
        raise InputError(
            f"{config.start}: has {there.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; leave --tokenizer "
            "out to take the model's own"
        )
    return _fitting(dataclasses.replace(plain, vocab_size=there.vocab_size), there, config.start, config.model)


def first_model(config: PretrainConfig, model: DebertaConfig, mesh: Mesh) -> Any:
    """The model of step 0, each parameter on its devices: what `start` and `generator` name, and else new."""
    key = jax.random.key(config.training.seed)
    method = config.method(model)
    if config.objective == "mlm":
        folder = resolve(str(config.start))
        _, tensors, source = read_folder(folder)
        return _loaded(method.build, model, tensors, source, key, mesh)

    options: dict[str, Any] = {"dtype": jax.numpy.dtype(config.dtype), "remat": config.remat}
    half = generator_config(model)
    places = shardings(jax.eval_shape(method.build, key), mesh)

    def build_generator(key: PRNGKeyArray) -> MaskedLM:
        return MaskedLM(half, **options, key=key)

    def build_detector(key: PRNGKeyArray) -> ReplacedTokenDetection:
        return ReplacedTokenDetection(model, **options, key=key)

    def alone(generator: MaskedLM) -> ReplacedTokenPair:
        detector = build_detector(key)
        if config.rtd.sharing == "gdes":
            detector = with_tables(detector, tables(generator))
        return ReplacedTokenPair(generator, detector, config.rtd.sharing)

    def pair(generator: MaskedLM | None, detector: ReplacedTokenDetection) -> ReplacedTokenPair:
        if generator is None:
            generator = with_tables(build_generator(key), tables(detector))
        return ReplacedTokenPair(generator, detector, config.rtd.sharing)

    generator = None
    beside: Path | None = None
    if config.generator != FRESH:
        its, tensors, source = _generator_tensors(config)
        _fitting(half, its, str(source), f"the generator of {config.model}")
        generator = _loaded(build_generator, half, tensors, source, key, mesh)
        beside = source.parent
    if config.start is None:
        # A generator alone: the discriminator is new, and begins with its embeddings.
        return jax.jit(alone, out_shardings=places)(generator)
    _, tensors, source = read_folder(resolve(config.start), generator_folder=beside)
    detector = _loaded(build_detector, model, tensors, source, key, mesh)
    if generator is None:
        _log.warning("%s: goes on with a new generator, which begins with its embeddings", config.start)
    return jax.jit(pair, out_shardings=places)(generator, detector)


def _generator_tensors(config: PretrainConfig) -> tuple[DebertaConfig, dict[str, Tensor], Path]:
    if config.generator:
        return read_generator(resolve(config.generator))
    try:
        return read_folder(resolve(str(config.start), generator=True), generator=True)
    except InputError as error:
        if GENERATOR not in str(error):
            raise
        raise InputError(
            f"{error}: name the generator's folder with --generator, or begin a new one with --generator {FRESH}"
        ) from None


def _loaded(build: Any, config: DebertaConfig, tensors: Any, source: Path, key: PRNGKeyArray, mesh: Mesh) -> Any:
    places = shardings(jax.eval_shape(build, key), mesh)
    model, new = import_tensors(
        build, config, tensors, source=source, key=key, shardings=places, dtype=jax.numpy.float32
    )
    if new:
        _log.warning("%s: has no %s: newly initialised", source, ", ".join(new))
    return model


def _fitting(wanted: DebertaConfig, there: DebertaConfig, source: str, name: str) -> DebertaConfig:
    if not wanted.has_parameters_of(there) or wanted.vocab_size != there.vocab_size:
        raise InputError(
            f"{source}: is not {name} ({there.num_hidden_layers} layers of width {there.hidden_size}, "
            f"{there.vocab_size} tokens; wanted are {wanted.num_hidden_layers} of {wanted.hidden_size}, "
            f"{wanted.vocab_size}); name the recipe that fits it"
        )
    return wanted
