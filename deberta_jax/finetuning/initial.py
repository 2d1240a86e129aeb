"""The initial model of a fine-tuning run: a pretrained encoder and the head of the task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import DTypeLike

from deberta_jax.config import OWN_KEYS, AttentionName, DebertaConfig, Precision, Remat
from deberta_jax.errors import InputError
from deberta_jax.finetuning.adapter import ADAPTER_HEADS
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.layers import reinitialize_top
from deberta_jax.finetuning.layers_config import LayersConfig
from deberta_jax.finetuning.lora import LoraModel
from deberta_jax.hub.adapter import is_adapter
from deberta_jax.hub.config_file import with_labels
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import read_folder, tokenizer_folder
from deberta_jax.hub.heads import HEADS, head_options
from deberta_jax.hub.layout import POSITIONS
from deberta_jax.hub.load import load_model
from deberta_jax.hub.sentence_modules import transformer_folder
from deberta_jax.hub.tensors import Tensor
from deberta_jax.model.shardings import shardings
from deberta_jax.tokenizers.formats import check_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.state import Build, model_key


class PretrainedFolder(NamedTuple):
    """A model folder whose weights are not read yet."""

    config: DebertaConfig
    tensors: dict[str, Tensor]
    source: Path
    tokenizer: Tokenizer
    # The name of the model for those who load it again; None if the weights are not in one folder.
    name: str | None = None


def open_pretrained(name: str) -> PretrainedFolder:
    """Open a folder or a model of the hub; raises InputError if it is not a model folder or has no tokenizer."""
    if not name:
        raise InputError("no model given: use --model with a folder, or with owner/name on the Hugging Face hub")
    folder = resolve(name)
    config, tensors, source = read_folder(folder)
    tokenizer_at = tokenizer_folder(folder)
    check_tokenizer(tokenizer_at)
    transformer = transformer_folder(folder)
    name = str(transformer) if transformer != folder or Path(name).is_dir() else name
    return PretrainedFolder(config, tensors, source, Tokenizer(tokenizer_at), None if is_adapter(transformer) else name)


class ModelSpec(NamedTuple):
    """The model of a task before it is created: its config, its constructor and the tensors of the file.

    `from_scratch` means that the tensors are not used. `adapter_base` is the name of the base model for adapters that
    are saved; None if they cannot be, because PEFT cannot load the base model with this head.
    """

    config: DebertaConfig
    build: Build
    tensors: dict[str, Tensor]
    source: Path
    from_scratch: bool
    adapter_base: str | None = None
    layers: LayersConfig = LayersConfig()


def model_spec(
    pretrained: PretrainedFolder,
    kind: Kind,
    labels: Sequence[str],
    *,
    head_dropout: float | None = None,
    dtype: DTypeLike = "float32",
    remat: Remat = "none",
    precision: Precision = "float32",
    attention: AttentionName = "auto",
    from_scratch: bool = False,
    config_keys: Mapping[str, Any] | None = None,
    config_fields: Mapping[str, Any] | None = None,
    layers: LayersConfig | None = None,
) -> ModelSpec:
    """The model with the head of a kind of task. A head in the file is used if it has the same labels.

    `config_keys` are added to the keys of `config.json` that do not describe the architecture. `config_fields` are the
    fields of the config that depend on the options of the run, such as `window_pooling`. `layers` are the layers with
    fresh weights and those that are frozen.
    """
    config, tensors = with_labels(pretrained.config, pretrained.tensors, kind.head, labels or None)
    extra = {key: value for key, value in config.extra.items() if key not in OWN_KEYS} | dict(config_keys or {})
    config = dataclasses.replace(config, problem_type=kind.problem_type, extra=extra, **dict(config_fields or {}))
    if head_dropout is not None:
        config = dataclasses.replace(config, cls_dropout=head_dropout)
    options: dict[str, Any] = {
        "dtype": jnp.dtype(dtype),
        "remat": remat,
        "precision": precision,
        "attention": attention,
    }
    options |= head_options(kind.head, () if from_scratch else tensors)
    if kind.head == "masked_lm":
        # Without a head of a language model, its decoder would be random.
        options["enhanced_mask_decoder"] = POSITIONS in tensors
    head = HEADS[kind.head].model

    def build(key: jax.Array) -> Any:
        return head(config, **options, key=key)

    is_ours = options.get("projected") or config.classifier_pooling or config.window_pooling
    can_save = kind.head in ADAPTER_HEADS and not from_scratch and not is_ours
    adapter_base = pretrained.name if can_save else None
    return ModelSpec(config, build, tensors, pretrained.source, from_scratch, adapter_base, layers or LayersConfig())


def with_lora(spec: ModelSpec, lora: LoraConfig | None) -> Build:
    """The constructor of the model, with adapters if `lora` is given."""
    if lora is None:
        return spec.build
    return lambda key: LoraModel(spec.build(key), lora, key=jax.random.fold_in(key, 1))


def initial_model(spec: ModelSpec, seed: int, mesh: Mesh, lora: LoraConfig | None = None) -> Callable[[], Any] | None:
    """The function that loads the model of step 0, each parameter on its devices; None for random weights.

    Parameters that the file does not contain are initialized by the seed, and so are the layers that the spec names.
    """
    if spec.from_scratch:
        return None
    key, build = model_key(seed), with_lora(spec, lora)

    def load() -> Any:
        model = load_model(
            spec.build, spec.config, spec.tensors, source=spec.source, key=key, mesh=mesh, dtype=jnp.float32
        )
        if count := spec.layers.reinitialize_layers:
            draw = jax.jit(
                lambda model: reinitialize_top(model, spec.build, count, jax.random.fold_in(key, 2)),
                out_shardings=shardings(model, mesh),
                donate_argnums=0,
            )
            return draw(model)
        if lora is None:
            return model
        add_adapters = jax.jit(
            lambda base: LoraModel(base, lora, key=jax.random.fold_in(key, 1)),
            out_shardings=shardings(jax.eval_shape(build, key), mesh),
        )
        return add_adapters(model)

    return load
