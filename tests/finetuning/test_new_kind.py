"""A kind of task that is not in the package: it is defined here, trained, evaluated and reported by library functions.

The kind is ordinal regression: levels 0, 1, ..., C. The head has one logit per threshold, which says whether the level
is above it.
"""

import json
from typing import NamedTuple

import jax
import numpy as np

from deberta_jax.finetuning.evaluate import evaluate, write_results
from deberta_jax.finetuning.features import single_feature
from deberta_jax.finetuning.initial import model_spec, open_pretrained
from deberta_jax.finetuning.kinds.kind import Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake
from deberta_jax.finetuning.objectives import Losses, binary_divergence, head_outputs, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, outcome_pipeline
from deberta_jax.finetuning.run import RunInputs, finetune
from deberta_jax.finetuning.sections import Section, Table
from deberta_jax.finetuning.training_set import features_of
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.encode import encode
from deberta_jax.tasks.examples import Examples, ReadReport
from deberta_jax.tasks.submissions import id_label_writer
from deberta_jax.tasks.task import Task
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.losses import binary_cross_entropy

THRESHOLDS = ("above 0", "above 1")


class Rating(NamedTuple):
    id: str
    text: str
    level: int | None

    @property
    def inputs(self):
        return (self.text,)

    @property
    def answer(self):
        return self.level


def targets(example, windows, label_index, max_length):
    above = np.arange(len(label_index)) < example.level
    yield single_feature(windows[0], labels=above.astype(np.float32), weights=np.float32(1))


def losses(logits, batch):
    return Losses(binary_cross_entropy(logits, batch["labels"]).sum(-1))


def divergence(name, logits, target):
    return binary_divergence(name, logits, target).sum(-1)


def pipeline(model, tokenizer, batching):
    classified = classification_pipeline(model, tokenizer, batching=batching)
    return outcome_pipeline(classified, lambda result: Outcome(len(result.labels), result.scores))


def figures(folder, predicted, labels):
    rows = [(item.example.level, item.prediction) for item in predicted]
    counts = [(level, sum(row == (level, level) for row in rows)) for level in range(len(labels) + 1)]
    return [Section("Levels", table=Table(("level", "correct"), counts))]


def mistake(item):
    level, prediction = item.example.level, item.prediction
    return Mistake(float(abs(prediction - level)), str(level), str(prediction), item.example.text)


ORDINAL = Kind(
    name="ordinal",
    head="sequence_classification",
    problem_type="multi_label_classification",
    pipeline=pipeline,
    encoding=Encoding(encode, targets),
    report=ReportContent(figures, mistake, "levels"),
    objective=weighted_objective(head_outputs, losses, divergence),
)


def read(path, split):
    report = ReadReport(str(path))
    examples = []
    for number, line in enumerate(path.read_text().splitlines()):
        text, level = line.split("\t")
        examples.append(Rating(str(number), text, int(level)))
        report.use()
    return Examples(examples, [report])


RATINGS = Task(
    name="ratings",
    kind="ordinal",
    description="how many of two words are good",
    files={"train": ("train.tsv",), "dev": ("dev.tsv",)},
    read=read,
    labels=THRESHOLDS,
    write=id_label_writer("ratings"),
    metrics=lambda examples, predictions: {
        "exact": float(np.mean([e.level == p for e, p in zip(examples, predictions, strict=True)]))
    },
    best_metric="exact",
)


def write_data(folder):
    rows = [(first, second) for first in ("it", "eats") for second in ("is", "shells")]
    lines = [f"{first} {second}\t{(first == 'eats') + (second == 'shells')}" for first, second in rows * 8]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_a_kind_defined_in_one_file_is_trained_evaluated_and_reported(tmp_path, pretrained):
    write_data(tmp_path)
    splits = {split: RATINGS.read(tmp_path / f"{split}.tsv", split) for split in ("train", "dev")}
    initial = open_pretrained(str(pretrained))
    spec = model_spec(initial, ORDINAL, RATINGS.labels)
    features, _ = features_of(ORDINAL, initial.tokenizer, splits["train"].examples, RATINGS.labels, 16)
    inputs = RunInputs(RATINGS, ORDINAL, spec, initial.tokenizer, features, splits["dev"].examples)
    optimizer = OptimizerConfig(learning_rate=2e-2, warmup=0.1)
    training = TrainingConfig(steps=60, batch_size=16, evaluate_every=60, checkpoint_every=60, optimizer=optimizer)
    run = tmp_path / "run"
    with jax.numpy_dtype_promotion("standard"):
        best = finetune(inputs, run, training, {"task": "ratings"}, max_length=16)
        model, tokenizer = load_pretrained(run / "model", ORDINAL.head)
        dev = {"dev": splits["dev"].examples}
        evaluations, _ = evaluate(RATINGS, ORDINAL, model, tokenizer, dev, Batching(max_length=16))
    # The most frequent level has a share of one half.
    assert evaluations[0].metrics["exact"] == best["exact"] >= 0.9
    write_results(
        run,
        RATINGS,
        ORDINAL,
        RATINGS.labels,
        evaluations,
        title="ratings",
        settings={},
        read_reports=splits["dev"].reports,
    )
    lines = [json.loads(line) for line in (run / "predictions/ratings-dev.jsonl").read_text().splitlines()]
    correct = [line["label"] == example.level for line, example in zip(lines, splits["dev"].examples, strict=True)]
    assert np.mean(correct) == best["exact"]
    report = (run / "report.html").read_text()
    assert "<h2>Levels</h2>" in report
    assert "<h2>Worst mistakes</h2>" in report
