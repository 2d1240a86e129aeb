"""Tensors of old files and of Microsoft's own files, under the names of present Hugging Face files.

A tensor that differs only in its name is renamed. A tensor that differs in its form (one fused projection or three, a
table stored as the difference to the generator's) is computed when it is read.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.hub.layout import FUSED
from deberta_jax.hub.tensors import ComputedTensor, Tensor

_log = logging.getLogger(__name__)
_ATTENTION = re.compile(r"(?P<prefix>deberta\.encoder\.layer\.\d+\.attention\.self\.)(?P<part>.*)")
# The names of version 1, and those of Microsoft's later code (docs/numerics.md, "Checkpoint formats").
_POSITIONS = {"pos_proj": "pos_key_proj", "pos_q_proj": "pos_query_proj"}
_DIFFERENCE = "._weight"


def canonical_tensors(
    tensors: Mapping[str, Tensor],
    config: DebertaConfig,
    *,
    source: str | Path,
    generator: bool = False,
    generator_tensors: Callable[[], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Every tensor of a file under its current name; names of the encoder begin with `deberta.`.

    If the file contains a replaced-token detection pair, the discriminator is taken, or the `generator`. A
    discriminator stored as differences is added to the tables of its generator, which are in the same file or in
    `generator_tensors`. `source` is the file that errors name.
    """
    is_pair = {name.partition(".")[0] for name in tensors} == {"generator", "discriminator"}
    prefix, other = ("generator.", "discriminator.") if generator else ("discriminator.", "generator.")
    selected = {name.removeprefix(prefix): x for name, x in tensors.items() if not name.startswith(other)}
    renamed = _rename(selected, source)
    if any(name.endswith(_DIFFERENCE) for name in renamed):
        if is_pair:
            shared = {name.removeprefix(other): x for name, x in tensors.items() if name.startswith(other)}
        else:
            shared = dict(generator_tensors()) if generator_tensors else {}
        renamed = _add_differences(renamed, _rename(shared, source), source)
    is_fused = any(name.endswith("attention.self.in_proj.weight") for name in renamed)
    if config.model_type == "deberta" and not is_fused:
        return _fuse_projections(renamed, config, source)
    if config.model_type == "deberta-v2" and is_fused:
        return _split_projections(renamed, config)
    return renamed


