"""The options of `deberta-jax convert`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert the model SOURCE to another format, in the new folder TARGET.

    Between the formats of Hugging Face and Microsoft every tensor is copied bit for bit, including heads that the other
    library does not know. A masked-LM head gets the names that the library of the target looks for. The modules of
    sentence-transformers are kept. A PEFT adapter is merged into its base model.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Model folder of Hugging Face or Microsoft, owner/name on the hub, or the folder of a `pretrain` run."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """Folder to write; it must be new or empty."""
    to: Literal["huggingface", "microsoft", "checkpoint"] = "huggingface"
    """Format: config.json and safetensors, model_config.json and pytorch_model.bin, or a folder to pretrain from."""
    base: str | None = None
    """Base model of a PEFT adapter; by default the one that the adapter names."""
    generator: bool = False
    """Convert the generator of a discriminator or of a replaced-token detection run, not the discriminator."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""


OPTIONS = ConvertConfig
