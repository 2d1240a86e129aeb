"""The model in a checkpoint of a pretraining run: read for a conversion, or written as step 0 of a new run."""

import dataclasses
import logging
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from deberta_jax.config import OBJECTIVE_KEY, DebertaConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.files import read_json
from deberta_jax.hub.config_file import config_of
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import StoredModel
from deberta_jax.hub.layout import POSITIONS, file_tensors, masked_lm_prefix
from deberta_jax.hub.load import load_model
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import generator_config
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.optimizer import make_optimizer
from deberta_jax.training.state import initial_state, model_key, with_shardings

CHECKPOINTS = "checkpoints"
# Objectives that are named in the config of a model.
_LANGUAGE_MODELS = "clm", "mt"
_SEED = 0
_log = logging.getLogger(__name__)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / CHECKPOINTS).is_dir()


def read_run(folder: Path, *, generator: bool = False) -> tuple[StoredModel, Tokenizer | None]:
    """The model of the latest checkpoint of a run, and its tokenizer.

    Of a pair it is the discriminator, with its embeddings summed, or the generator. Raises InputError without such a
    model.
    """
    settings = read_json(folder / "config.json")
    is_pair = settings.get("objective") == "rtd"
    if generator and not is_pair:
        raise InputError(f"{folder}: this run trains one model, without a generator")
    with closing(Checkpointer(folder / CHECKPOINTS, read_only=True)) as checkpointer:
        table = checkpointer.shapes().get(f"model.{'generator.' * is_pair}deberta.embeddings.word.embedding.value")
        if table is None or settings.get("model") not in list(PRESETS):
            raise InputError(f"{folder}: contains no checkpoint of a pretraining run")
        config = _config_of(settings, vocab_size=table[0][0])
        sharing = settings["rtd"]["sharing"] if is_pair else None
        decoder = settings.get("absolute_positions", "decoder") == "decoder"
        model = checkpointer.restore_model(_abstract(_build(config, sharing, enhanced_mask_decoder=decoder)))
    if is_pair:
        model = model.generator if generator else model.detector()
    stored = StoredModel(config_of(model), file_tensors(model, config_of(model)), folder)
    return stored, _tokenizer(folder, settings)


def write_run(folder: Path, model: StoredModel, tokenizer: Tokenizer | None, target: Path) -> str:
    """Write step 0 of a run of the model's objective, by default masked LM: the parameters, and a new optimizer.

    The folder will be renamed to `target`. Returns what to do with it. Raises InputError for a model that `pretrain`
    has no preset for.
    """
    groups, at_input = model.config.num_hidden_groups, model.config.position_biased_input
    objective = model.config.objective if model.config.objective in _LANGUAGE_MODELS else "mlm"
    # Masked-LM files of other tools may lack the positions, which are initialized randomly then.
    decoder = not at_input and (objective == "mlm" or POSITIONS in model.tensors)
    plain = dataclasses.replace(model.config, num_hidden_groups=None, position_biased_input=False)
    name = next((name for name, preset in PRESETS.items() if preset.has_parameters_of(plain)), None)
    if name is None:
        raise InputError(
            f"{model.source}: `deberta-jax pretrain` has no preset of this size; it trains {', '.join(PRESETS)}"
        )
    changes: dict[str, Any] = {
        "vocab_size": model.config.vocab_size,
        "num_hidden_groups": groups,
        "position_biased_input": at_input,
    }
    config = dataclasses.replace(PRESETS[name], **changes)
    mesh, build = make_mesh(data=1, fsdp=-1), _build(config, None, enhanced_mask_decoder=decoder)
    optimizer = make_optimizer(OptimizerConfig(), 1)
    loaded = load_model(build, config, model.tensors, source=model.source, key=model_key(_SEED), mesh=mesh)
    used = {"deberta", masked_lm_prefix(model.tensors, config)}
    if unused := [name for name in model.tensors if name.partition(".")[0] not in used]:
        _log.warning("%s: not used by a masked-LM run, not converted: %s", model.source, list_names(unused))
    with closing(Checkpointer(folder / CHECKPOINTS)) as checkpointer:
        checkpointer.save(initial_state(build, optimizer, _SEED, mesh, loaded), {"next_batch": 0, "settings": {}})
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    command = pretrain_command(name, target, with_tokenizer=tokenizer is not None, objective=objective)
    options = f" --num-hidden-groups {groups}" * (groups is not None)
    options += f" --absolute-positions {'input' if at_input else 'none'}" * (not decoder)
    return f"train it with `{command}{options}`"


def _config_of(settings: Mapping[str, Any], *, vocab_size: int) -> DebertaConfig:
    """The config of the model of a run."""
    objective = settings.get("objective")
    return dataclasses.replace(
        PRESETS[settings["model"]],
        vocab_size=vocab_size,
        num_hidden_groups=settings.get("num_hidden_groups"),
        position_biased_input=settings.get("absolute_positions") == "input",
        extra={OBJECTIVE_KEY: objective} if objective in _LANGUAGE_MODELS else {},
    )


def pretrain_command(preset: str, folder: Path, *, with_tokenizer: bool, objective: str = "mlm") -> str:
    """The command that trains a preset in a folder by an objective of one model; a generator by its pair's recipe."""
    recipe = preset.removesuffix("-generator")
    model = f" --model {preset}" * (recipe != preset)
    tokenizer = f" --tokenizer {shlex.quote(str(folder / 'tokenizer'))}" * with_tokenizer
    return (
        f"deberta-jax pretrain {recipe}{model} --objective {objective} --folder {shlex.quote(str(folder))}{tokenizer}"
    )


def _build(
    config: DebertaConfig, sharing: Any, *, enhanced_mask_decoder: bool = True
) -> Callable[[PRNGKeyArray], nnx.Module]:
    """The constructor of a language model or, with a way to share embeddings, of a pair."""
    if sharing is None:
        return lambda key: MaskedLM(config, enhanced_mask_decoder=enhanced_mask_decoder, key=key)
    return lambda key: initial_pair(generator_config(config), config, sharing, key=key)


def _abstract(build: Callable[[PRNGKeyArray], nnx.Module]) -> Any:
    """Shapes, dtypes and shardings of a model, split over all devices."""
    return with_shardings(jax.eval_shape(build, jax.random.key(0)), make_mesh(data=1, fsdp=-1))


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that a run was trained with; None, with a warning, if its model cannot be found any more."""
    given, init_from = settings.get("tokenizer"), settings.get("init_from")
    if given and not Path(given).exists():
        raise InputError(f"{given}: no such tokenizer; the run {folder} was trained with it")
    try:
        path = Path(given) if given else resolve(init_from) if init_from else folder / "tokenizer"
    except InputError as error:
        message = "%s; the run %s was trained with the tokenizer of this model and is converted without a tokenizer"
        _log.warning(message, error, folder)
        return None
    return Tokenizer(path) if path.exists() else None
