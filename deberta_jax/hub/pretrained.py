"""Model folders: `config.json`, `model.safetensors` and a tokenizer, as Hugging Face transformers has them."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, overload

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import canonical_names, export_tensors, import_tensors
from deberta_jax.hub.sentencepiece import FILE_NAME, Tokenizer
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM

Head = Literal["masked_lm"]
WEIGHTS = "model.safetensors"
_log = logging.getLogger(__name__)
_CLASSES = {
    ("deberta", Deberta): "DebertaModel",
    ("deberta", MaskedLM): "DebertaForMaskedLM",
    ("deberta-v2", Deberta): "DebertaV2Model",
    ("deberta-v2", MaskedLM): "DebertaV2ForMaskedLM",
}


def save_pretrained(folder: str | Path, model: Deberta | MaskedLM, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that transformers loads; each file is complete or, on an error, as it was before.

    A masked language model carries its position embeddings and `lm_predictions` head, as Microsoft's files do;
    transformers reads the head (`legacy` false) and has no use for the positions.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder could be made ({error.strerror})") from None
    config = model.config if isinstance(model, Deberta) else model.deberta.config
    values = config.to_dict() | {"architectures": [_CLASSES[config.model_type, type(model)]], "dtype": "float32"}
    if isinstance(model, MaskedLM):
        values["legacy"] = False
    tensors = export_tensors(model, config)
    _replace(folder / "config.json", lambda path: path.write_text(json.dumps(values, indent=2) + "\n", "utf-8"))
    _replace(folder / WEIGHTS, lambda path: safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"}))
    if tokenizer is not None:
        tokenizer.save(folder)


@overload
def from_pretrained(
    folder: str | Path, head: None = None, *, dtype: DTypeLike | None = None
) -> tuple[Deberta, Tokenizer | None]: ...


@overload
def from_pretrained(
    folder: str | Path, head: Literal["masked_lm"], *, dtype: DTypeLike | None = None
) -> tuple[MaskedLM, Tokenizer | None]: ...


def from_pretrained(
    folder: str | Path, head: Head | None = None, *, dtype: DTypeLike | None = None
) -> tuple[Deberta | MaskedLM, Tokenizer | None]:
    """Load a model folder, and its tokenizer where it has one.

    `head` "masked_lm" decodes through the enhanced mask decoder where the file holds its positions, and says so where
    not. Parameters keep the float32 of training; `dtype` is what the model computes in. Raises `InputError` for a
    folder that is not a model's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a local folder with config.json and {WEIGHTS} is wanted")
    config = DebertaConfig.from_file(folder / "config.json")
    tensors = _read(folder / WEIGHTS)
    positions = "deberta.embeddings.position_embeddings.weight" in canonical_names(tensors, bare=False)
    if head == "masked_lm" and not positions:
        _log.warning(
            "%s: holds no position embeddings, so masks are filled without the enhanced mask decoder, from the last "
            "layer",
            folder,
        )

    def build(key: PRNGKeyArray) -> Deberta | MaskedLM:
        if head is None:
            return Deberta(config, dtype=dtype, key=key)
        return MaskedLM(config, enhanced_mask_decoder=positions, dtype=dtype, key=key)

    abstract = jax.eval_shape(build, jax.random.key(0))
    model = import_tensors(abstract, config, tensors, source=str(folder / WEIGHTS))
    tokenizer = Tokenizer(folder) if (folder / FILE_NAME).is_file() else None
    return jax.tree.map(jnp.asarray, model), tokenizer


def _read(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: could not be written ({error}); what stood there is unchanged") from None
    finally:
        partial.unlink(missing_ok=True)
