"""Loss curves of fine-tuning compared with a plain PyTorch loop over transformers: CPU, float32, no dropout.

`python benchmarks/finetuning_curves.py DATA [MODEL]` trains 200 steps on SST-2, STS-B and a part of SQuAD from the same
weights with the same batches, schedule and optimizer. It prints the largest difference between the losses of a step,
and both metrics on the development set. DATA contains `glue` and `squad`; MODEL is a pretrained folder, by default a
random model with two layers. Needs the extra `reference`.
"""

import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from steps import Trainer
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from deberta_jax.finetuning.batches import Batches
from deberta_jax.finetuning.initial import initial_model, model_spec, open_pretrained
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.predictions import predict
from deberta_jax.finetuning.training_set import features_of
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.model.deberta import Deberta
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import make_mesh
from deberta_jax.tasks.catalogue import TASKS, find_splits, labels_of, load
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.method import one_objective
from deberta_jax.training.optimizer import learning_rate

STEPS, BATCH_SIZE, MAX_LENGTH = 200, 32, 128
# Folders below DATA.
FOLDERS = {"sst-2": "glue/SST-2", "sts-b": "glue/STS-B", "squad": "squad"}
# Enough features for 200 steps, and few enough development examples for two cores.
NUM_FEATURES, NUM_DEV = 6400, 1000
LOSS_BAR, METRIC_BAR = 1e-3, 0.005


class Result(NamedTuple):
    """The loss of each step, and the metric on the development set."""

    losses: list[float]
    metric: float


class Work(NamedTuple):
    """What both sides train: the first model below `folder`, batches, and learning rates; `score` evaluates a model."""

    folder: Path
    batches: list[dict[str, np.ndarray]]
    rates: list[float]
    score: Callable[[Any, Any], float]


def main(data: Path, model: str | None) -> int:
    missed = 0
    for name, folder in FOLDERS.items():
        with tempfile.TemporaryDirectory() as temporary:
            task = TASKS[name]
            ours, work = train_ours(task, data / folder, Path(temporary), model)
            reference = train_reference(task, work)
        differences = [abs(a - b) for a, b in zip(ours.losses, reference.losses, strict=True)]
        largest = max(differences)
        failed = largest > LOSS_BAR or abs(ours.metric - reference.metric) > METRIC_BAR
        missed += failed
        print(
            f"{name}: loss {ours.losses[0]:.4f} to {ours.losses[-1]:.4f}, largest difference {largest:.1e} (step "
            f"{differences.index(largest) + 1}); {task.best_metric} {ours.metric:.4f}, transformers "
            f"{reference.metric:.4f}{' MISSED' * failed}",
            flush=True,
        )
    return missed


def train_ours(task: Task, data: Path, folder: Path, model: str | None) -> tuple[Result, Work]:
    """Train with our step; save the first model and the batches for the other side."""
    kind, paths, mesh = KINDS[task.kind], find_splits(task, data), make_mesh()
    pretrained = open_pretrained(model or str(random_model(data, folder / "random")))
    tokenizer = pretrained.tokenizer
    train = load(task, paths["train"], "train").examples
    dev = load(task, paths["dev"], "dev").examples[:NUM_DEV]
    labels = labels_of(task, train)
    spec = model_spec(pretrained, kind, labels, head_dropout=0.0)
    features, _ = features_of(kind, tokenizer, train[:NUM_FEATURES], labels, MAX_LENGTH)
    batches = Batches(kind, features, batch_size=BATCH_SIZE, seed=0, max_length=MAX_LENGTH, pad_id=tokenizer.pad_id)
    optimizer = OptimizerConfig(learning_rate=3e-4, warmup=0.1)
    rate = learning_rate(optimizer, STEPS)

    def score(model: Any, tokenizer: Any) -> float:
        outcomes = predict(kind, model, tokenizer, dev, Batching(max_length=MAX_LENGTH))
        return task.metrics(dev, [task.resolve(outcome.prediction) for outcome in outcomes])[task.best_metric]

    work = Work(folder, [next(batches) for _ in range(STEPS)], [float(rate(step)) for step in range(STEPS)], score)
    first = initial_model(spec, 0, mesh)()
    save_pretrained(folder / "first", first, tokenizer)
    training = TrainingConfig(steps=STEPS, batch_size=BATCH_SIZE, optimizer=optimizer)
    trainer = Trainer(one_objective(training, spec.build, plain_objective(kind.objective)), mesh, first)
    losses = [float(trainer.run(batch)["loss"]) for batch in work.batches]
    return Result(losses, score(trainer.state.model, tokenizer)), work


def random_model(data: Path, folder: Path) -> Path:
    """A random model with a vocabulary of the task's training texts."""
    folder.mkdir()
    tokenizer = train_tokenizer(training_texts(data), folder / "spm.model", 8000)
    config = dataclasses.replace(PRESETS["tiny"], vocab_size=8064)
    save_pretrained(folder, jax.jit(lambda key: Deberta(config, key=key))(jax.random.key(0)), tokenizer)
    return folder


def training_texts(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("train*")):
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            articles = json.loads(content)["data"]
            yield from (paragraph["context"] for article in articles for paragraph in article["paragraphs"])
        else:
            yield from (text[:4000] for line in content.splitlines() for text in line.split("\t"))


def train_reference(task: Task, work: Work) -> Result:
    """The same with transformers and PyTorch. Our evaluation scores the result, so that only training differs."""
    is_qa = task.kind == "extractive_qa"
    model_class = AutoModelForQuestionAnswering if is_qa else AutoModelForSequenceClassification
    model = model_class.from_pretrained(work.folder / "first", attn_implementation="eager").train()
    remove_dropout(model)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-3, betas=(0.9, 0.999), eps=1e-6)
    losses = []
    for arrays, rate in zip(work.batches, work.rates, strict=True):
        batch = {name: torch.tensor(array) for name, array in arrays.items()}
        for group in optimizer.param_groups:
            group["lr"] = rate
        output = model(batch["input_ids"].long(), attention_mask=batch["attention_mask"].long())
        loss = reference_loss(task.kind, output, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    # Files that transformers does not write, such as the tokenizer's, are those of the first model.
    shutil.copytree(work.folder / "first", work.folder / "reference")
    model.eval().save_pretrained(work.folder / "reference")
    return Result(losses, work.score(*load_pretrained(work.folder / "reference", KINDS[task.kind].head)))


def remove_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            for name in ("p", "drop_prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)


def parameter_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Biases and layer norms have no weight decay."""
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        (no_decay if name.endswith("bias") or "LayerNorm.weight" in name else decay).append(parameter)
    return [{"params": decay, "weight_decay": 0.01}, {"params": no_decay, "weight_decay": 0.0}]


def reference_loss(kind: str, output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    weights, labels = batch["weights"], batch["labels"]
    if kind == "extractive_qa":
        padding = batch["attention_mask"] == 0
        logits = [x.masked_fill(padding, -1e9) for x in (output.start_logits, output.end_logits)]
        ends = [functional.cross_entropy(x, labels[:, k].long(), reduction="none") for k, x in enumerate(logits)]
        losses = (ends[0] + ends[1]) / 2
    elif kind == "regression":
        losses = (output.logits[:, 0] - labels) ** 2
    else:
        losses = functional.cross_entropy(output.logits, labels.long(), reduction="none")
    return (losses * weights).sum() / weights.sum()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
