"""PEFT adapters: low-rank matrices beside the weights of a base model, merged when they are read.

Names and scales follow peft (`tuners/lora/model.py`, `utils/save_and_load.py`): W + alpha / rank * B A.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.hub.config_file import numbered_labels, read_config
from deberta_jax.hub.download import resolve
from deberta_jax.hub.heads import HEADS, Head, architecture
from deberta_jax.hub.layout import DECODER
from deberta_jax.hub.repository_files import ADAPTER_CONFIG, ADAPTER_FILES, CONFIG_FILES
from deberta_jax.hub.sentence_modules import transformer_folder
from deberta_jax.hub.tensors import ComputedTensor, Tensor, read_tensors

# The heads of peft's tasks.
TASK_HEADS: dict[str, Head | None] = {
    "SEQ_CLS": "sequence_classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "question_answering",
    "FEATURE_EXTRACTION": None,
}
# Settings that change what an adapter computes.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices", "target_parameters"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "megatron_config"),
)
# Initializations that change the weights of the base model too.
_CHANGES_BASE = re.compile(r"pissa.*|olora|corda|loftq|lora_ga")
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B)(\.default)?(?P<kind>\.weight|\.bias)?")
_WORDS = "deberta.embeddings.word_embeddings.weight"
_MAX_NAMES = 20
# The rank and the alpha of a config without them.
_DEFAULT = 8
_log = logging.getLogger(__name__)


class _Matrices(NamedTuple):
    """The matrices beside one weight: A [rank, in] and B [out, rank], for an embedding [rank, V] and [E, rank]."""

    a: Tensor
    b: Tensor
    bias: Tensor | None
    is_embedding: bool


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def find_base(folder: Path, base: str | Path | None = None, *, token: str | None = None) -> Path | None:
    """The folder of the base model of an adapter: `base` if given, else the one its config names; None without adapter.

    A folder may be named relative to the adapter's folder. Raises InputError if it cannot be found, or if `base` is
    given for a folder that is not an adapter.
    """
    folder = transformer_folder(folder)
    if not is_adapter(folder):
        if base is not None:
            raise InputError(f"{folder}: not a PEFT adapter ({ADAPTER_CONFIG}), so it takes no base model; omit base")
        return None
    values = _read_settings(folder)
    name, revision = (
        (base, None) if base is not None else (values.get("base_model_name_or_path"), values.get("revision"))
    )
    how = "pass base=FOLDER (--base FOLDER)"
    if not isinstance(name, str | Path) or not str(name):
        raise InputError(f"{folder}: a PEFT adapter whose config names no base model; {how}")
    if base is None and (folder / name).is_dir():
        return transformer_folder(folder / name)
    try:
        is_folder = Path(name).is_dir()
        base_folder = resolve(
            name, revision=revision if isinstance(revision, str) and not is_folder else None, token=token
        )
    except InputError as error:
        raise InputError(f"{folder}: a PEFT adapter without its base model; {how}: {error}") from None
    return transformer_folder(base_folder)


def with_adapter(
    config: DebertaConfig, tensors: Mapping[str, Tensor], folder: Path
) -> tuple[DebertaConfig, dict[str, Tensor]]:
    """The config and the tensors of the base model with the adapter of a folder merged into them.

    `tensors` have current names (`canonical_tensors`). Merged tensors are float32 and computed when they are read.
    Parts that were trained as a whole replace those of the base. Labels are those of `config.json` beside the adapter,
    or numbered if the adapter's classifier has another number of them; the number of words is that of the adapter's
    table, if it has one. Raises InputError for an adapter of another kind, and for tensors that do not fit the base, at
    most 20 of them by name.
    """
    values = _read_settings(folder)
    source = adapter_file(folder)
    matrices, whole = _split(read_tensors(source), source)
    merged, problems = dict(tensors), []
    for name, tensor in whole.items():
        if name in tensors and not _replaces(name, tensors[name].shape, tensor.shape):
            problems.append(f"{name} has shape {tensor.shape}, {tensors[name].shape} in the base model")
        if name not in tensors and name.startswith("deberta."):
            problems.append(f"{name} is not in the base model")
        merged[name] = tensor
    for module, parts in matrices.items():
        name = f"{module}.weight"
        if name not in merged:
            problems.append(f"{name} is not in the base model")
            continue
        rank, scale = _rank_and_scale(values, module, folder)
        if problem := _problem(name, merged[name].shape, parts, rank):
            problems.append(problem)
            continue
        merged[name] = _merged(merged[name], parts, scale)
        if parts.bias is not None:
            merged[f"{module}.bias"] = _sum(merged[f"{module}.bias"], parts.bias, scale)
    if problems:
        raise InputError(f"{source}: {len(problems)} tensors do not fit the base model: {_listed(problems)}")
    _warn_of_missing(values, whole, source)
    if _WORDS in tensors and merged[_WORDS].shape != tensors[_WORDS].shape:
        config = dataclasses.replace(config, vocab_size=merged[_WORDS].shape[0])
    return _config(config, values, merged, folder), merged


def _read_settings(folder: Path) -> dict[str, Any]:
    """The config of an adapter; raises InputError for an adapter that is not supported."""
    path = folder / ADAPTER_CONFIG
    values = read_json(path)
    kind, initial = values.get("peft_type"), values.get("init_lora_weights")
    if kind != "LORA":
        raise InputError(
            f"{path}: peft_type is {kind!r}, only LORA is supported; merge it with peft and save the model"
        )
    if unsupported := [name for name in _UNSUPPORTED if values.get(name)]:
        raise InputError(
            f"{path}: {', '.join(unsupported)} is not supported; merge the adapter with peft (merge_and_unload) and "
            "save the model"
        )
    if isinstance(initial, str) and _CHANGES_BASE.fullmatch(initial):
        raise InputError(
            f"{path}: init_lora_weights is {initial!r}, which changes the weights of the base model too; merge the "
            "adapter with peft (merge_and_unload) and save the model"
        )
    return values


def adapter_file(folder: Path) -> Path:
    """The weight file of an adapter; raises InputError if there is none."""
    path = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: {ADAPTER_CONFIG} without weights; expected {' or '.join(ADAPTER_FILES)}")
    return path


def _split(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, _Matrices], dict[str, Tensor]]:
    """The matrices by the name of their module, and the tensors of parts that were trained as a whole."""
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        current = _current_name(name)
        if match := _LORA.fullmatch(current):
            parts.setdefault(match["module"], {})[f"{match['part']}{match['kind'] or ''}"] = tensor
        elif ".original_module." not in current:
            plain = current.replace(".modules_to_save.default", "").replace(".modules_to_save", "")
            if plain == current or plain not in whole:
                whole[plain] = tensor
    matrices, problems = {}, []
    for module, present in parts.items():
        names = set(present)
        if names in ({"A.weight", "B.weight"}, {"A.weight", "B.weight", "B.bias"}):
            bias = present.get("B.bias")
            matrices[module] = _Matrices(present["A.weight"], present["B.weight"], bias, False)
        elif names == {"embedding_A", "embedding_B"}:
            matrices[module] = _Matrices(present["embedding_A"], present["embedding_B"], None, True)
        else:
            problems.append(f"{module} has {', '.join(sorted(names))}")
    if problems:
        raise InputError(f"{source}: incomplete or unknown adapters: {_listed(problems)}")
    if not matrices and not whole:
        raise InputError(f"{source}: contains no adapter")
    return matrices, whole


def _current_name(name: str) -> str:
    """The name of a tensor without the wrappers of peft; names of the encoder begin with `deberta.`."""
    name = name.removeprefix("base_model.").removeprefix("model.").replace(".base_layer.", ".")
    return f"deberta.{name}" if name.startswith(("embeddings.", "encoder.")) else name


def _rank_and_scale(values: Mapping[str, Any], module: str, folder: Path) -> tuple[int, float]:
    """The rank of the adapter of a module, and what its product is multiplied by."""
    rank = _for_module(values, "rank_pattern", "r", module, folder)
    alpha = _for_module(values, "alpha_pattern", "lora_alpha", module, folder)
    if rank < 1:
        raise InputError(f"{folder / ADAPTER_CONFIG}: the rank of {module} is {rank}, expected at least 1")
    return int(rank), alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _for_module(values: Mapping[str, Any], pattern_key: str, key: str, module: str, folder: Path) -> int | float:
    """The value of the first pattern that matches the end of a module's name, else that of all modules."""
    path = folder / ADAPTER_CONFIG
    patterns = values.get(pattern_key) or {}
    if not isinstance(patterns, dict):
        raise InputError(f"{path}: {pattern_key} must map names to numbers, not {str(patterns)[:100]}")
    try:
        # A bare encoder was adapted under names without `deberta.`.
        match = next((x for name, x in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), None)
        match = match or next(
            (x for name, x in patterns.items() if re.match(rf"({name})$", module.removeprefix("deberta."))), None
        )
    except re.error as error:
        raise InputError(f"{path}: {pattern_key} contains an invalid pattern ({error})") from None
    value = values.get(key, _DEFAULT) if match is None else match
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{path}: {key} of {module} is {value!r}, expected a number")
    return value


