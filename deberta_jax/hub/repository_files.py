"""The files of a repository that a model consists of, for a download or in the cache."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.files import is_file_name, read_json
from deberta_jax.hub.sentence_modules import MODULES, SETTINGS, TRANSFORMER_FILES, Module
from deberta_jax.hub.tensors import WEIGHT_FILES
from deberta_jax.tokenizers.formats import FILES, FORMATS

CONFIG_FILES = ("config.json", "model_config.json")
TOKENIZER_FILES = FILES
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Weights in one file; the others of WEIGHT_FILES are indices.
SINGLE_FILES = (*WEIGHT_FILES[::2], *ADAPTER_FILES)


class ModelFiles(NamedTuple):
    """The files of a model in a repository: its weights, None if it has none, and all others, in order of download.

    `config` is the config of a model; an adapter has none.
    """

    others: list[str]
    weights: str | None
    config: str | None
    is_adapter: bool


def model_files(files: Collection[str], modules: Sequence[Module] = ()) -> ModelFiles:
    """The files of a model among those of a repository, with `modules` those of a sentence-transformers model."""
    prefix = f"{modules[0].path}/" if modules and modules[0].path else ""
    names = {file.removeprefix(prefix) for file in files if file.startswith(prefix)}
    is_adapter = ADAPTER_CONFIG in names
    weights = next((file for file in (ADAPTER_FILES if is_adapter else WEIGHT_FILES) if file in names), None)
    config = next((file for file in CONFIG_FILES if file in names), None)
    others = [prefix + file for file in (*CONFIG_FILES, *TOKENIZER_FILES, ADAPTER_CONFIG) if file in names]
    if modules:
        others += [MODULES, SETTINGS, *(prefix + file for file in TRANSFORMER_FILES)]
        for module in modules[1:]:
            dense = next((file for file in WEIGHT_FILES if module.file(file) in files), None)
            others += [module.file(file) for file in ("config.json", dense) if file]
    others = [file for file in dict.fromkeys(others) if file in files]
    return ModelFiles(others, weights and prefix + weights, config and prefix + config, is_adapter)


def required_files(files: Collection[str], part: str, modules: Sequence[Module] = ()) -> list[str]:
    """The files of the "config" or of the "tokenizer" of a model, the one that identifies it last; none if missing."""
    kinds: list[tuple[str, ...]] = [(file,) for file in CONFIG_FILES]
    if part == "tokenizer":
        kinds = [(name, *each.others) for each in FORMATS.values() for name in each.names]
    prefixes = [f"{modules[0].path}/"] if modules and modules[0].path else []
    for prefix in (*prefixes, ""):
        for kind in kinds:
            if prefix + kind[0] in files:
                return [prefix + file for file in reversed(kind)]
    return []


def is_single(weights: str) -> bool:
    """Whether a file contains weights, and is not an index of such files."""
    return weights.rpartition("/")[2] in SINGLE_FILES


def weight_shards(folder: Path, weights: str) -> Collection[str]:
    """The files with the weights that an index lists; the file itself if it is not an index."""
    if is_single(weights):
        return [weights]
    prefix = weights.removesuffix(weights.rpartition("/")[2])
    file_of = read_json(folder / weights).get("weight_map")
    if not isinstance(file_of, dict) or not all(map(is_file_name, file_of.values())):
        raise InputError(f"{folder / weights}: expected a weight_map from tensors to names of files in the same folder")
    return sorted({prefix + file for file in file_of.values()})
