"""`deberta-jax convert`: a model folder from one form into another, with everything that its files hold."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder, read_json
from deberta_jax.hub.download import resolve
from deberta_jax.hub.heads import HEADS, head_of_file, head_options
from deberta_jax.hub.layout import TIED, file_tensors, head_for_masks, with_head
from deberta_jax.hub.load import check_tensors, import_tensors
from deberta_jax.hub.microsoft import write_microsoft
from deberta_jax.hub.pretrained import config_of, config_text, read_folder
from deberta_jax.hub.tensors import Tensor, write_safetensors
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import generator_config
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from deberta_jax.training.state import abstract_state, initial_state

CHECKPOINTS = "checkpoints"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert the model SOURCE into the new folder TARGET.

    SOURCE is a folder of Hugging Face's form or of Microsoft's, the folder of a run of `pretrain`, or a model of the
    hub. `to` is the form of TARGET: "huggingface" is config.json and safetensors, "microsoft" is model_config.json and
    pytorch_model.bin, "checkpoint" a run's folder that `pretrain --folder TARGET` goes on from. Between the first two
    every tensor is kept, to the bit, heads that the other side does not know included; the head for masks gets the
    names that it is looked for by. `generator` takes the generator of a pair, or of a run that trains one.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    to: Literal["huggingface", "microsoft", "checkpoint"] = "huggingface"
    generator: bool = False
    revision: str | None = None


def run(config: ConvertConfig) -> None:
    """Read no more than names and shapes, check them, then write file by file."""
    target, partial = config.target, config.target.with_name(f"{config.target.name}.partial")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name another")
    if (Path(config.source) / CHECKPOINTS).is_dir():
        if config.revision:
            raise InputError(f"{config.source} is a run: --revision is for models of the hub")
        source = Path(config.source)
        model_config, tensors, tokenizer = _of_run(source, generator=config.generator)
    else:
        folder = resolve(config.source, revision=config.revision, generator=config.generator)
        model_config, tensors, source = read_folder(folder, generator=config.generator)
        tokenizer = Tokenizer(folder) if has_tokenizer(folder) else None
    head = head_of_file(model_config, tensors)
    kind, options = HEADS[head].model, head_options(head, tensors)
    projected = options.get("projected", False)
    check_tensors(lambda key: kind(model_config, key=key, **options), model_config, tensors, source=source)
    kept = _of_one_form(model_config, tensors, source)
    with lock_folder(partial):
        try:
            _empty(partial)
            if config.to == "checkpoint":
                said = _write_run(partial, target, model_config, kept, tokenizer, source)
            else:
                said = _write_model(partial, config.to, model_config, kind, projected, kept, tokenizer)
            (partial / ".lock").unlink(missing_ok=True)
            if target.exists():
                target.rmdir()
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print(f"{target}: {said.format(source=source, target=target)}")


def _empty(folder: Path) -> None:
    """Take away what a conversion that was killed has left, its lock aside."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _of_one_form(config: DebertaConfig, tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Without tied copies and buffers, and with one head for masks."""
    form = head_for_masks(tensors, config)
    others = {"cls", "lm_predictions"} - {form}
    double = [name for name in tensors if name.partition(".")[0] in others]
    if double:
        _log.warning("%s: has two heads for masks; %s are left out", source, ", ".join(double))
    left = {*TIED, *double, "deberta.embeddings.position_ids"}
    return {name: tensor for name, tensor in tensors.items() if name not in left}


def _write_model(
    folder: Path,
    form: str,
    config: DebertaConfig,
    kind: Any,
    projected: bool,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
) -> str:
    if form == "microsoft":
        write_microsoft(folder, config, tensors)
    else:
        dtype = str(tensors["deberta.embeddings.word_embeddings.weight"].dtype)
        text = config_text(config, kind, projected=projected, dtype=dtype)
        named = {with_head(name, "cls"): tensor for name, tensor in tensors.items()}
        write_safetensors(folder, named, beside={"config.json": text})
    if tokenizer is not None:
        tokenizer.save(folder)
    return f"{len(tensors)} tensors of {{source}}{'' if tokenizer else '; no tokenizer was there'}"


def _of_run(folder: Path, *, generator: bool) -> tuple[DebertaConfig, dict[str, Tensor], Tokenizer | None]:
    """The model of a run's newest checkpoint; of a pair the discriminator, with its tables summed, or the generator."""
    settings = read_json(folder / "config.json")
    paired = settings.get("objective") == "rtd"
    if generator and not paired:
        raise InputError(f"{folder}: is a run of one model, which has no generator")
    with closing(Checkpointer(folder / CHECKPOINTS, read_only=True)) as checkpointer:
        words = checkpointer.shapes().get(f"model.{'generator.' * paired}deberta.embeddings.word.embedding.value")
        if words is None or settings.get("model") not in list(PRESETS):
            raise InputError(f"{folder}: holds no checkpoint of a pretraining run")
        config = dataclasses.replace(PRESETS[settings["model"]], vocab_size=words[0][0])
        build: Any = lambda key: MaskedLM(config, key=key)  # noqa: E731
        if paired:
            sharing = settings["rtd"]["sharing"]
            build = lambda key: initial_pair(generator_config(config), config, sharing, key=key)  # noqa: E731
        model = checkpointer.restore_model(_abstract(build))
    if paired:
        model = model.generator if generator else model.detector()
    return config_of(model), file_tensors(model, config_of(model)), _tokenizer_of_run(folder, settings)


def _tokenizer_of_run(folder: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    given, start = settings.get("tokenizer"), settings.get("start")
    if given and not Path(given).exists():
        raise InputError(f"{given}: no such tokenizer, which the run {folder} was trained with; bring it back")
    try:
        path = Path(given) if given else resolve(start) if start else folder / "tokenizer"
    except InputError as error:
        _log.warning("%s; the run %s had its tokenizer from there, and is converted without", error, folder)
        return None
    return Tokenizer(path) if path.exists() else None


def _abstract(build: Any) -> Any:
    mesh = make_mesh(data=1, fsdp=-1)
    shapes = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, mesh),
    )


def _write_run(
    folder: Path,
    target: Path,
    config: DebertaConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    source: Path,
) -> str:
    """Step 0 of a run: the model's parameters, and an optimizer that has seen nothing."""
    name = next((name for name, preset in PRESETS.items() if preset.has_parameters_of(config)), None)
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
    used = {"deberta", head_for_masks(tensors, config)}
    if left := [name for name in tensors if name.partition(".")[0] not in used]:
        _log.warning("%s: a run of pretraining has no place for %s", source, ", ".join(left))
    state = initial_state(build, optimizer, 0, mesh, model)
    with closing(Checkpointer(folder / CHECKPOINTS)) as checkpointer:
        checkpointer.save(state, {"next_batch": 0, "settings": {}})
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    given = " --tokenizer {target}/tokenizer" if tokenizer else ""
    recipe = name.removesuffix("-generator")
    recipe += f" --model {name}" if name != recipe else ""
    return f"go on with `deberta-jax pretrain {recipe} --objective mlm --folder {{target}}{given}`"
