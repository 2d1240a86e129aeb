"""Old and Microsoft's own tensors under the names that Hugging Face's files have today.

What differs only in name is renamed; what differs in form (a fused projection or three, a table kept as the difference
to a generator's) is computed when it is read.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.tensors import Made, Tensor

_log = logging.getLogger(__name__)
_SELF = re.compile(r"(?P<self>deberta\.encoder\.layer\.\d+\.attention\.self\.)(?P<part>.*)")
_PARTS = ("query", "key", "value")
# Version 1's names, and those of Microsoft's later code, which adds biases of zero (peers 2.4.6).
_POSITIONS = {"pos_proj": "pos_key_proj", "pos_q_proj": "pos_query_proj"}
_DIFFERENCE = "._weight"


def canonical(
    tensors: Mapping[str, Tensor],
    config: DebertaConfig,
    *,
    source: str | Path,
    generator: bool = False,
    generator_tensors: Callable[[], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Every tensor of a file under its present-day name, those of the encoder with `deberta.` before.

    Of a replaced-token detection pair in one file the discriminator is taken, or the `generator`; a discriminator that
    holds differences is added to its generator's tables, which are in the same file or in `generator_tensors`.
    """
    pair = {name.partition(".")[0] for name in tensors} == {"generator", "discriminator"}
    mine, other = ("generator.", "discriminator.") if generator else ("discriminator.", "generator.")
    own = {name.removeprefix(mine): x for name, x in tensors.items() if not name.startswith(other)}
    renamed = _renamed(own, source)
    if any(name.endswith(_DIFFERENCE) for name in renamed):
        if pair:
            shared = {name.removeprefix(other): x for name, x in tensors.items() if name.startswith(other)}
        else:
            shared = dict(generator_tensors()) if generator_tensors else {}
        renamed = _summed(renamed, _renamed(shared, source), source)
    fused = any(name.endswith("attention.self.in_proj.weight") for name in renamed)
    if config.model_type == "deberta" and not fused:
        return _fused(renamed, config, source)
    if config.model_type == "deberta-v2" and fused:
        return _separate(renamed, config)
    return renamed


