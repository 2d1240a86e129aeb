"""The model files that a run is initialized from: reading them, checking them against the run, loading them."""

import copy
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.hub.digests import tensors_sha256
from deberta_jax.hub.download import GENERATOR_FILE, GeneratorNotFound, resolve
from deberta_jax.hub.folder import has_generator, read_folder, read_generator
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.tensors import Tensor
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.config import FRESH, generator_config
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.state import Build

_log = logging.getLogger(__name__)


class ModelFile(NamedTuple):
    """A model file: its name on the command line, its config, its tensors (not read yet) and its path."""

    name: str
    config: DebertaConfig
    tensors: dict[str, Tensor]
    path: Path


class InitialFiles(NamedTuple):
    """The files of the model and of the generator that a run is initialized from; None for a random initialization."""

    model: ModelFile | None = None
    generator: ModelFile | None = None


def find_initial_model(init_from: str | None) -> InitialFiles:
    """The file of a single model; raises InputError if it cannot be read."""
    if init_from is None:
        return InitialFiles()
    return InitialFiles(ModelFile(init_from, *read_folder(resolve(init_from))))


def find_initial_pair(init_from: str | None, generator: str | None) -> InitialFiles:
    """The files of a discriminator and its generator; raises InputError if one of them is missing or cannot be read."""
    generator_file = None
    if generator != FRESH and (init_from or generator):
        name = generator or f"the generator of {init_from}"
        generator_file = ModelFile(name, *read_generator(_generator_folder(init_from, generator)))
    if init_from is None:
        return InitialFiles(None, generator_file)
    # A discriminator may be stored as the difference to its generator.
    generator_folder = None if generator_file is None else generator_file.path.parent
    model_file = ModelFile(init_from, *read_folder(resolve(init_from), generator_folder=generator_folder))
    return InitialFiles(model_file, generator_file)


def weights_digest(files: InitialFiles) -> str:
    """A digest of the tensors that a run is initialized from; empty for a random initialization."""
    return tensors_sha256(file.tensors if file else None for file in files)


def initial_config(files: InitialFiles, model: DebertaConfig, tokenizer: Tokenizer, preset: str) -> DebertaConfig:
    """`model` with the vocabulary size of the files; raises InputError if they do not fit model or tokenizer."""
    first = files.model or files.generator
    if first is None:
        return model
    model = dataclasses.replace(model, vocab_size=first.config.vocab_size)
    if files.model is not None:
        _check_file(files.model, model, tokenizer, preset)
    if files.generator is not None:
        _check_file(files.generator, generator_config(model), tokenizer, f"the generator of {preset}")
    return model


def load_file(build: Build, config: DebertaConfig, file: ModelFile, key: PRNGKeyArray, mesh: Mesh) -> Any:
    """The model that `build` makes with the weights of a file; missing parts of the head are initialized with `key`."""
    model_shardings = shardings(jax.eval_shape(build, key), mesh)
    model, new = import_tensors(
        build, config, file.tensors, source=file.path, key=key, shardings=model_shardings, dtype=jnp.float32
    )
    if new:
        _log.warning("%s: not in the file, initialized randomly: %s", file.path, list_names(new))
    return model


def _generator_folder(init_from: str | None, generator: str | None) -> Path:
    name = str(generator or init_from)
    try:
        # A hub model is downloaded with the generator file beside it.
        folder = resolve(name, generator=True)
    except GeneratorNotFound as error:
        # Offline, a hub model that is itself a generator looks like a discriminator whose generator is not cached.
        if error.offline and not generator:
            raise
        folder = resolve(name)
    if generator or has_generator(folder):
        return folder
    sibling = folder.parent / "generator"
    raise InputError(
        f"{name}: no generator in this folder ({GENERATOR_FILE}); add --generator "
        f"{sibling if sibling.is_dir() else 'NAME'}, or --generator {FRESH} to initialize one randomly"
    )


def _check_file(file: ModelFile, expected: DebertaConfig, tokenizer: Tokenizer, preset: str) -> None:
    if differences := list(_differences(expected, file.config)):
        advice = _advice(expected, file.config)
        if len(differences) > len(advice):
            advice = ["use the recipe of this model"]
        raise InputError(f"{file.name}: not {preset}: {'; '.join(differences)}; {' and '.join(advice)}")
    if tokenizer.vocab_size > file.config.vocab_size:
        raise InputError(
            f"{file.name}: {file.config.vocab_size} tokens, but the tokenizer {tokenizer.path} has "
            f"{tokenizer.vocab_size}; use the model's own with --tokenizer"
        )
    folder = file.path.parent
    if has_tokenizer(folder) and Tokenizer(folder).sha256 != tokenizer.sha256:
        raise InputError(
            f"{file.name}: its tokenizer differs from {tokenizer.path}; omit --tokenizer, or replace the tokenizer "
            f"files in {folder} if the token ids are the same"
        )


def _advice(expected: DebertaConfig, config: DebertaConfig) -> list[str]:
    """How to set the options of `pretrain` that change fields of a preset, where they differ from a file."""
    advice = []
    if expected.num_hidden_groups != config.num_hidden_groups:
        groups = config.num_hidden_groups
        advice.append("omit --num-hidden-groups" if groups is None else f"set --num-hidden-groups {groups}")
    if expected.position_biased_input != config.position_biased_input:
        advice.append(f"{'set' if config.position_biased_input else 'omit'} --absolute-positions input")
    return advice


def _differences(expected: DebertaConfig, config: DebertaConfig) -> Iterator[str]:
    """The fields that give a model other parameters than expected, with both values."""
    for field in dataclasses.fields(expected):
        expected_value, value = getattr(expected, field.name), getattr(config, field.name)
        # `dataclasses.replace` would validate; a config with this one field changed may be invalid.
        changed = copy.copy(expected)
        object.__setattr__(changed, field.name, value)
        if expected_value != value and (field.name == "vocab_size" or not expected.has_parameters_of(changed)):
            yield f"{field.name} is {value}, expected {expected_value}"
