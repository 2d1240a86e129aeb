"""The adapters of a low-rank fine-tuning as a folder that PEFT loads."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, write_json, write_text
from deberta_jax.finetuning.lora import Adapter, LoraModel
from deberta_jax.hub.adapter import TASK_HEADS
from deberta_jax.hub.config_file import config_of, config_text
from deberta_jax.hub.heads import Head, Model, head_of_model
from deberta_jax.hub.layout import Entry, entries, file_tensors, model_paths
from deberta_jax.hub.repository_files import ADAPTER_CONFIG, ADAPTER_FILES
from deberta_jax.hub.tensors import Tensor, as_tensor, write_tensor_file
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import TokenClassification
from deberta_jax.model.sentence import without_layers
from deberta_jax.tokenizers.tokenizer import Tokenizer

# The heads that transformers has a class for, and that are trained as a whole.
ADAPTER_HEADS: tuple[Head | None, ...] = (*TASK_HEADS.values(), "multiple_choice")


def save_adapter(
    folder: str | Path, model: LoraModel[Model], tokenizer: Tokenizer | None = None, *, base: str | Path
) -> None:
    """Write the adapters and the head of a model as a folder that PEFT, and `from_pretrained`, load.

    Args:
        folder: the folder; files of a previous adapter are replaced.
        model, tokenizer: a model with adapters, whose head is saved as a whole (`modules_to_save`), and its tokenizer.
        base: the base model, which is not saved: an id on the Hub, or a folder, whose absolute path is written.

    Raises:
        InputError: a head that transformers has no class for; a file that cannot be written.

    Example:
        >>> import jax, deberta_jax as dj
        >>> base, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> model = dj.LoraModel(base, dj.LoraConfig(rank=8), key=jax.random.key(1))
        >>> dj.save_adapter("my-adapter", model, tokenizer, base="microsoft/deberta-base-mnli")
    """
    head = head_of_model(model.base)
    encoder = without_layers(model.base) if isinstance(model.base, Deberta) else model.base
    is_projected = isinstance(encoder, TokenClassification) and encoder.projection is not None
    if head not in ADAPTER_HEADS or is_projected:
        raise InputError(
            f"transformers has no class for the head {head!r}, so PEFT cannot load it; save the merged model"
        )
    config = config_of(encoder)
    prefix = "" if head is None else "deberta."
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, entry, adapters in _adapted(model, encoder, config):
        tensors |= _matrices(prefix, entry, adapters, config)
        ranks[name] = sum(adapter.up.shape[1] for adapter in adapters.values())
    heads = {name: x for name, x in file_tensors(encoder, config).items() if head and not name.startswith("deberta.")}
    tensors |= {f"base_model.model.{name}": x for name, x in heads.items()}
    rank = model.adapters[0].up.shape[1]
    settings = {
        "peft_type": "LORA",
        "task_type": next((task for task, each in TASK_HEADS.items() if each == head), None),
        "base_model_name_or_path": _base_name(base),
        "r": rank,
        "lora_alpha": model.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": rf"(.*\.)?encoder\.layer\.\d+\.({'|'.join(map(re.escape, ranks))})",
        "modules_to_save": sorted({name.partition(".")[0] for name in heads}) or None,
        # A fused projection has the adapters of several projections, each with its own rows.
        "rank_pattern": {name: size for name, size in ranks.items() if size != rank},
        "alpha_pattern": {name: model.scale * size for name, size in ranks.items() if size != rank},
    }
    folder = make_folder(folder)
    write_tensor_file(folder / ADAPTER_FILES[0], tensors)
    write_text(folder / "config.json", config_text(config, head, dtype=str(jax.tree.leaves(model.adapters)[0].dtype)))
    write_json(folder / ADAPTER_CONFIG, settings)
    (folder / ADAPTER_FILES[1]).unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save(folder)


def _base_name(base: str | Path) -> str:
    """The name of the base model; a folder by its absolute path."""
    return str(Path(base).absolute()) if Path(base).is_dir() else str(base)


def _adapted(model: LoraModel, encoder: Any, config: DebertaConfig) -> list[tuple[str, Entry, dict[str, Adapter]]]:
    """The name of each adapted module in a layer, its entry in the table of names, and its adapters by our paths."""
    prefix = "" if isinstance(encoder, Deberta) else "deberta."
    adapters = {
        f"{prefix}encoder.layers.{target}.kernel": adapter
        for target, adapter in zip(model.targets, model.adapters, strict=True)
    }
    adapted = []
    for entry in entries(config, model_paths(encoder), prefixed=True):
        if present := {path: adapters[path] for path in entry.paths if path in adapters}:
            name = entry.name.partition("{layer}.")[2].removesuffix(".weight")
            adapted.append((name, entry, present))
    return adapted


def _matrices(prefix: str, entry: Entry, adapters: Mapping[str, Adapter], config: DebertaConfig) -> dict[str, Tensor]:
    """The matrices A [rank, in] and B [out, rank] of each layer, those of a fused projection beside each other."""
    module = f"base_model.model.{prefix}{entry.name.removeprefix('deberta.').removesuffix('.weight')}"
    tensors: dict[str, Tensor] = {}
    arrays = {path: (np.asarray(each.down[...]), np.asarray(each.up[...])) for path, each in adapters.items()}
    for number in range(config.num_hidden_layers):
        layer = config.group_of(number)
        downs = [down[layer].reshape(-1, down.shape[-1]).T for down, _ in arrays.values()]
        ups = []
        for path, (_, up) in arrays.items():
            rank = up.shape[1]
            if len(entry.paths) == 1:
                ups.append(up[layer].reshape(rank, -1).T)
            else:
                # The rows of the other projections are 0.
                ups.append(
                    entry.write([up[layer] if each == path else np.zeros_like(up[layer]) for each in entry.paths])
                )
        name = module.format(layer=number)
        tensors[f"{name}.lora_A.weight"] = as_tensor(np.concatenate(downs))
        tensors[f"{name}.lora_B.weight"] = as_tensor(np.concatenate(ups, 1))
    return tensors
