"""The config of a model folder, and the labels of a classifier."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.config import DebertaConfig, read_rtd_pair
from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.files import read_json
from deberta_jax.hub.download import resolve
from deberta_jax.hub.foreign import check_application, check_model_type, folder_files, other_weights
from deberta_jax.hub.heads import HEADS, Head, Model, architecture
from deberta_jax.hub.quantized import QUANTIZATION_KEYS
from deberta_jax.hub.repository_files import CONFIG_FILES
from deberta_jax.hub.tensors import WEIGHT_FILES, Tensor
from deberta_jax.model.deberta import Deberta

SENTENCE_TRANSFORMERS_FILE = "config_sentence_transformers.json"


def config_of(model: Model) -> DebertaConfig:
    return model.config if isinstance(model, Deberta) else model.deberta.config


def config_text(
    config: DebertaConfig, head: Head | None, *, projected: bool = False, untied: bool = False, dtype: str
) -> str:
    """`config.json` of a model, with the keys that transformers needs beside the architecture.

    transformers has no class for token classification after a dense layer (`projected`). The output table of an
    `untied` masked language model is not its word embeddings.
    """
    values = config.to_dict() | {"architectures": [architecture(config, None if projected else head)], "dtype": dtype}
    if head == "masked_lm":
        # The names of the head begin with `cls.predictions`, not `lm_predictions`.
        values["legacy"] = True
        if untied or "tie_word_embeddings" in values:
            values["tie_word_embeddings"] = not untied
    # Version 4 reads this key, version 5 `dtype`.
    if "torch_dtype" in values:
        values["torch_dtype"] = dtype
    for key in QUANTIZATION_KEYS:
        values.pop(key, None)
    return json.dumps(values, indent=2) + "\n"


def read_config(folder: Path, *, generator: bool = False) -> DebertaConfig:
    """The config of a folder; if it describes a replaced-token detection pair, of the discriminator or `generator`.

    Raises InputError that names the file.
    """
    path, values = _read_values(folder)
    try:
        if _is_pair(values):
            generator_config, discriminator_config, _ = read_rtd_pair(path)
            return generator_config if generator else discriminator_config
        return DebertaConfig.from_dict(_with_score_function(values, folder))
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('config: ').removeprefix(f'{path}: ')}") from None


def load_config(
    name: str | Path, *, revision: str | None = None, token: str | None = None, generator: bool = False
) -> DebertaConfig:
    """The config of a folder or of a model on the Hub, without its weights (see `DebertaConfig.from_pretrained`)."""
    folder = resolve(name, revision=revision, token=token, part="config")
    config = read_config(folder, generator=generator)
    if generator and not _is_pair(_read_values(folder)[1]):
        raise InputError(
            f"{name}: its config describes one model, and only the weights give the depth of its generator; load it "
            'with from_pretrained(..., head="masked_lm", generator=True) and read `model.deberta.config`'
        )
    return config


def _read_values(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
    check_application(folder, lambda name: (folder / name).is_file())
    if path is None:
        raise InputError(f"{folder / CONFIG_FILES[0]}: no such file; {_without_config(folder)}")
    values = read_json(path)
    check_model_type(path, values)
    return path, values


def _without_config(folder: Path) -> str:
    """What to do about a folder without a config."""
    weights = [*WEIGHT_FILES, *(path.name for path in folder.glob("pytorch.model-*.bin"))]
    if present := [name for name in weights if (folder / name).is_file()]:
        return f"copy the config of the model with these weights, {present[0]}, into this folder"
    return other_weights(folder_files(folder)) or f"a model folder needs it, or {CONFIG_FILES[1]}"


def _with_score_function(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values of `config.json` with the activation of a cross-encoder, where sentence-transformers 4 writes it.

    Later versions write it in a separate file, which takes precedence.
    """
    path = folder / SENTENCE_TRANSFORMERS_FILE
    function = read_json(path).get("activation_fn") if path.is_file() else None
    if function is None:
        return values
    settings = values.get("sentence_transformers")
    settings = settings if isinstance(settings, dict) else {}
    return {**values, "sentence_transformers": {**settings, "activation_fn": function}}


def _is_pair(values: Mapping[str, Any]) -> bool:
    return "generator" in values and "discriminator" in values


def numbered_labels(count: int) -> tuple[str, ...]:
    """The labels of a classifier whose config names none."""
    return tuple(f"LABEL_{index}" for index in range(count))


def with_labels(
    config: DebertaConfig, tensors: Mapping[str, Tensor], head: Head | None, labels: Sequence[str] | None
) -> tuple[DebertaConfig, dict[str, Tensor]]:
    """The config with `labels` (by default the file's), and the tensors that a model with these labels can use.

    The tensors of a classifier with other labels are removed, so that it is initialized. Labels in another order are
    not other labels: the order of the file is kept. Heads without labels keep the tensors of a single score, as
    multiple choice and entities have it. Raises InputError for labels that are not distinct names.
    """
    classifiers = "classifier.", "text_classifier."
    without_classifier = {name: tensor for name, tensor in tensors.items() if not name.startswith(classifiers)}
    if not HEADS[head].has_labels:
        if labels is not None:
            raise InputError(f"labels are for classification heads; the head is {head!r}")
        weight = tensors.get("classifier.weight")
        has_single_score = weight is None or weight.shape[:1] == (1,)
        config = dataclasses.replace(config, labels=DebertaConfig.labels, problem_type=None)
        return config, dict(tensors) if has_single_score else without_classifier
    if labels is None:
        return config, dict(tensors)
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels) or not labels:
        raise InputError(f"labels must be a list of names, not {shorten(repr(labels))}")
    if len(set(labels)) != len(labels):
        raise InputError(f"labels must differ from each other, not {list_names(labels)}")
    are_unnamed = config.labels == numbered_labels(len(config.labels))
    if len(labels) == len(config.labels) and (are_unnamed or set(labels) == set(config.labels)):
        return dataclasses.replace(config, labels=tuple(labels) if are_unnamed else config.labels), dict(tensors)
    return dataclasses.replace(config, labels=tuple(labels), problem_type=None), without_classifier
