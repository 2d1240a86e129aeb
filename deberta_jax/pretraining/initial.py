"""The model that pretraining goes on from, in place of random weights."""

import copy
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.download import GENERATOR, resolve
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.pretrained import has_generator, read_folder, read_generator
from deberta_jax.hub.tensors import Tensor
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair, tables, with_tables
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.config import FRESH, PretrainConfig, generator_config
from deberta_jax.pretraining.corpus import named_tokenizer
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

# A model's config, its tensors, unread, and the file that they are in.
Read = tuple[DebertaConfig, dict[str, Tensor], Path]
_log = logging.getLogger(__name__)


def check_start(config: PretrainConfig) -> None:
    """What of `start` and `generator` can be refused before text is read."""
    tokenizer = named_tokenizer(config)
    if tokenizer and (config.start or config.generator):
        config_with_start(config, tokenizer)


def config_with_start(config: PretrainConfig, tokenizer: Tokenizer) -> DebertaConfig:
    """The model's config, with as many words as the model to go on from; raises InputError where they do not fit."""
    plain = config.model_config(tokenizer.vocab_size)
    start, generator = _read(config)
    first = start or generator
    if first is None:
        return plain
    model = dataclasses.replace(plain, vocab_size=first[0].vocab_size)
    if start is not None:
        _check(start, model, tokenizer, str(config.start), config.model)
    if generator is not None:
        name = config.generator or f"the generator beside {config.start}"
        _check(generator, generator_config(model), tokenizer, name, f"the generator of {config.model}")
    return model


def first_model(config: PretrainConfig, model: DebertaConfig, mesh: Mesh) -> Any:
    """The model of step 0, each parameter on its devices: what `start` and `generator` name, and else new."""
    start, generator = _read(config)
    build = config.method(model).build
    # As the state of a run that begins anew has it.
    key, _ = jax.random.split(jax.random.key(config.training.seed))
    if config.objective == "mlm":
        return _loaded(build, model, start, key, mesh)

    options: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    half, keys = generator_config(model), jax.random.split(key)

    def build_generator(key: PRNGKeyArray) -> MaskedLM:
        return MaskedLM(half, **options, key=key)

    def build_detector(key: PRNGKeyArray) -> ReplacedTokenDetection:
        return ReplacedTokenDetection(model, **options, key=key)

    def pair(first: Any, second: Any) -> ReplacedTokenPair:
        """Whichever of the two is new begins with the other's embeddings."""
        if second is None:
            second = with_tables(build_detector(keys[1]), tables(first))
        if first is None:
            first = with_tables(build_generator(keys[0]), tables(second))
        return ReplacedTokenPair(first, second, config.rtd.sharing)

    first = _loaded(build_generator, half, generator, keys[0], mesh)
    second = _loaded(build_detector, model, start, keys[1], mesh)
    if first is None or second is None:
        new = "generator" if first is None else "discriminator"
        _log.warning(
            "%s: goes on with a new %s, which begins with its embeddings", config.start or config.generator, new
        )
    elif config.rtd.sharing == "es" and not _equal(tables(first), tables(second)):
        _log.warning("%s: its embeddings differ from the generator's, which are both models' from now on", config.start)
    return jax.jit(pair, out_shardings=shardings(jax.eval_shape(build, key), mesh))(first, second)


def _read(config: PretrainConfig) -> tuple[Read | None, Read | None]:
    """What is named to go on from: the model, and the generator of a pair."""
    generator = None
    if config.objective == "rtd" and config.generator != FRESH and (config.start or config.generator):
        generator = read_generator(_generator_folder(config))
    if config.start is None:
        return None, generator
    # The discriminator may be kept as the difference to its generator.
    beside = None if generator is None else generator[2].parent
    return read_folder(resolve(config.start), generator_folder=beside), generator


def _generator_folder(config: PretrainConfig) -> Path:
    name = str(config.generator or config.start)
    try:
        # Of a model of the hub, with the generator that may be beside it.
        folder = resolve(name, generator=True)
    except InputError as error:
        # Off line a model that is a generator looks as one whose generator was not fetched.
        alone = bool(config.generator) and "not whole in the cache" in str(error)
        if not alone and f"has no {GENERATOR}" not in str(error):
            raise
        folder = resolve(name)
    if config.generator or has_generator(folder):
        return folder
    near = folder.parent / "generator"
    raise InputError(
        f"{name}: no generator is beside it as {GENERATOR}; name one with --generator "
        f"{near if near.is_dir() else 'NAME'}, or begin a new one with --generator {FRESH}"
    )


def _check(read: Read, wanted: DebertaConfig, tokenizer: Tokenizer, name: str, what: str) -> None:
    there, _, source = read
    if differing := list(_differing(wanted, there)):
        raise InputError(f"{name}: is not {what}: {'; '.join(differing)}; name the recipe that fits it")
    if tokenizer.vocab_size > there.vocab_size:
        raise InputError(
            f"{name}: has {there.vocab_size} tokens, the tokenizer {tokenizer.path} has {tokenizer.vocab_size}; "
            "name the model's own with --tokenizer"
        )
    if has_tokenizer(source.parent) and Tokenizer(source.parent).sha256 != tokenizer.sha256:
        raise InputError(
            f"{name}: its tokenizer is another than {tokenizer.path}; leave --tokenizer out, or exchange the files in "
            f"{source.parent} if the model's tokens are the same"
        )


def _differing(wanted: DebertaConfig, there: DebertaConfig) -> Iterator[str]:
    """The fields in which a model's parameters are not those that are wanted, with both values."""
    for field in dataclasses.fields(wanted):
        ours, theirs = getattr(wanted, field.name), getattr(there, field.name)
        # Not `replace`, which checks: this one field changed may make no model.
        changed = copy.copy(wanted)
        object.__setattr__(changed, field.name, theirs)
        if ours != theirs and (field.name == "vocab_size" or not wanted.has_parameters_of(changed)):
            yield f"{field.name} {theirs}, wanted {ours}"


def _loaded(build: Any, config: DebertaConfig, read: Read | None, key: PRNGKeyArray, mesh: Mesh) -> Any:
    if read is None:
        return None
    _, tensors, source = read
    places = shardings(jax.eval_shape(build, key), mesh)
    model, new = import_tensors(build, config, tensors, source=source, key=key, shardings=places, dtype=jnp.float32)
    if new:
        _log.warning("%s: has no %s: newly initialised", source, ", ".join(new))
    return model


def _equal(one: Any, other: Any) -> bool:
    return all(map(jnp.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