def _renamed(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    olds: dict[str, list[str]] = {}
    for name in tensors:
        olds.setdefault(_present_name(name), []).append(name)
    if twice := [" and ".join(names) for names in olds.values() if len(names) > 1]:
        raise InputError(f"{source}: holds the same tensor under two names: {'; '.join(twice)}")
    return {new: tensors[old] for new, (old,) in olds.items()}


def _present_name(name: str) -> str:
    """Without what data-parallel training puts before, with today's names of norms and of the encoder."""
    name = name.removeprefix("module.").replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias").removeprefix("deberta.").removeprefix("bert.")
    return f"deberta.{name}" if name.startswith(("embeddings.", "encoder.")) else name


def _summed(tensors: Mapping[str, Tensor], generator: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Tables that are kept as the difference to the generator's, added to them (spec 4.4)."""
    differences = {name.removesuffix(_DIFFERENCE) + ".weight" for name in tensors if name.endswith(_DIFFERENCE)}
    summed = {name: x for name, x in tensors.items() if not name.endswith(_DIFFERENCE)}
    lost = []
    for name in sorted(differences):
        difference = tensors[name.removesuffix(".weight") + _DIFFERENCE]
        shared = generator.get(name)
        if shared is not None and shared.shape != difference.shape:
            raise InputError(f"{source}: {name} is {difference.shape} off its generator's, which is {shared.shape}")
        if shared is not None:
            summed[name] = _sum(shared, difference)
        elif name in tensors:
            summed[name] = _behind(tensors[name], name, source)
        else:
            lost.append(name)
    if lost:
        raise InputError(
            f"{source}: holds only the difference to a generator's tables for {', '.join(lost)}: put the generator's "
            "weights beside it as pytorch_model.generator.bin"
        )
    return summed


def _fused(tensors: Mapping[str, Tensor], config: DebertaConfig, source: str | Path) -> dict[str, Tensor]:
    """Version 1 as Hugging Face keeps it, out of Microsoft's later form: one projection, no bias on keys."""
    result: dict[str, Tensor] = {}
    biases: list[str] = []
    unfit: list[str] = []
    for name, tensor in tensors.items():
        found = _SELF.fullmatch(name)
        before, part = (found["self"], found["part"]) if found else ("", "")
        if part == "query_proj.weight":
            parts = {f"{before}{other}_proj.weight": tensors.get(f"{before}{other}_proj.weight") for other in _PARTS}
            shapes = {other: None if x is None else x.shape for other, x in parts.items()}
            wanted = (config.hidden_size, config.hidden_size)
            unfit += [f"{other} is missing" for other, shape in shapes.items() if shape is None]
            unfit += [
                f"{other} has shape {x}, {wanted} in the model"
                for other, x in shapes.items()
                if x not in (None, wanted)
            ]
            read = lambda parts=parts: _interleave([x.read() for x in parts.values()], config)  # noqa: E731
            result[f"{before}in_proj.weight"] = Made((3 * wanted[0], wanted[1]), tensor.dtype, read)
        elif part in ("query_proj.bias", "value_proj.bias"):
            result[f"{before}{part[0]}_bias"] = tensor
        elif part in ("key_proj.bias", "pos_key_proj.bias"):
            if np.any(tensor.read()):
                biases.append(name)
        elif part not in ("key_proj.weight", "value_proj.weight"):
            for first, later in _POSITIONS.items():
                part = part.replace(f"{later}.", f"{first}.")
            result[before + part if found else name] = tensor
    if unfit:
        raise InputError(f"{source}: {len(unfit)} tensors do not fit the model: {'; '.join(unfit)}")
    if biases:
        raise InputError(
            f'{source}: model_type "deberta" has no bias on keys, and these are not zero: {", ".join(biases)}; '
            'set model_type to "deberta-v2"'
        )
    return result


def _separate(tensors: Mapping[str, Tensor], config: DebertaConfig) -> dict[str, Tensor]:
    """Version 1's fused projections as three, for a config of Microsoft's later code (peers 2.4.6)."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _SELF.fullmatch(name)
        before, part = (found["self"], found["part"]) if found else ("", "")
        if part == "in_proj.weight" and tensor.shape == (3 * config.hidden_size, config.hidden_size):
            D = config.hidden_size
            for number, its in enumerate(_PARTS):
                read = lambda x=tensor, n=number: _part(x.read(), n, config)  # noqa: E731
                result[f"{before}{its}_proj.weight"] = Made((D, *tensor.shape[1:]), tensor.dtype, read)
            result[f"{before}key_proj.bias"] = _zeros((D,), tensor.dtype)
        elif part in ("q_bias", "v_bias"):
            result[f"{before}{'query' if part[0] == 'q' else 'value'}_proj.bias"] = tensor
        elif part == "pos_proj.weight":
            result[f"{before}pos_key_proj.weight"] = tensor
            result[f"{before}pos_key_proj.bias"] = _zeros(tensor.shape[:1], tensor.dtype)
        else:
            result[before + part.replace("pos_q_proj.", "pos_query_proj.") if found else name] = tensor
    return result


def _interleave(parts: Iterable[np.ndarray], config: DebertaConfig) -> np.ndarray:
    heads = [part.reshape(config.num_attention_heads, -1, part.shape[-1]) for part in parts]
    return np.stack(heads, axis=1).reshape(-1, heads[0].shape[-1])


def _part(fused: np.ndarray, number: int, config: DebertaConfig) -> np.ndarray:
    D = fused.shape[0] // 3
    return fused.reshape(config.num_attention_heads, 3, -1, fused.shape[-1])[:, number].reshape(D, -1)


def _sum(table: Tensor, difference: Tensor) -> Made:
    dtype = np.result_type(table.dtype, difference.dtype)
    return Made(difference.shape, dtype, lambda: np.asarray(table.read() + difference.read(), dtype))


def _behind(table: Tensor, name: str, source: str | Path) -> Made:
    """A sum that was saved, which is said where it is used."""

    def read() -> np.ndarray:
        _log.warning("%s: %s is taken as it was saved, one step behind: no generator is beside it", source, name)
        return table.read()

    return Made(table.shape, table.dtype, read)


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> Made:
    return Made(shape, dtype, lambda: np.zeros(shape, dtype))
