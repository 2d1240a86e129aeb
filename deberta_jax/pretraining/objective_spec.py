"""What defines a pretraining objective, as one value in one file, such as `mlm.py` and `rtd.py`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import AttentionName, DebertaConfig, Precision, Remat
from deberta_jax.data.batches import MakeRow, MaskSequence, TwoKinds
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.model import module
from deberta_jax.pretraining.baselines import BaselinesOf
from deberta_jax.pretraining.config import PretrainConfig, RtdConfig
from deberta_jax.pretraining.initial import InitialFiles
from deberta_jax.pretraining.summary import MaskedSentence
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.plot import Curves


class ModelOptions(NamedTuple):
    """The model to train: its config, its compute dtype, its rematerialization, precision and attention."""

    config: DebertaConfig
    dtype: DTypeLike
    remat: Remat = "none"
    precision: Precision = "float32"
    attention: AttentionName = "auto"
    enhanced_mask_decoder: bool = True

    @property
    def arguments(self) -> module.ModelOptions:
        """The arguments of every model's constructor beside its config."""
        return {"dtype": self.dtype, "remat": self.remat, "precision": self.precision, "attention": self.attention}


class Results(NamedTuple):
    """What the report of a finished run is made from.

    `folder` is the run folder with the exported models, `baselines` gives those of the predicted tokens by the prefix
    of the names of their arrays in held-out batches.
    """

    folder: Path
    metrics: Mapping[str, float]
    baselines: BaselinesOf
    tokenizer: Tokenizer
    sentences: Sequence[MaskedSentence]


class Rows(NamedTuple):
    """How sequences become rows of batches to train on, and of held-out batches."""

    training: MakeRow | TwoKinds
    held_out: MakeRow


class ObjectiveSpec(NamedTuple):
    """A pretraining objective.

    `rows(config, unit, vocabulary)` makes the rows of batches from sequences; the number of rows of each kind must be a
    multiple of `unit`. `find_files(init_from, generator)` reads the files to initialize from; `load_files` loads them
    as the model of step 0, sharded over the mesh. `method` trains the model, and `curves` says what the first process
    plots. `models` gives the trained models to export, by folder name. `report` gives the lines to print at the end,
    and `next_command` the command to try first, from the run folder.
    """

    rows: Callable[[PretrainConfig, int, MaskingVocabulary], Rows]
    find_files: Callable[[str | None, str | None], InitialFiles]
    load_files: Callable[[InitialFiles, ModelOptions, RtdConfig, PRNGKeyArray, Mesh], Any]
    method: Callable[[ModelOptions, TrainingConfig, RtdConfig], TrainingMethod]
    curves: Callable[[BaselinesOf], Curves]
    models: Callable[[Any], dict[str, Any]]
    report: Callable[[Results], list[str]]
    next_command: Callable[[Path], str]


def masked_rows(config: PretrainConfig, unit: int, vocabulary: MaskingVocabulary) -> Rows:
    """Rows with masked tokens."""
    training, held_out = (MaskSequence(vocabulary, x) for x in (config.data.masking, config.evaluation_masking()))
    return Rows(training, held_out)
