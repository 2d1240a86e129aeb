"""What defines a pretraining objective, as one value in one file: `mlm.py` and `rtd.py`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.pretraining.config import Remat, RtdConfig
from deberta_jax.pretraining.initial import InitialFiles
from deberta_jax.pretraining.summary import MaskedSentence
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod


class ModelOptions(NamedTuple):
    """The model to train: its config, its compute dtype and its rematerialization."""

    config: DebertaConfig
    dtype: DTypeLike
    remat: Remat


class ObjectiveSpec(NamedTuple):
    """A pretraining objective.

    `find_files(init_from, generator)` reads the files to initialize from; `load_files` loads them as the model of step
    0, sharded over the mesh. `method` trains the model. `models` gives the trained models to export, by folder name.
    `report` gives the lines to print at the end: from the run folder, the held-out metrics, the accuracy of the
    majority-class baseline, and sentences with a masked word. `next_command` is the command to try first.
    """

    find_files: Callable[[str | None, str | None], InitialFiles]
    load_files: Callable[[InitialFiles, ModelOptions, RtdConfig, PRNGKeyArray, Mesh], Any]
    method: Callable[[ModelOptions, TrainingConfig, RtdConfig], TrainingMethod]
    models: Callable[[Any], dict[str, Any]]
    report: Callable[[Path, Mapping[str, float], float, Tokenizer, Sequence[MaskedSentence]], list[str]]
    next_command: Callable[[Path], str]
