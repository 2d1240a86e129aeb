"""sentence-transformers folders: the layers after the transformer, read and written."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, DTypeLike

from deberta_jax.config import Pooling
from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, read_json, write_json
from deberta_jax.hub.sentence_modules import MODULES, SETTINGS, TRANSFORMER_FILES, Module, check_modules, read_modules
from deberta_jax.hub.tensors import ComputedTensor, Tensor, read_tensors, weight_file, write_safetensors
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.sentence import Dense, DenseConfig, SentenceConfig, SentenceEncoder, with_layers
from deberta_jax.tokenizers.special_tokens import TOKENIZER_CONFIG

_log = logging.getLogger(__name__)
# The keys of older versions; vectors of several modes are concatenated in this order.
_OLD_POOLING: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
# The values of `pooling_mode` since version 6.
_POOLING: dict[str, Pooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# The classes of torch, and the names of `model.activation`.
_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "linear",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
_TYPE = "sentence_transformers.models.{}"
# What `SentenceConfig` has fields for.
_FIELDS = ("prompts", "default_prompt_name")
_LONGEST = 10**9


class StoredSentence(NamedTuple):
    """The layers of a sentence-transformers folder: their config, and the tensors of each dense layer, not yet read."""

    config: SentenceConfig
    dense: tuple[dict[str, Tensor], ...] = ()


def read_sentence(folder: Path) -> StoredSentence | None:
    """The layers after the transformer of a folder; None if it is not a sentence encoder.

    Models of other kinds, such as cross-encoders, are no sentence encoders. Raises InputError for modules, settings and
    tensors that are not valid or not supported.
    """
    modules = read_modules(folder)
    settings = read_json(folder / SETTINGS) if modules and (folder / SETTINGS).is_file() else {}
    if len(modules) < 2 or settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        return None
    check_modules(folder / MODULES, modules)
    pooling, include_prompt = _read_pooling(folder / modules[1].file("config.json"))
    layers: list[DenseConfig | Literal["normalize"]] = []
    tensors = []
    for module in modules[2:]:
        _check_input(folder / module.path / "config.json")
        if module.kind == "Normalize":
            layers.append("normalize")
        else:
            layer, layer_tensors = _read_dense(folder / module.path)
            layers.append(layer)
            tensors.append(layer_tensors)
    try:
        config = SentenceConfig(
            pooling,
            tuple(layers),
            include_prompt,
            **_prompts(folder / SETTINGS, settings),
            **_lengths(folder, modules[0]),
            extra={name: value for name, value in settings.items() if name not in _FIELDS},
        )
    except InputError as error:
        raise InputError(f"{folder / SETTINGS}: {error}") from None
    return StoredSentence(config, tuple(tensors))


def load_sentence(
    encoder: Deberta, stored: StoredSentence, *, source: Path, mesh: Mesh | None, dtype: DTypeLike
) -> SentenceEncoder:
    """The encoder with the layers of its folder; dense layers have `dtype` and are replicated on a `mesh`."""

    def as_array(tensor: Tensor, transpose: bool) -> Array:
        values = tensor.read()
        values = np.ascontiguousarray(values.T if transpose else values, dtype)
        if mesh is None:
            return jax.device_put(values)
        return jax.make_array_from_callback(values.shape, NamedSharding(mesh, PartitionSpec()), values.__getitem__)

    dense = []
    for config, tensors in zip(stored.config.dense, stored.dense, strict=True):
        layer = jax.eval_shape(lambda key, config=config: Dense(config, stddev=0.0, key=key), jax.random.key(0))
        layer.linear.kernel.set_value(as_array(tensors["linear.weight"], True))
        if layer.linear.bias is not None:
            layer.linear.bias.set_value(as_array(tensors["linear.bias"], False))
        dense.append(layer)
    try:
        return with_layers(encoder, stored.config, dense)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def stored_sentence(model: Any) -> StoredSentence | None:
    """The layers of a sentence encoder, to be written; None for another model."""
    if not isinstance(model, SentenceEncoder):
        return None
    dense = []
    for layer in model.dense:
        parameters = {"linear.weight": layer.linear.kernel[...].T}
        if layer.linear.bias is not None:
            parameters["linear.bias"] = layer.linear.bias[...]
        dense.append({name: _tensor(array) for name, array in parameters.items()})
    return StoredSentence(model.sentence, tuple(dense))


def write_sentence(folder: Path, stored: StoredSentence | None) -> None:
    """Write the layers beside a transformer, which is in the folder itself; `modules.json` is written last.

    Without layers, the `modules.json` of a previous model is removed. The files are those that all versions of
    sentence-transformers read.
    """
    if stored is None:
        (folder / MODULES).unlink(missing_ok=True)
        return
    config, tensors = stored.config, iter(stored.dense)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    pooling: dict[str, Any] = {name: mode in config.pooling for name, mode in _OLD_POOLING.items()}
    if list(config.pooling) != [mode for mode in _OLD_POOLING.values() if mode in config.pooling]:
        names = {mode: name for name, mode in _POOLING.items()}
        pooling = {"pooling_mode": [names[mode] for mode in config.pooling]}
    width = read_json(folder / "config.json").get("hidden_size")
    write_json(
        make_folder(folder / "1_Pooling") / "config.json",
        {"word_embedding_dimension": width, **pooling, "include_prompt": config.include_prompt},
    )
    for number, layer in enumerate(config.layers, 2):
        kind = "Dense" if isinstance(layer, DenseConfig) else "Normalize"
        modules.append((kind, f"{number}_{kind}"))
        path = make_folder(folder / f"{number}_{kind}")
        if isinstance(layer, DenseConfig):
            write_safetensors(path, next(tensors), texts={"config.json": json.dumps(_dense_values(layer)) + "\n"})
    settings = {**config.extra, "prompts": dict(config.prompts), "default_prompt_name": config.default_prompt}
    write_json(folder / SETTINGS, settings)
    lengths = {"max_seq_length": config.max_length, "do_lower_case": config.lower_case}
    write_json(folder / TRANSFORMER_FILES[0], lengths)
    values = [
        {"idx": index, "name": str(index), "path": path, "type": _TYPE.format(kind)}
        for index, (kind, path) in enumerate(modules)
    ]
    write_json(folder / MODULES, values)


def _read_pooling(path: Path) -> tuple[tuple[Pooling, ...], bool]:
    """The ways of pooling, and whether prompts are pooled too."""
    if not path.is_file():
        _log.warning("%s: no such file; texts are pooled by the mean over all tokens", path)
        return ("mean",), True
    values = read_json(path)
    modes = values.get("pooling_mode")
    if modes is None:
        old = tuple(mode for name, mode in _OLD_POOLING.items() if values.get(name) is True)
        return old or ("mean",), values.get("include_prompt") is not False
    modes = [modes] if isinstance(modes, str) else modes
    if (
        not isinstance(modes, list)
        or not modes
        or not all(isinstance(mode, str) and mode in _POOLING for mode in modes)
    ):
        raise InputError(f"{path}: pooling_mode is {modes!r}, expected some of {', '.join(_POOLING)}")
    return tuple(_POOLING[mode] for mode in modes), values.get("include_prompt") is not False


def _check_input(path: Path) -> None:
    """Raise InputError for a module that does not work on the vector of a text."""
    values = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if values.get(key) not in (None, "sentence_embedding"):
            raise InputError(f"{path}: {key} is {values[key]!r}; only sentence_embedding is supported")
    if values.get("use_residual"):
        raise InputError(f"{path}: use_residual is not supported")


def _read_dense(folder: Path) -> tuple[DenseConfig, dict[str, Tensor]]:
    """A dense layer and its tensors; raises InputError if they do not fit."""
    path = folder / "config.json"
    values = read_json(path)
    inputs, outputs = values.get("in_features"), values.get("out_features")
    if type(inputs) is not int or type(outputs) is not int or min(inputs, outputs) < 1:
        raise InputError(f"{path}: in_features and out_features are {inputs} and {outputs}, expected positive integers")
    name = values.get("activation_function", next(iter(_ACTIVATIONS)))
    if name not in _ACTIVATIONS:
        raise InputError(f"{path}: activation_function is {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
    config = DenseConfig(inputs, outputs, values.get("bias", True) is True, _ACTIVATIONS[name])
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (config.outputs, config.inputs)}
    if config.bias:
        expected["linear.bias"] = (config.outputs,)
    source = weight_file(folder)
    tensors = read_tensors(source)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != expected:
        raise InputError(f"{source}: has tensors {shapes}, expected {expected} by config.json")
    return config, tensors


def _dense_values(config: DenseConfig) -> dict[str, Any]:
    """`config.json` of a dense layer; raises InputError for an activation that torch has no class for."""
    names = {name: path for path, name in _ACTIVATIONS.items()}
    if config.activation not in names:
        raise InputError(f"the activation {config.activation!r} cannot be saved; use one of {', '.join(names)}")
    return {
        "in_features": config.inputs,
        "out_features": config.outputs,
        "bias": config.bias,
        "activation_function": names[config.activation],
    }


def _prompts(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise InputError(f"{path}: prompts must map names to texts, not {str(prompts)[:100]}")
    if not isinstance(default, str | None):
        raise InputError(f"{path}: default_prompt_name must be a name, not {default!r}")
    return {"prompts": tuple((name, text or "") for name, text in prompts.items()), "default_prompt": default}


def _lengths(folder: Path, transformer: Module) -> dict[str, Any]:
    """The maximum length of a text in tokens, and whether it is lower-cased.

    Without `max_seq_length`, which newer versions do not write, the tokenizer and the number of positions limit it.
    """
    root = folder / transformer.path
    path = next((root / name for name in TRANSFORMER_FILES if (root / name).is_file()), None)
    values = read_json(path) if path else {}
    length = values.get("max_seq_length")
    if not (length is None or (type(length) is int and length > 0)):
        raise InputError(f"{path}: max_seq_length is {length!r}, expected a positive integer")
    if length is None and (root / TOKENIZER_CONFIG).is_file():
        limit = read_json(root / TOKENIZER_CONFIG).get("model_max_length")
        length = min(limit, _positions(root, limit)) if type(limit) is int and 0 < limit < _LONGEST else None
    return {"max_length": length, "lower_case": values.get("do_lower_case") is True}


def _positions(folder: Path, default: int) -> int:
    path = folder / "config.json"
    positions = read_json(path).get("max_position_embeddings") if path.is_file() else None
    return positions if type(positions) is int and positions > 0 else default


def _tensor(array: Array) -> Tensor:
    return ComputedTensor(array.shape, np.dtype(array.dtype), lambda: np.asarray(array))
