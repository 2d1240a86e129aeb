"""`deberta-jax convert`: a model folder from one form into another, with everything that its files hold."""

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from deberta_jax.config import PRESETS, DebertaConfig, read_json
from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.hub.files import make_folder
from deberta_jax.hub.layout import TIED, file_tensors, with_head
from deberta_jax.hub.microsoft import write_microsoft
from deberta_jax.hub.placing import check_tensors, import_tensors
from deberta_jax.hub.pretrained import HEADS, read_folder, write_config
from deberta_jax.hub.tensors import Tensor, write_safetensors
from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from deberta_jax.training.state import abstract_state, initial_state

CHECKPOINTS = "checkpoints"
# What tells the head of a file, the most telling first; a discriminator holds other heads besides.
_HEAD_OF = {
    "mask_predictions.dense.weight": "replaced_token_detection",
    "qa_outputs.weight": "question_answering",
    "pooler.dense.weight": "sequence_classification",
    "classifier.weight": "token_classification",
    "lm_predictions.lm_head.dense.weight": "masked_lm",
    "cls.predictions.transform.dense.weight": "masked_lm",
}
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert the model SOURCE into the new folder TARGET.

    SOURCE is a folder of Hugging Face's form or of Microsoft's, the folder of a run of `pretrain`, or a model of the
    hub. `to` is the form of TARGET: "huggingface" is config.json and safetensors, "microsoft" is model_config.json and
    pytorch_model.bin, "checkpoint" a run's folder that `pretrain --folder TARGET` goes on from. Every tensor is kept,
    to the bit, heads that the other side does not know included; the head for masks gets the names that it is looked
    for by. `generator` takes the generator of a pair.
    """

    source: tyro.conf.Positional[str]
    target: tyro.conf.Positional[Path]
    to: Literal["huggingface", "microsoft", "checkpoint"] = "huggingface"
    generator: bool = False
    revision: str | None = None


def run(config: ConvertConfig) -> None:
    """Read no more than names and shapes, check them, then write tensor by tensor."""
    target = config.target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name another")
    if (Path(config.source) / CHECKPOINTS).is_dir():
        model_config, tensors, tokenizer = _of_run(Path(config.source))
        source = Path(config.source)
    else:
        folder = resolve(config.source, revision=config.revision, generator=config.generator)
        model_config, tensors, source = read_folder(folder, generator=config.generator)
        tokenizer = Tokenizer(folder) if Tokenizer.stands_in(folder) else None
    check_tensors(lambda key: Deberta(model_config, key=key), model_config, tensors, source=source)
    kept = {name: x for name, x in tensors.items() if name not in TIED and not name.endswith(".position_ids")}
    if config.to == "checkpoint":
        _write_run(target, model_config, kept, tokenizer, source)
        return
    make_folder(target)
    if config.to == "microsoft":
        write_microsoft(target, model_config, kept)
    else:
        head = next((head for name, head in _HEAD_OF.items() if name in kept), None)
        dtype = str(kept["deberta.embeddings.word_embeddings.weight"].dtype)
        write_config(target, model_config, HEADS[head], dtype=dtype)
        write_safetensors(target, {with_head(name, "cls"): tensor for name, tensor in kept.items()})
    if tokenizer is not None:
        tokenizer.save(target)
    print(f"{target}: {len(kept)} tensors of {source}{'' if tokenizer else '; no tokenizer was there'}")


def _of_run(folder: Path) -> tuple[DebertaConfig, dict[str, Tensor], Tokenizer | None]:
    """The model of a run's newest checkpoint."""
    settings = read_json(folder / "config.json")
    with closing(Checkpointer(folder / CHECKPOINTS)) as checkpointer:
        words = checkpointer.shapes().get("model.deberta.embeddings.word.table.value")
        if words is None or settings.get("model") not in PRESETS:
            raise InputError(f"{folder}: holds no checkpoint of a pretraining run")
        config = dataclasses.replace(PRESETS[settings["model"]], vocab_size=words[0][0])
        build = lambda key: MaskedLM(config, key=key)  # noqa: E731
        model = checkpointer.restore_model(_abstract(build))
    given = settings.get("tokenizer")
    path = Path(given) if given else folder / "tokenizer"
    return config, file_tensors(model, config), Tokenizer(path) if path.exists() else None


def _abstract(build: Any) -> Any:
    mesh = make_mesh(data=1, fsdp=-1)
    shapes = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, mesh),
    )


def _write_run(
    target: Path, config: DebertaConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None, source: Path
) -> None:
    """Step 0 of a run: the model's parameters, and an optimizer that has seen nothing."""
    name = next((name for name, preset in PRESETS.items() if _same(preset, config)), None)
    if name is None:
        raise InputError(f"{source}: is no preset of `deberta-jax pretrain`, which trains {', '.join(PRESETS)}")
    config = dataclasses.replace(PRESETS[name], vocab_size=config.vocab_size)
    mesh = make_mesh(data=1, fsdp=-1)
    build = lambda key: MaskedLM(config, key=key)  # noqa: E731
    optimizer = make_optimizer(OptimizerConfig(), 1)
    abstract = abstract_state(build, optimizer, 0, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract.model)
    model, new = import_tensors(build, config, tensors, source=source, key=jax.random.key(0), shardings=places)
    if new:
        _log.warning("%s: has no %s: newly initialised", source, ", ".join(new))
    state = initial_state(build, optimizer, 0, mesh)._replace(model=model)
    make_folder(target)
    with closing(Checkpointer(target / CHECKPOINTS)) as checkpointer:
        checkpointer.save(state, {"next_batch": 0, "settings": {}})
    if tokenizer is not None:
        tokenizer.save(target / "tokenizer")
    given = f" --tokenizer {target / 'tokenizer'}" if tokenizer else ""
    print(f"{target}: go on with `deberta-jax pretrain {name} --folder {target}{given}`")


def _same(one: DebertaConfig, other: DebertaConfig) -> bool:
    """Whether the parameters of two models are the same in number, shape and use."""
    aside = {
        "extra",
        "labels",
        "problem_type",
        "vocab_size",
        "clamp_distances",
        "attention_head_size",
        "initializer_range",
    }
    aside |= {field.name for field in dataclasses.fields(one) if "dropout" in field.name or "pooler" in field.name}
    return all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in dataclasses.fields(one)
        if field.name not in aside
    )
