"""State dicts as training scripts save them: inside other values, and with the prefixes of wrappers in their names."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from deberta_jax.errors import InputError, list_names
from deberta_jax.torch_format.tensor import Tensor as TorchTensor
from deberta_jax.torch_format.unpickler import Opaque

_log = logging.getLogger(__name__)
AnyTensor = TypeVar("AnyTensor")
# Keys of a state dict in a training checkpoint; the first with tensors is read if none of them names DeBERTa's.
_STATE_KEYS = ("state_dict", "model", "module", "model_state_dict", "model_state", "net", "network", "weights")
_MAX_DEPTH = 3
_WORDS = re.compile(r"(?P<prefix>.*?)(?P<encoder>(deberta\.|bert\.)?)embeddings\.word_embeddings\.(_weight|weight)")
# Parts of names that wrappers insert anywhere, such as torch.compile.
_INSERTED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module)\.")
# Prefixes that are removed without a warning, in any combination.
_USUAL = re.compile(r"((module|model|net|network|state_dict)\.)+")
# Written beside averaged models by torch.optim.swa_utils.
_BUFFERS = ("n_averaged",)
# A pair of generator and discriminator in one file.
_PAIR = ("generator.", "discriminator.")


def state_dict(content: Any, source: str | Path) -> dict[str, TorchTensor]:
    """The tensors of a PyTorch file: a state dict, or the only one of a model in a training checkpoint."""
    if isinstance(content, Opaque):
        raise InputError(f"{source}: a whole object, {content.name}; save `model.state_dict()` with torch.save instead")
    candidates = list(_state_dicts(content, "", _MAX_DEPTH, set()))
    models = [(key, tensors) for key, tensors in candidates if any(map(_WORDS.fullmatch, tensors))]
    distinct = {frozenset((name, id(x.storage), x.offset) for name, x in tensors.items()) for _, tensors in models}
    if len(distinct) > 1:
        raise InputError(
            f"{source}: a training checkpoint with the models {list_names(key for key, _ in models)}; save one of them "
            f'alone, such as torch.save(torch.load(…)["{models[0][0]}"], "pytorch_model.bin")'
        )
    usual = [pair for key in ("", *_STATE_KEYS) for pair in candidates if pair[0] == key]
    if not models and not usual:
        raise InputError(f"{source}: contains no named tensors of a model; expected a state dict")
    return (models or usual)[0][1]


def _state_dicts(content: Any, key: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, TorchTensor]]]:
    """Every dict with tensors as values, once, and the keys that lead to it; `seen` are the dicts so far."""
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {str(name): value for name, value in content.items() if isinstance(value, TorchTensor)}
    if tensors:
        yield key, tensors
    if depth:
        for name, value in content.items():
            yield from _state_dicts(value, f"{key}.{name}" if key else str(name), depth - 1, seen)


def without_wrapper(tensors: Mapping[str, AnyTensor], source: str | Path) -> dict[str, AnyTensor]:
    """The tensors of a DeBERTa, without the prefix of a wrapper around it.

    The names of the word embeddings show the prefix. A head beside the encoder is read. An unusual prefix is logged,
    and so are other tensors beside the model, which belong to the wrapper. Raises InputError for several encoders, and
    for names that would be equal without the prefix.
    """
    names = {name: _INSERTED.sub("", name) for name in tensors}
    words = [match for name in names.values() if (match := _WORDS.fullmatch(name))]
    prefixes = sorted({_without_pair(match["prefix"]) for match in words})
    if len(prefixes) > 1:
        listed = list_names(repr(prefix + "…") for prefix in prefixes)
        raise InputError(
            f"{source}: several encoders, with the prefixes {listed}; save the one to load in its own file"
        )
    prefix = prefixes[0] if prefixes else ""
    # A wrapper around the encoder alone, beside a head that is not inside it.
    encoder = "deberta." if prefix.startswith("deberta.") else ""
    if prefix and not _USUAL.fullmatch(prefix):
        _log.warning("%s: the prefix %r was removed from the names of tensors", source, prefix)
    outside = [name for name, short in names.items() if not (encoder or short.startswith(prefix))]
    inside = {_part(short.removeprefix(prefix)) for name, short in names.items() if name not in outside}
    head = {
        name: short for name in outside if (short := _head_name(names[name], prefix)) and _part(short) not in inside
    }
    outside = [name for name in outside if name not in head]
    if others := [name for name in outside if names[name] not in _BUFFERS]:
        _log.warning("%s: not read, because they are outside of the model %r: %s", source, prefix, list_names(others))
    names = {
        name: encoder + short.removeprefix(prefix) if short.startswith(prefix) else head.get(name, short)
        for name, short in names.items()
        if name not in outside and short not in _BUFFERS
    }
    _check_distinct(names.values(), prefix, source)
    return {short: tensors[name] for name, short in names.items()}


def check_merged(names: Iterable[str], source: str | Path) -> None:
    """Raise InputError if the tensors of a model include those of LoRA, which are not merged into its weights."""
    if any(".lora_A." in name or ".base_layer." in name for name in names):
        raise InputError(
            f"{source}: contains LoRA weights beside those of the model; merge them with `model.merge_and_unload()` in "
            "PEFT and save the model, or save the adapter alone with `model.save_pretrained(…)`"
        )


def _head_name(name: str, prefix: str) -> str | None:
    """The name of a tensor of a head beside an encoder with this prefix, or beside a part of the prefix; else None."""
    # This module is imported by the table of names.
    from deberta_jax.hub.layout import is_head_tensor

    parts = prefix.split(".")[:-1]
    outer = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) - 1, -1, -1)]
    shorter = [name.removeprefix(start) for start in outer if name.startswith(start)]
    return next((short for short in shorter if is_head_tensor(short)), None)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _without_pair(prefix: str) -> str:
    for part in _PAIR:
        prefix = prefix.removesuffix(part)
    return prefix


def _check_distinct(names: Iterable[str], prefix: str, source: str | Path) -> None:
    seen: set[str] = set()
    repeated = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if repeated:
        raise InputError(
            f"{source}: contains the same tensors with and without the prefix {prefix!r}: {list_names(repeated)}; keep "
            "one of them"
        )