def _rename(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    old_names: dict[str, list[str]] = {}
    for name in tensors:
        old_names.setdefault(_current_name(name), []).append(name)
    if repeated := [" and ".join(names) for names in old_names.values() if len(names) > 1]:
        raise InputError(f"{source}: contains the same tensor under two names: {list_names(repeated, '; ')}")
    return {new: tensors[old] for new, (old,) in old_names.items()}


def _current_name(name: str) -> str:
    """The name without the prefix of data-parallel training, with current names of norms and of the encoder."""
    name = name.removeprefix("module.").replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias").removeprefix("deberta.").removeprefix("bert.")
    return f"deberta.{name}" if name.startswith(("embeddings.", "encoder.")) else name


def _add_differences(
    tensors: Mapping[str, Tensor], generator: Mapping[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Add tables stored as the difference to the generator's (docs/numerics.md, "Replaced-token detection")."""
    names = {name.removesuffix(_DIFFERENCE) + ".weight" for name in tensors if name.endswith(_DIFFERENCE)}
    summed = {name: x for name, x in tensors.items() if not name.endswith(_DIFFERENCE)}
    missing = []
    for name in sorted(names):
        difference = tensors[name.removesuffix(".weight") + _DIFFERENCE]
        shared = generator.get(name)
        if shared is not None and shared.shape != difference.shape:
            raise InputError(f"{source}: shape {difference.shape} of {shorten(name)}, {shared.shape} in the generator")
        if shared is not None:
            summed[name] = _sum(shared, difference)
        elif name in tensors:
            summed[name] = _saved_sum(tensors[name], name, source)
        else:
            missing.append(name)
    if missing:
        raise InputError(
            f"{source}: contains only the difference to a generator's tables for {list_names(missing)}; put the "
            "weights of the generator into the same folder as pytorch_model.generator.bin"
        )
    return summed


def _fuse_projections(tensors: Mapping[str, Tensor], config: DebertaConfig, source: str | Path) -> dict[str, Tensor]:
    """Version 1 in Hugging Face's form, from Microsoft's later one: one projection, and no bias for keys."""
    result: dict[str, Tensor] = {}
    biases: list[str] = []
    problems: list[str] = []
    for name, tensor in tensors.items():
        match = _ATTENTION.fullmatch(name)
        prefix, part = (match["prefix"], match["part"]) if match else ("", "")
        if part == "query_proj.weight":
            parts = {f"{prefix}{kind}_proj.weight": tensors.get(f"{prefix}{kind}_proj.weight") for kind in FUSED}
            problems += _projection_problems(parts, config)
            read = lambda parts=parts: _interleave([x.read() for x in parts.values()], config)  # noqa: E731
            shape = 3 * config.hidden_size, config.hidden_size
            result[f"{prefix}in_proj.weight"] = ComputedTensor(shape, tensor.dtype, read)
        elif part in ("query_proj.bias", "value_proj.bias"):
            result[f"{prefix}{part[0]}_bias"] = tensor
        elif part in ("key_proj.bias", "pos_key_proj.bias"):
            if np.any(tensor.read()):
                biases.append(name)
        elif part not in ("key_proj.weight", "value_proj.weight"):
            for first, later in _POSITIONS.items():
                part = part.replace(f"{later}.", f"{first}.")
            result[prefix + part if match else name] = tensor
    if problems:
        raise InputError(f"{source}: {len(problems)} tensors do not fit the model: {list_names(problems, '; ')}")
    if biases:
        raise InputError(
            f'{source}: model_type "deberta" has no bias for keys, but these are not zero: {list_names(biases)}; '
            'set model_type to "deberta-v2"'
        )
    return result


def _projection_problems(parts: Mapping[str, Tensor | None], config: DebertaConfig) -> list[str]:
    expected = (config.hidden_size, config.hidden_size)
    problems = [f"{name} is missing" for name, x in parts.items() if x is None]
    return problems + [
        f"{name} has shape {x.shape}, {expected} in the model"
        for name, x in parts.items()
        if x is not None and x.shape != expected
    ]


def _split_projections(tensors: Mapping[str, Tensor], config: DebertaConfig) -> dict[str, Tensor]:
    """Version 1's fused projections as three, for a config of Microsoft's later code."""
    result: dict[str, Tensor] = {}
    D = config.hidden_size
    for name, tensor in tensors.items():
        match = _ATTENTION.fullmatch(name)
        prefix, part = (match["prefix"], match["part"]) if match else ("", "")
        if part == "in_proj.weight" and tensor.shape == (3 * D, D):
            for number, kind in enumerate(FUSED):
                read = lambda x=tensor, n=number: _part(x.read(), n, config)  # noqa: E731
                result[f"{prefix}{kind}_proj.weight"] = ComputedTensor((D, D), tensor.dtype, read)
            result[f"{prefix}key_proj.bias"] = _zeros((D,), tensor.dtype)
        elif part in ("q_bias", "v_bias"):
            result[f"{prefix}{'query' if part[0] == 'q' else 'value'}_proj.bias"] = tensor
        elif part == "pos_proj.weight":
            result[f"{prefix}pos_key_proj.weight"] = tensor
            result[f"{prefix}pos_key_proj.bias"] = _zeros(tensor.shape[:1], tensor.dtype)
        else:
            result[prefix + part.replace("pos_q_proj.", "pos_query_proj.") if match else name] = tensor
    return result


def _interleave(parts: Iterable[np.ndarray], config: DebertaConfig) -> np.ndarray:
    heads = [part.reshape(config.num_attention_heads, -1, part.shape[-1]) for part in parts]
    return np.stack(heads, axis=1).reshape(-1, heads[0].shape[-1])


def _part(fused: np.ndarray, number: int, config: DebertaConfig) -> np.ndarray:
    D = fused.shape[0] // 3
    return fused.reshape(config.num_attention_heads, 3, -1, fused.shape[-1])[:, number].reshape(D, -1)


def _sum(table: Tensor, difference: Tensor) -> ComputedTensor:
    dtype = np.result_type(table.dtype, difference.dtype)
    return ComputedTensor(difference.shape, dtype, lambda: np.asarray(table.read() + difference.read(), dtype))


def _saved_sum(table: Tensor, name: str, source: str | Path) -> ComputedTensor:
    """A sum that Microsoft's training saved beside the difference; its use is logged."""

    def read() -> np.ndarray:
        _log.warning("%s: no generator; %s is used as saved, one step older than the other weights", source, name)
        return table.read()

    return ComputedTensor(table.shape, table.dtype, read)


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> ComputedTensor:
    return ComputedTensor(shape, dtype, lambda: np.zeros(shape, dtype))