def _problem(name: str, shape: tuple[int, ...], parts: _Matrices, rank: int) -> str | None:
    """Why matrices do not fit a weight; None if they do."""
    a, b = parts.a.shape, parts.b.shape
    if parts.is_embedding:
        shape = shape[::-1]
    if a == (rank, *shape[1:]) and b == (shape[0], rank, *[1] * (len(b) - 2)):
        return None
    return f"{name} has shape {shape} in the base model, its adapters {a} and {b}, with rank {rank} in {ADAPTER_CONFIG}"


def _replaces(name: str, base: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor may replace that of the base: a classifier of any size, words of any number, else equal ones."""
    if name in (_WORDS, DECODER) and len(shape) == 2:
        return shape[1:] == base[1:]
    return name.startswith("classifier.") or shape == base


def _merged(weight: Tensor, parts: _Matrices, scale: float) -> ComputedTensor:
    def read() -> np.ndarray:
        a, b = (np.asarray(tensor.read(), np.float32) for tensor in (parts.a, parts.b))
        product = np.tensordot(b.reshape(b.shape[:2]), a, 1)
        update = product.T if parts.is_embedding else product
        return np.asarray(weight.read(), np.float32) + np.float32(scale) * update

    return ComputedTensor(weight.shape, np.dtype(np.float32), read)


def _sum(tensor: Tensor, other: Tensor, scale: float) -> ComputedTensor:
    def read() -> np.ndarray:
        return np.asarray(tensor.read(), np.float32) + np.float32(scale) * np.asarray(other.read(), np.float32)

    return ComputedTensor(tensor.shape, np.dtype(np.float32), read)


def _warn_of_missing(values: Mapping[str, Any], whole: Mapping[str, Tensor], source: Path) -> None:
    """Log parts that the adapter was trained with, but that were not saved; peft lists some that no DeBERTa has."""
    saved = {name.partition(".")[0] for name in whole}
    listed = values.get("modules_to_save") or []
    parts = {part for spec in HEADS.values() for group in spec.parts for part in group}
    if missing := [name for name in dict.fromkeys(listed) if name in parts and name not in saved]:
        _log.warning(
            "%s: modules_to_save in %s lists %s, which is not in the file; that of the base model is used",
            source,
            ADAPTER_CONFIG,
            ", ".join(missing),
        )


def _config(
    config: DebertaConfig, values: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> DebertaConfig:
    """The config of the merged model: its labels, and the class that transformers loads it with."""
    if any((folder / name).is_file() for name in CONFIG_FILES):
        saved = read_config(folder)
        config = dataclasses.replace(config, labels=saved.labels, problem_type=saved.problem_type)
    classifier = tensors.get("classifier.weight")
    if classifier is not None and classifier.shape and 0 < classifier.shape[0] != len(config.labels):
        config = dataclasses.replace(config, labels=numbered_labels(classifier.shape[0]))
    task = values.get("task_type")
    if task in TASK_HEADS:
        config = dataclasses.replace(config, extra={**config.extra, "architectures": [_architecture(config, task)]})
    return config


def _architecture(config: DebertaConfig, task: str) -> str:
    return architecture(config, TASK_HEADS[task])


def _listed(names: Iterable[str]) -> str:
    """At most 20 names, and the number of the others."""
    names = list(names)
    more = f"; and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return "; ".join(names[:_MAX_NAMES]) + more
