"""The tasks by name: their files, what they are measured by, and what the best model is chosen by."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks import conll, conll_metrics, glue, metrics, multiple_choice, nli, squad, squad_metrics, superglue
from deberta_jax.tasks.custom import Columns, own_task
from deberta_jax.tasks.examples import Examples, Kind, Metrics, SpanPrediction, TaskData
from deberta_jax.tasks.glue import ENTAILED, INFERENCE

GENERIC = "generic"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: `metrics` of predictions, of which `best` chooses the model; `trained_on` where it has no training data.

    Of questions that `may_lack_answers` no answer is predicted where it is likelier than the best one.
    """

    name: str
    data: TaskData
    metrics: Metrics
    best: str
    about: str
    trained_on: str = ""
    may_lack_answers: bool = False
    # Labels of a model of another task by those that they mean here.
    meant: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return self.data.kind

    def names(self, split: str) -> str:
        """What the file of a split may be called."""
        return " or ".join(self.data.files.get(split, ()))

    def decided(self, prediction: Any, threshold: float = 0.0) -> Any:
        """A prediction with the text of no answer where that is likelier by more than the threshold."""
        if isinstance(prediction, str):
            return self.meant.get(prediction, prediction)
        if isinstance(prediction, SpanPrediction) and self.may_lack_answers and prediction.no_answer > threshold:
            return prediction._replace(text="")
        return prediction


_DATA: dict[str, TaskData] = {
    **glue.TASKS,
    **superglue.TASKS,
    **squad.TASKS,
    **multiple_choice.TASKS,
    **conll.TASKS,
    **nli.TASKS,
}
# Metrics, that by which the best model is chosen, and a line on the task.
_MEASURED: dict[str, tuple[Metrics, str, str]] = {
    "cola": (metrics.matthews, "matthews", "GLUE: is a sentence well formed"),
    "sst-2": (metrics.accuracy, "accuracy", "GLUE: is a sentence of a film review positive"),
    "mrpc": (metrics.accuracy_and_f1("1"), "mean", "GLUE: do two sentences say the same"),
    "sts-b": (metrics.correlations, "mean", "GLUE: how alike are two sentences, 0 to 5"),
    "qqp": (metrics.accuracy_and_f1("1"), "mean", "GLUE: are two questions the same"),
    "mnli": (metrics.accuracy, "accuracy", "GLUE: does a hypothesis follow from a premise"),
    "qnli": (metrics.accuracy, "accuracy", "GLUE: does a sentence answer a question"),
    "rte": (metrics.accuracy, "accuracy", "GLUE: does a sentence follow from a text"),
    "wnli": (metrics.accuracy, "accuracy", "GLUE: does a sentence with a pronoun replaced follow"),
    "ax": (metrics.matthews, "matthews", "GLUE: diagnostic set, evaluated with a model of mnli"),
    "boolq": (metrics.accuracy, "accuracy", "SuperGLUE: yes or no to a question on a passage"),
    "cb": (metrics.accuracy_and_macro_f1, "mean", "SuperGLUE: is a writer committed to a clause"),
    "copa": (metrics.accuracy, "accuracy", "SuperGLUE: which of two is the cause, or the effect"),
    "multirc": (metrics.answer_options, "mean", "SuperGLUE: which answers to a question on a passage are right"),
    "record": (squad_metrics.score_record, "mean", "SuperGLUE: which entity of a passage fills a gap"),
    "superglue-rte": (metrics.accuracy, "accuracy", "SuperGLUE: rte in its files"),
    "wic": (metrics.accuracy, "accuracy", "SuperGLUE: has a word the same sense in two sentences"),
    "wsc": (metrics.accuracy, "accuracy", "SuperGLUE: does a pronoun mean a noun"),
    "ax-b": (metrics.matthews, "matthews", "SuperGLUE: broad diagnostic set, evaluated with a model of rte"),
    "ax-g": (metrics.accuracy, "accuracy", "SuperGLUE: diagnostic set on gender, evaluated with a model of rte"),
    "squad": (squad_metrics.score_squad, "f1", "SQuAD 1.1: the words of a passage that answer a question"),
    "squad2": (squad_metrics.score_squad2, "f1", "SQuAD 2.0: the same, where there may be no answer"),
    "race": (metrics.accuracy, "accuracy", "RACE: school examinations, four choices"),
    "swag": (metrics.accuracy, "accuracy", "SWAG: which of four endings follows"),
    "ner": (conll_metrics.score_entities, "f1", "CoNLL: entities in tagged words"),
    "anli": (metrics.accuracy, "accuracy", "ANLI: adversarial inference, three rounds"),
    "xnli": (metrics.mean_over_groups, "mean", "XNLI: inference in fifteen languages, trained on English"),
}
_TRAINED_ON = {"ax": "mnli", "ax-b": "superglue-rte or mnli", "ax-g": "superglue-rte or mnli"}
_OWN: dict[Kind, tuple[Metrics, str]] = {
    "single_label": (metrics.own_labels, "accuracy"),
    "regression": (metrics.own_numbers, "spearman"),
    "multi_label": (metrics.own_several, "f1_micro"),
    "token": (conll_metrics.score_entities, "f1"),
    "extractive_qa": (squad_metrics.score_squad2, "f1"),
    "multiple_choice": (metrics.accuracy, "accuracy"),
}
TASKS: dict[str, Task] = {
    name: Task(name, _DATA[name], *measured, _TRAINED_ON.get(name, ""), name == "squad2")
    for name, measured in _MEASURED.items()
}
ABOUT = {name: task.about for name, task in TASKS.items()} | {GENERIC: "your own csv, tsv, jsonl, json or parquet"}


