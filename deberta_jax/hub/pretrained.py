"""Model folders: `config.json`, weights and a tokenizer, as Hugging Face transformers and Microsoft have them."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import DebertaConfig, read_rtd_pair
from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, read_json
from deberta_jax.hub.download import CONFIGS, GENERATOR, resolve
from deberta_jax.hub.heads import HEADS, POSITIONS, Head, Model, architecture, head_options
from deberta_jax.hub.layout import file_tensors
from deberta_jax.hub.legacy_names import canonical
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.tensors import (
    MOST_BYTES,
    Tensor,
    read_tensors,
    weight_file,
    write_safetensors,
)
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import TokenClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class Pretrained(NamedTuple):
    """A loaded model, its tokenizer, and the names of the tensors that the file had not and that are new."""

    model: Any
    tokenizer: Tokenizer | None
    new: list[str]


def save_pretrained(
    folder: str | Path, model: Model, tokenizer: Tokenizer | None = None, *, most_bytes: int = MOST_BYTES
) -> None:
    """Write a folder that transformers loads; each file is complete or, on an error, as it was before.

    A masked language model carries its position embeddings, for which transformers has no use; its head has the names
    that transformers looks for by default (`cls.predictions`: version 4 cannot load one named as Microsoft's). Heads
    that transformers has not stand in the file under Microsoft's names. Weights of more than `most_bytes` are split
    over several files. Of several processes one writes, with arrays that it holds whole.
    """
    folder = make_folder(folder)
    config = config_of(model)
    projected = isinstance(model, TokenClassification) and model.projection is not None
    text = config_text(config, type(model), projected=projected, dtype=str(jax.tree.leaves(model)[0].dtype))
    tensors = file_tensors(model, config, head="cls")
    write_safetensors(folder, tensors, most_bytes, beside={"config.json": text})
    if tokenizer is not None:
        tokenizer.save(folder)


def config_of(model: Model) -> DebertaConfig:
    return model.config if isinstance(model, Deberta) else model.deberta.config


def config_text(config: DebertaConfig, kind: Any, *, projected: bool = False, dtype: str) -> str:
    """`config.json`, with what transformers wants beside the architecture.

    Labels of tokens after a dense layer (`projected`) it has not, nor multiple choice by version 1.
    """
    name = architecture(config, Deberta if projected else kind)
    values = config.to_dict() | {"architectures": [name], "dtype": dtype}
    if kind is MaskedLM:
        # The head's names are `cls.predictions`, not `lm_predictions`.
        values["legacy"] = True
    return json.dumps(values, indent=2) + "\n"


def from_pretrained(
    name: str | Path,
    head: Head | None = None,
    *,
    labels: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    generator: bool = False,
    revision: str | None = None,
    token: str | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Any, Tokenizer | None]:
    """Load a model folder or a model of the Hugging Face hub, and its tokenizer where it has one.

    `head` names what stands on the encoder (nothing by default). "masked_lm" decodes through the enhanced mask decoder
    where the file holds its positions, and says so where not; `generator` takes the generator of a replaced-token
    detection pair. `labels` are those of a classifier; where they are others than the file's, and where the file has no
    such head, the head is initialised by `key` (seed 0 without one), which is said by name.

    Parameters are of `param_dtype`; `dtype` is what the model computes in, theirs by default. On a `mesh` each
    parameter goes straight to its devices; the host holds one tensor at a time. `revision` and `token` are the hub's.
    Raises `InputError` for what is no model folder, lists all tensors that do not fit, and loads nothing then.
    """
    seeded = jax.random.key(0) if key is None else key
    loaded = load_pretrained(
        resolve(name, revision=revision, token=token, generator=generator),
        head,
        labels=labels,
        dtype=dtype,
        param_dtype=param_dtype,
        mesh=mesh,
        generator=generator,
        key=seeded,
    )
    if loaded.new:
        _log.warning("%s: has no %s: newly initialised, to be trained", name, ", ".join(loaded.new))
    return loaded.model, loaded.tokenizer


def load_pretrained(
    folder: Path,
    head: Head | None = None,
    *,
    labels: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    generator: bool = False,
    key: PRNGKeyArray | None = None,
) -> Pretrained:
    """As `from_pretrained`, of a local folder; without `key` a head that the file has not is an error."""
    if head is not None and head not in tuple(HEADS):
        raise InputError(f"no head {head!r}; there are {', '.join(str(name) for name in HEADS)}")
    dtype = None if dtype is None else _floating("dtype", dtype)
    param_dtype = _floating("param_dtype", param_dtype)
    config, tensors, source = read_folder(folder, generator=generator)
    config, tensors = labelled(config, tensors, head, labels)
    options: dict[str, Any] = {"dtype": dtype, **head_options(head, tensors)}
    if head == "masked_lm":
        if POSITIONS not in tensors:
            _log.warning(
                "%s: holds no position embeddings, so masks are filled without the enhanced mask decoder, from the "
                "last layer",
                folder,
            )
        if any(name.startswith("mask_predictions.") for name in tensors):
            _log.warning(
                "%s: is the discriminator of a pair, which was not trained to fill masks; generator=True (--generator) "
                "takes the one that was",
                folder,
            )

    def build(key: PRNGKeyArray) -> Any:
        return HEADS[head].model(config, key=key, **options)

    places = None if mesh is None else shardings(jax.eval_shape(build, jax.random.key(0)), mesh)
    model, new = import_tensors(build, config, tensors, source=source, key=key, shardings=places, dtype=param_dtype)
    return Pretrained(model, Tokenizer(folder) if has_tokenizer(folder) else None, new)


def read_folder(
    folder: Path, *, generator: bool = False, generator_folder: Path | None = None
) -> tuple[DebertaConfig, dict[str, Tensor], Path]:
    """The config of a model folder, its tensors by their present-day names, unread, and the file that they are in.

    Where the config names no labels they are numbered, as many as the file's classifier has. Tables that are kept as
    the difference to a generator's are added to that, which is in the same folder or in one of its own.
    """
    config = _read_config(folder, generator=generator)
    own = folder / GENERATOR
    source = own if generator and own.is_file() else weight_file(folder)
    if generator and not has_generator(folder):
        raise InputError(f"{folder}: holds no generator: {GENERATOR} is wanted")
    tensors = read_tensors(source)
    beside = folder if own.is_file() else generator_folder
    others = None if beside is None else partial(_generator_tensors, beside)
    named = canonical(tensors, config, source=source, generator=generator, generator_tensors=others)
    if generator:
        config = _as_deep(config, named)
    kept = named.get("classifier.weight")
    if kept is not None and config.labels == DebertaConfig.labels and kept.shape and kept.shape[0]:
        config = dataclasses.replace(config, labels=_numbered(kept.shape[0]))
    return config, named, source


def read_generator(folder: Path) -> tuple[DebertaConfig, dict[str, Tensor], Path]:
    """As `read_folder`, of a generator: the one beside a discriminator, or one with a folder of its own."""
    if has_generator(folder):
        return read_folder(folder, generator=True)
    config = _read_config(folder, generator=True)
    source = weight_file(folder)
    named = canonical(read_tensors(source), config, source=source, generator=True)
    if any(name.startswith("mask_predictions.") for name in named):
        raise InputError(f"{source}: is a discriminator, and no generator is beside it")
    return _as_deep(config, named), named, source


def has_generator(folder: Path) -> bool:
    """Whether a folder holds a discriminator's generator, in a file of its own or in that of the pair."""
    if (folder / GENERATOR).is_file():
        return True
    return any(name.startswith("generator.") for name in read_tensors(weight_file(folder)))


def _generator_tensors(folder: Path) -> Mapping[str, Tensor]:
    own = folder / GENERATOR
    return read_tensors(own if own.is_file() else weight_file(folder))


def _as_deep(config: DebertaConfig, named: Mapping[str, Tensor]) -> DebertaConfig:
    """A generator may have the config of its discriminator, and half of its layers (spec 4.1)."""
    depth = len({name.split(".")[3] for name in named if name.startswith("deberta.encoder.layer.")})
    return dataclasses.replace(config, num_hidden_layers=max(depth, 1))


def _read_config(folder: Path, *, generator: bool) -> DebertaConfig:
    found = [folder / name for name in CONFIGS if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder / CONFIGS[0]}: no such file; a model folder has it, or Microsoft's {CONFIGS[1]}")
    values = read_json(found[0])
    try:
        if "generator" in values and "discriminator" in values:
            first, second, _ = read_rtd_pair(found[0])
            return first if generator else second
        return DebertaConfig.from_dict(values)
    except InputError as error:
        raise InputError(f"{found[0]}: {str(error).removeprefix('config: ').removeprefix(f'{found[0]}: ')}") from None


def labelled(
    config: DebertaConfig, tensors: Mapping[str, Tensor], head: Head | None, labels: Sequence[str] | None
) -> tuple[DebertaConfig, dict[str, Tensor]]:
    """The config with the labels wanted, else those of the file; a classifier of other labels is left in the file."""
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    if head not in ("sequence_classification", "token_classification"):
        if labels is not None:
            raise InputError(f"labels are those of a classifier; head is {head!r}")
        kept = tensors.get("classifier.weight")
        # Choices and entities have one score each.
        alone = kept is None or kept.shape[:1] == (1,)
        unlabelled = dataclasses.replace(config, labels=DebertaConfig.labels, problem_type=None)
        return unlabelled, dict(tensors) if alone else without
    if labels is None:
        return config, dict(tensors)
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels) or not labels:
        raise InputError(f"labels must be a list of names, not {labels!r}")
    if len(set(labels)) != len(labels):
        raise InputError(f"labels must differ from each other, not {', '.join(labels)}")
    wanted, unnamed = tuple(labels), config.labels == _numbered(len(config.labels))
    if len(wanted) == len(config.labels) and (unnamed or set(wanted) == set(config.labels)):
        return dataclasses.replace(config, labels=wanted if unnamed else config.labels), dict(tensors)
    return dataclasses.replace(config, labels=wanted, problem_type=None), without


def _numbered(number: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{index}" for index in range(number))


def _floating(name: str, dtype: DTypeLike) -> Any:
    """A dtype that parameters can have here."""
    try:
        known = jax.numpy.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jax.numpy.issubdtype(known, jax.numpy.floating):
        raise InputError(f"{name} is {dtype!r}; a floating type such as float32 or bfloat16 is wanted")
    if jax.dtypes.canonicalize_dtype(known) != known:
        raise InputError(f"{name} is {known}, which JAX has only with jax_enable_x64")
    return known
