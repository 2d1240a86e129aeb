"""The heads of a model: class, transformers' name, and the tensors by which a file is known to contain one."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import (
    EntityScoring,
    MultipleChoice,
    QuestionAnswering,
    ReplacedTokenDetection,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM

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
POSITIONS = "deberta.embeddings.position_embeddings.weight"


class HeadSpec(NamedTuple):
    """A head.

    `architecture` is how the name of transformers' class ends, None where transformers has no such class. A file
    contains the head if its tensors' names begin with one of each group in `parts` and with none in `without`.
    """

    model: Any
    architecture: str | None
    parts: tuple[frozenset[str], ...] = ()
    without: frozenset[str] = frozenset()


def _parts(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset({name}) for name in names)


# The most specific first: a discriminator's file, for one, contains other heads besides.
HEADS: dict[Head | None, HeadSpec] = {
    "replaced_token_detection": HeadSpec(ReplacedTokenDetection, None, _parts("mask_predictions")),
    "question_answering": HeadSpec(QuestionAnswering, "ForQuestionAnswering", _parts("qa_outputs")),
    "sequence_classification": HeadSpec(
        SequenceClassification, "ForSequenceClassification", _parts("pooler", "classifier")
    ),
    "multiple_choice": HeadSpec(MultipleChoice, "ForMultipleChoice", _parts("pooler", "classifier")),
    "entity_scoring": HeadSpec(EntityScoring, None, _parts("proj", "classifier"), frozenset({"pooler"})),
    "token_classification": HeadSpec(
        TokenClassification, "ForTokenClassification", _parts("classifier"), frozenset({"pooler"})
    ),
    "masked_lm": HeadSpec(MaskedLM, "ForMaskedLM", (frozenset({"lm_predictions", "cls"}),)),
    None: HeadSpec(Deberta, "Model"),
}


def heads_in_file(names: Iterable[str]) -> list[Head]:
    """The heads that can be loaded from tensors of these names, the most specific first."""
    parts = {name.partition(".")[0] for name in names}
    return [
        head
        for head, spec in HEADS.items()
        if head is not None and all(group & parts for group in spec.parts) and not spec.without & parts
    ]


def head_of_file(config: DebertaConfig, names: Iterable[str]) -> Head | None:
    """The head a file was saved with: the one its config names, if the file contains it, else the most specific."""
    found: list[Head] = [
        head
        for head in heads_in_file(names)
        # One score per entity: a projected classifier of several labels classifies tokens.
        if head != "entity_scoring" or config.labels == ("LABEL_0",)
    ]
    return next((head for head in found if head == named_head(config)), next(iter(found), None))


def named_head(config: DebertaConfig) -> Head | None:
    """The head of the class that `architectures` in `config.json` names; None for a bare model, or without the key."""
    names = config.extra.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    ends = {spec.architecture: head for head, spec in HEADS.items() if head and spec.architecture}
    return next((head for end, head in ends.items() if name.endswith(end)), None)


def head_options(head: Head | None, names: Iterable[str]) -> dict[str, Any]:
    """Arguments of the head's class that follow from the tensors of a file."""
    if head == "masked_lm":
        return {"enhanced_mask_decoder": POSITIONS in set(names)}
    if head == "token_classification":
        return {"projected": "proj.weight" in set(names)}
    return {}


def architecture(config: DebertaConfig, model: Any) -> str:
    """The class by which transformers loads a model; the bare one where it has no class for the head."""
    version = "Deberta" if config.model_type == "deberta" else "DebertaV2"
    kind = type(model) if not isinstance(model, type) else model
    suffix = next(spec.architecture for spec in HEADS.values() if spec.model is kind)
    unsupported = kind is MultipleChoice and version == "Deberta"
    return version + ("Model" if suffix is None or unsupported else suffix)
