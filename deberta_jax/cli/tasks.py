"""What a model can be asked: which head each task needs, which options it takes, and which fields of an example."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from deberta_jax.cli.predict_io import Row, named
from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Head
from deberta_jax.inference import stream
from deberta_jax.inference.classification import classification_pipeline, zero_shot_pipeline
from deberta_jax.inference.embeddings import embed_pipeline
from deberta_jax.inference.entities import tag_entities_pipeline
from deberta_jax.inference.fill_mask import fill_mask_pipeline
from deberta_jax.inference.multiple_choice import choose_pipeline
from deberta_jax.inference.question_answering import answer_pipeline
from deberta_jax.inference.replaced_tokens import detect_replaced_pipeline

TaskName = Literal[
    "fill-mask",
    "classification",
    "zero-shot",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "replaced-tokens",
    "embeddings",
]
# Where the results go, so that no example may have such fields.
PREDICTION, ARRAYS = "prediction", "arrays"


class Task(NamedTuple):
    """A head and what it is asked."""

    head: Head | None
    # How the name of transformers' class with this head ends; of tasks that share it the first is meant.
    architecture: str | None
    # Whether the head can be made of the parts that a file has.
    stands_in: Callable[[set[str]], bool]
    make: Callable[..., stream.Pipeline]
    # Which options are for it.
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("text",)
    pairs: bool = False


def _pooled(parts: set[str]) -> bool:
    return {"pooler", "classifier"} <= parts


_SEQUENCE: tuple[Head, str, Callable[[set[str]], bool]] = (
    "sequence_classification",
    "ForSequenceClassification",
    _pooled,
)
TASKS: dict[TaskName, Task] = {
    "fill-mask": Task(
        "masked_lm",
        "ForMaskedLM",
        lambda parts: bool({"lm_predictions", "cls"} & parts),
        fill_mask_pipeline,
        options=("top_k", "generator"),
        pairs=True,
    ),
    "classification": Task(*_SEQUENCE, classification_pipeline, pairs=True),
    "zero-shot": Task(*_SEQUENCE, zero_shot_pipeline, options=("labels", "template", "multi_label")),
    "token-classification": Task(
        "token_classification",
        "ForTokenClassification",
        lambda parts: "classifier" in parts and "pooler" not in parts,
        tag_entities_pipeline,
    ),
    "question-answering": Task(
        "question_answering",
        "ForQuestionAnswering",
        lambda parts: "qa_outputs" in parts,
        answer_pipeline,
        options=("max_answer_tokens", "no_answer_threshold"),
        fields=("question", "context"),
    ),
    "multiple-choice": Task(
        "multiple_choice", "ForMultipleChoice", _pooled, choose_pipeline, fields=("text", "choices")
    ),
    "replaced-tokens": Task(
        "replaced_token_detection", None, lambda parts: "mask_predictions" in parts, detect_replaced_pipeline
    ),
    "embeddings": Task(None, None, lambda parts: True, embed_pipeline, options=("pooling",), pairs=True),
}


def tasks_for(parts: set[str]) -> list[TaskName]:
    """The tasks that a file serves, of the first parts of its tensors' names."""
    return [name for name, task in TASKS.items() if task.stands_in(parts)]


def named_task(extra: Mapping[str, Any]) -> TaskName | None:
    """The task of the class that a config names for transformers; None where that has no head."""
    names = extra.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    return next((name for name, task in TASKS.items() if task.architecture and first.endswith(task.architecture)), None)


def texts_of(row: Row, task: Task) -> tuple:
    """What the library takes of a row; raises InputError for what it lacks."""
    for key in (PREDICTION, ARRAYS):
        if key in row:
            raise InputError(f'has a field "{key}", which is where results go; give it another name')
    values = [_choices(row) if key == "choices" else _text(row, key) for key in task.fields]
    if task.pairs:
        pair = next((key for key in ("pair", "text_pair") if row.get(key) is not None), None)
        values += [] if pair is None else [_text(row, pair)]
    elif "pair" in row and "pair" not in task.fields:
        raise InputError('has a "pair", which is of no use for this task')
    return tuple(values)


def _text(row: Row, key: str) -> str:
    value = _value(row, key)
    if not isinstance(value, str):
        raise InputError(f'"{key}" must be a string, not {named(value)}')
    if not value.strip():
        raise InputError(f'"{key}" is empty')
    return value


def _choices(row: Row) -> list[str]:
    value = _value(row, "choices")
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
        raise InputError(f'"choices" must be a list of strings, not {named(value)}')
    return value


def _value(row: Row, key: str) -> Any:
    if key not in row:
        there = ", ".join(f'"{name}"' for name in row)
        raise InputError(f'no field "{key}"; there is {there[:100] or "none"}')
    return row[key]
