"""A model folder: its config and its tensors under their current names, of the model or of a pair's generator."""

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.adapter import adapter_file, find_base, with_adapter
from deberta_jax.hub.config_file import numbered_labels, read_config
from deberta_jax.hub.download import GENERATOR_FILE
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.quantized import QUANTIZATION_KEYS, check_quantized
from deberta_jax.hub.sentence_modules import transformer_folder
from deberta_jax.hub.tensors import Tensor, read_tensors, weight_file
from deberta_jax.hub.training_checkpoints import check_merged
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class StoredModel(NamedTuple):
    """A model in a file: its config, its tensors by their current names, not yet read, and the file."""

    config: DebertaConfig
    tensors: dict[str, Tensor]
    source: Path


def read_folder(
    folder: Path,
    *,
    generator: bool = False,
    generator_folder: Path | None = None,
    base: str | Path | None = None,
) -> StoredModel:
    """The model of a folder, or with `generator` the generator that is stored with it.

    In a sentence-transformers folder it is the transformer. A PEFT adapter is merged into its base model, which is
    `base` or the one that the adapter names (`hub.adapter`).
    """
    transformer = transformer_folder(folder)
    base_folder = find_base(folder, base)
    if base_folder is None:
        return with_shared_layers(_read_model(transformer, generator, generator_folder))
    config, tensors, _ = _read_model(base_folder, generator, generator_folder)
    return with_shared_layers(StoredModel(*with_adapter(config, tensors, transformer), adapter_file(transformer)))


def tokenizer_folder(folder: Path, *, base: str | Path | None = None) -> Path:
    """The folder with the tokenizer of a model: that of its transformer, the folder itself, or an adapter's base."""
    transformer = transformer_folder(folder)
    for candidate in (transformer, folder):
        if has_tokenizer(candidate):
            return candidate
    return find_base(folder, base) or transformer


def _read_model(folder: Path, generator: bool, generator_folder: Path | None) -> StoredModel:
    """The model of a folder without adapters.

    If the config names no labels, they are numbered; their count is that of the file's classifier. Tables stored as the
    difference to a generator's are added to the generator's, which is in the same folder or in `generator_folder`.
    """
    config = read_config(folder, generator=generator)
    separate = folder / GENERATOR_FILE
    source = separate if generator and separate.is_file() else weight_file(folder)
    if generator and not has_generator(folder):
        raise InputError(f"{folder}: no generator; expected {GENERATOR_FILE}")
    generator_at = folder if separate.is_file() else generator_folder
    generator_tensors = None if generator_at is None else partial(_generator_tensors, generator_at)
    stored = read_tensors(source)
    check_quantized(stored, config.extra, source)
    check_merged(stored, source)
    # Settings of weights that were quantized when they were loaded, and saved in floating point.
    extra = {key: value for key, value in config.extra.items() if key not in QUANTIZATION_KEYS}
    config = dataclasses.replace(config, extra=extra)
    tensors = canonical_tensors(stored, config, source=source, generator=generator, generator_tensors=generator_tensors)
    if generator:
        config = _with_depth_of(config, tensors)
    classifier = tensors.get("classifier.weight")
    if classifier is not None and config.labels == DebertaConfig.labels and classifier.shape and classifier.shape[0]:
        config = dataclasses.replace(config, labels=numbered_labels(classifier.shape[0]))
    return StoredModel(config, tensors, source)


def read_generator(folder: Path) -> StoredModel:
    """The generator of a folder: stored with a discriminator, or in a folder of its own."""
    if has_generator(folder):
        return read_folder(folder, generator=True)
    folder = transformer_folder(folder)
    config = read_config(folder, generator=True)
    source = weight_file(folder)
    tensors = canonical_tensors(read_tensors(source), config, source=source, generator=True)
    if any(name.startswith("mask_predictions.") for name in tensors):
        raise InputError(f"{source}: a discriminator without its generator; expected {GENERATOR_FILE} in the folder")
    return with_shared_layers(StoredModel(_with_depth_of(config, tensors), tensors, source))


def with_shared_layers(stored: StoredModel) -> StoredModel:
    """The model without `num_hidden_groups` if the layers of a group differ in the file, which is logged.

    Files contain every layer. transformers trains each of them on its own.
    """
    config, tensors, source = stored
    if config.num_hidden_groups is None:
        return stored
    size = config.num_hidden_layers // config.num_groups
    for layer in range(config.num_hidden_layers):
        prefix, first = (f"deberta.encoder.layer.{number}." for number in (layer, layer - layer % size))
        for name in [name for name in tensors if layer % size and name.startswith(prefix)]:
            original = tensors.get(first + name.removeprefix(prefix))
            if original is None or not np.array_equal(tensors[name].read(), original.read(), equal_nan=True):
                _log.warning(
                    "%s: num_hidden_groups is %d, but %s differs from layer %d; loaded without parameter sharing",
                    *(source, config.num_hidden_groups, name, layer - layer % size),
                )
                return StoredModel(dataclasses.replace(config, num_hidden_groups=None), tensors, source)
    return stored


def has_generator(folder: Path) -> bool:
    """Whether a folder contains a discriminator's generator, in a separate file or in one file with it."""
    if (folder / GENERATOR_FILE).is_file():
        return True
    return any(name.startswith("generator.") for name in read_tensors(weight_file(folder)))


def _generator_tensors(folder: Path) -> Mapping[str, Tensor]:
    separate = folder / GENERATOR_FILE
    return read_tensors(separate if separate.is_file() else weight_file(folder))


def _with_depth_of(config: DebertaConfig, tensors: Mapping[str, Tensor]) -> DebertaConfig:
    """A generator may be stored with the config of its discriminator, which has twice as many layers."""
    layers = {name.split(".")[3] for name in tensors if name.startswith("deberta.encoder.layer.")}
    return config.with_depth(max(len(layers), 1))


def readable_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, None if it has none or only one that cannot be read."""
    if not has_tokenizer(folder):
        return None
    try:
        return Tokenizer(folder)
    except InputError as error:
        _log.warning("the model has no tokenizer: %s", error)
        return None
