"""The model that fine-tuning begins with: an encoder that was pretrained, and a head for the task."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.outcomes import HEADS
from deberta_jax.hub.download import resolve
from deberta_jax.hub.heads import HEADS as MODELS
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.pretrained import labelled, read_folder
from deberta_jax.hub.tensors import Tensor
from deberta_jax.model.shardings import shardings
from deberta_jax.tasks.examples import Kind
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

# What transformers calls the use of a classifier.
_PROBLEMS: dict[Kind, str] = {
    "single_label": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}
_log = logging.getLogger(__name__)


class Start(NamedTuple):
    """A model's folder, read but for its weights."""

    config: DebertaConfig
    tensors: dict[str, Tensor]
    source: Path
    tokenizer: Tokenizer


def read_start(name: str) -> Start:
    """Of a folder or a model of the hub; raises InputError where it is none, or has no tokenizer."""
    if not name:
        raise InputError("no model is named: --model FOLDER, or owner/name on the hub")
    folder = resolve(name)
    config, tensors, source = read_folder(folder)
    if not has_tokenizer(folder):
        raise InputError(f"{name}: holds no tokenizer; put the one the model was trained with into the folder")
    return Start(config, tensors, source, Tokenizer(folder))


class ModelSpec(NamedTuple):
    """A task's model, not yet made: its config, what builds it, and what the file has of it."""

    config: DebertaConfig
    build: Any
    tensors: dict[str, Tensor]
    source: Path


def headed(start: Start, config: FinetuneConfig, kind: Kind, labels: Sequence[str]) -> ModelSpec:
    """The model with a head for a task; a head that the file has for the same labels is kept."""
    head = HEADS[kind]
    wanted = labels if kind in ("single_label", "regression", "multi_label", "token") else None
    model, tensors = labelled(start.config, start.tensors, head, wanted)
    changes: dict[str, Any] = {"problem_type": _PROBLEMS.get(kind)}
    if config.head_dropout is not None:
        changes["cls_dropout"] = config.head_dropout
    model = dataclasses.replace(model, **changes)
    options: dict[str, Any] = {"dtype": jnp.dtype(config.compute_dtype), "remat": config.remat}
    if kind == "token":
        options["projected"] = "proj.weight" in tensors and not config.from_scratch

    def build(key: PRNGKeyArray) -> Any:
        return MODELS[head].model(model, **options, key=key)

    return ModelSpec(model, build, tensors, start.source)


def first_model(model: ModelSpec, seed: int, mesh: Mesh) -> Any:
    """The model of step 0, each parameter on its devices; what the file has not is initialised by the seed."""
    # As the state of a run that begins with random weights has it.
    key, _ = jax.random.split(jax.random.key(seed))
    made, new = import_tensors(
        model.build,
        model.config,
        model.tensors,
        source=model.source,
        key=key,
        shardings=shardings(jax.eval_shape(model.build, key), mesh),
        dtype=jnp.float32,
    )
    if new and jax.process_index() == 0:
        _log.info("%s: new is %s", model.source, ", ".join(new))
    return made
