"""The one table of heads: class, name in transformers, and the tensors by which a file is known to contain a head.

A new head needs one entry in `HEADS`, and in `hub/layout.py` the names of its tensors.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import POSITIONS
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection

Head = Literal[
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "replaced_token_detection",
    "entity_scoring",
]
Model = (
    Deberta
    | MaskedLM
    | SequenceClassification
    | TokenClassification
    | QuestionAnswering
    | MultipleChoice
    | ReplacedTokenDetection
    | EntityScoring
)
_ONE_LABEL = ("LABEL_0",)


def _masked_lm_options(names: Collection[str]) -> dict[str, Any]:
    return {"enhanced_mask_decoder": POSITIONS in names}


def _token_options(names: Collection[str]) -> dict[str, Any]:
    return {"projected": "proj.weight" in names}


class HeadSpec(NamedTuple):
    """One head. Names of parts are the first words of tensor names, such as "pooler"."""

    model: type[Model]
    """The class of the encoder with this head."""
    architecture: str | None
    """How the name of transformers' class ends; None if transformers has no such class."""
    parts: tuple[frozenset[str], ...] = ()
    """A file contains the head if its parts include at least one of each set, and none in `without`."""
    without: frozenset[str] = frozenset()
    """Parts that a file with this head does not have."""
    has_labels: bool = False
    """Whether the outputs are the labels of the config."""
    needs_one_label: bool = False
    """Whether a file contains this head only if its config names a single, numbered label."""
    since_v2: bool = False
    """Whether transformers has the class for v2 and v3 only."""
    options: Callable[[Collection[str]], dict[str, Any]] = lambda names: {}
    """Arguments of `model` that follow from the tensor names of a file."""


def _all_of(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset({name}) for name in names)


# The most specific first: the file of a discriminator, for example, contains other heads too.
HEADS: dict[Head | None, HeadSpec] = {
    "replaced_token_detection": HeadSpec(ReplacedTokenDetection, None, _all_of("mask_predictions")),
    "question_answering": HeadSpec(QuestionAnswering, "ForQuestionAnswering", _all_of("qa_outputs")),
    "sequence_classification": HeadSpec(
        SequenceClassification,
        "ForSequenceClassification",
        # With another pooler than transformers', the classifier has another name.
        (frozenset({"pooler", "text_classifier"}), frozenset({"classifier", "text_classifier"})),
        has_labels=True,
    ),
    "multiple_choice": HeadSpec(MultipleChoice, "ForMultipleChoice", _all_of("pooler", "classifier"), since_v2=True),
    "entity_scoring": HeadSpec(
        EntityScoring, None, _all_of("proj", "classifier"), frozenset({"pooler"}), needs_one_label=True
    ),
    "token_classification": HeadSpec(
        TokenClassification,
        "ForTokenClassification",
        _all_of("classifier"),
        frozenset({"pooler"}),
        has_labels=True,
        options=_token_options,
    ),
    "masked_lm": HeadSpec(MaskedLM, "ForMaskedLM", (frozenset({"lm_predictions", "cls"}),), options=_masked_lm_options),
    None: HeadSpec(Deberta, "Model"),
}


def head_spec(head: str | None) -> HeadSpec:
    """The entry of a head, None for the bare encoder; raises InputError that lists the heads."""
    for name, spec in HEADS.items():
        if name == head:
            return spec
    known = ", ".join(name for name in HEADS if name is not None)
    raise InputError(f"unknown head {head!r}; the heads are {known}, and None for the encoder without a head")


def head_of_model(model: Model | type[Model]) -> Head | None:
    """The head of a model or of its class, the argument with which `from_pretrained` loads it; None for a `Deberta`."""
    kind = model if isinstance(model, type) else type(model)
    for head, spec in HEADS.items():
        if spec.model is kind or (head is None and issubclass(kind, Deberta)):
            return head
    raise InputError(f"{kind.__name__} is not a model with a head of `deberta_jax`")


def heads_in_file(names: Iterable[str]) -> list[Head]:
    """The heads that can be loaded from tensors of these names, the most specific first."""
    parts = {name.partition(".")[0] for name in names}
    return [
        head
        for head, spec in HEADS.items()
        if head is not None and all(group & parts for group in spec.parts) and not spec.without & parts
    ]


def head_of_file(config: DebertaConfig, names: Iterable[str]) -> Head | None:
    """The head that a file was saved with: the one its config names, if the file contains it, else the most specific.

    A projected classifier with several labels classifies tokens; with one label it scores entities.
    """
    heads: list[Head] = [
        head for head in heads_in_file(names) if not HEADS[head].needs_one_label or config.labels == _ONE_LABEL
    ]
    return next((head for head in heads if head == named_head(config)), next(iter(heads), None))


def named_head(config: DebertaConfig) -> Head | None:
    """The head of the class that `architectures` in `config.json` names; None for a bare model, or without the key."""
    names = config.extra.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    suffixes = {spec.architecture: head for head, spec in HEADS.items() if head and spec.architecture}
    return next((head for suffix, head in suffixes.items() if name.endswith(suffix)), None)


def head_options(head: Head | None, names: Iterable[str]) -> dict[str, Any]:
    """Arguments of the head's class that follow from the tensor names of a file."""
    return HEADS[head].options(set(names))


def architecture(config: DebertaConfig, head: Head | None) -> str:
    """The class with which transformers loads a model; the bare model's if it has no class for the head."""
    version = "Deberta" if config.model_type == "deberta" else "DebertaV2"
    spec = HEADS[head]
    other_pooler = head == "sequence_classification" and config.classifier_pooling is not None
    if spec.architecture is None or (spec.since_v2 and version == "Deberta") or other_pooler:
        spec = HEADS[None]
    return f"{version}{spec.architecture}"