def task_of(name: str, columns: Columns, *, alone: bool = False) -> Task:
    """A task by its name; of one's own table, or of one that stands `alone`, by its columns."""
    if name != GENERIC:
        if columns != Columns():
            raise InputError(f"columns are for {GENERIC}; {name} has files of its own form")
        return TASKS[name]
    metrics, best = _OWN[columns.kind]
    return Task(GENERIC, own_task(columns, alone=alone), metrics, best, ABOUT[GENERIC])


def splits_in(task: Task, data: Path, *, evaluated: bool = False) -> dict[str, list[Path]]:
    """The files of each split that stand in a folder, or in one of the task's name within it.

    A file is one of one's own, which training shares out; where a model is `evaluated`, any file is a test set.
    """
    if not data.exists():
        raise InputError(f"{data}: no such file or folder")
    if evaluated and data.is_file():
        return {"test": [data]}
    if data.is_file():
        if task.name != GENERIC:
            raise InputError(f"{data}: a folder is wanted, with {task.names('train')}")
        return {"train": [data], "dev": [data]}
    for folder in (data, *_inner(task.name, data)):
        found = {split: _first(folder, names) for split, names in task.data.files.items()}
        if any(found.values()):
            return {split: paths for split, paths in found.items() if paths and not (evaluated and split == "train")}
    wanted = "; ".join(f"{split}: {task.names(split)}" for split in task.data.files)
    raise InputError(f"{data}: holds no file of {task.name} ({wanted[:400]})")


def _inner(name: str, data: Path) -> Iterable[Path]:
    plain = name.removeprefix("superglue-").replace("-", "")
    return sorted(path for path in data.iterdir() if path.is_dir() and path.name.lower().replace("-", "") == plain)


def _first(folder: Path, names: Sequence[str]) -> list[Path]:
    return next((its for name in names if (its := sorted(folder.glob(name)))), [])


def load(task: Task, paths: Sequence[Path], split: str) -> Examples:
    """The examples of a split's files, in order."""
    parts = [task.data.read(path, split) for path in paths]
    return Examples([one for part in parts for one in part.examples], [a for part in parts for a in part.accounts])


def labels_of(task: Task, examples: Sequence[Any]) -> tuple[str, ...]:
    """The labels of a model for a task: the task's own, or those of its training data."""
    if task.data.labels:
        return task.data.labels
    if task.kind == "regression":
        return ("score",)
    if task.kind == "token":
        tags = {tag for example in examples for tag in example.tags or ()}
        return (*sorted({conll.OUTSIDE} & tags), *sorted(tags - {conll.OUTSIDE}))
    if task.kind == "single_label":
        found = {example.label for example in examples}
    elif task.kind == "multi_label":
        found = {label for example in examples for label in example.label or ()}
    else:
        return ()
    if len(found) < 2 - (task.kind == "multi_label"):
        raise InputError(
            f"the training data have the labels {', '.join(sorted(found)) or 'none'}; two are wanted at least"
        )
    return tuple(sorted(found, key=_by_number if all(map(_is_number, found)) else str))


def _is_number(label: str) -> bool:
    return label.lstrip("-").replace(".", "", 1).isdecimal()


def _by_number(label: str) -> float:
    return float(label)


def given(task: Task, *splits: Sequence[Any]) -> Task:
    """The task as its examples have it: whether there are questions without answers, and tags that mark entities."""
    if task.name != GENERIC:
        return task
    if task.kind == "token":
        tags = {tag for examples in splits for example in examples for tag in example.tags or ()}
        if not all(map(conll.well_formed, tags)):
            return dataclasses.replace(task, metrics=conll_metrics.score_words, best="accuracy")
    if task.kind != "extractive_qa":
        return task
    return dataclasses.replace(
        task, may_lack_answers=any(example.answers == () for examples in splits for example in examples)
    )


def check_labels(task: Task, labels: Sequence[str], splits: Mapping[str, Examples]) -> None:
    """Raise InputError for an example whose label the model does not know."""
    if task.kind not in ("single_label", "multi_label"):
        return
    known = set(labels)
    for split, examples in splits.items():
        for example in examples.examples:
            its = example.label if isinstance(example.label, tuple) else (example.label,)
            if unknown := [label for label in its if label is not None and label not in known]:
                raise InputError(
                    f"{split}, example {example.id}: label {unknown[0]!r} is none of those trained on: "
                    f"{', '.join(labels)}"
                )


def fitted(task: Task, labels: Sequence[str], model: str) -> Task:
    """The task for a model with these labels; raises InputError where they are others.

    One of three kinds of inference serves for two: what is not entailed is all the same.
    """
    wanted = task.data.labels
    if not wanted or set(labels) == set(wanted):
        return task
    if set(wanted) == set(ENTAILED) and set(labels) == set(INFERENCE):
        others = {label: ENTAILED[0] for label in INFERENCE if label not in ENTAILED}
        return dataclasses.replace(task, meant=others)
    raise InputError(f"{model}: has the labels {', '.join(labels)}; {task.name} has {', '.join(wanted)}")
