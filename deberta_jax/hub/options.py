"""The options of loading a model, for type checkers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from jax.sharding import Mesh
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import Precision
from deberta_jax.model.attention import AttentionChoice


class FolderOptions(TypedDict, total=False):
    """The further arguments of `load_pretrained`, which do not change the types that it returns."""

    labels: Sequence[str] | None
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    precision: Precision
    attention: AttentionChoice
    mesh: Mesh | None
    generator: bool
    base: str | Path | None
    key: PRNGKeyArray | None


class Options(FolderOptions, total=False):
    """The further arguments of `from_pretrained`."""

    revision: str | None
    token: str | None
