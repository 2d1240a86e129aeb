"""The runs of the ablation: pretraining and fine-tuning, with one compiled program for all seeds."""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ablation_setup import Finetuning, Scale
from pretraining_text import write_documents

from deberta_jax.data.batches import HeldOutBatches, MaskSequence, TrainingBatches, held_out_batches
from deberta_jax.data.masking import Masking
from deberta_jax.files import make_folder
from deberta_jax.finetuning.batches import HostBatch, batches_in_epoch, epoch_order, stack
from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.evaluate import evaluate
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.initial import initial_model, model_spec, open_pretrained
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.sift import sift
from deberta_jax.finetuning.training_set import features_of
from deberta_jax.inference.buckets import Batching
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.corpus import (
    ShardFolders,
    TextFiles,
    masking_vocabulary,
    prepare_shards,
    train_run_tokenizer,
)
from deberta_jax.sharding import make_mesh
from deberta_jax.tasks.catalogue import TASKS, find_splits, labels_of, load
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.loop import held_out_evaluation
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.sizes import Sizes, sizes
from deberta_jax.training.state import TrainState, abstract_state, initial_state
from deberta_jax.training.step import Step, place

HEAD_DROPOUT = 0.1


class Corpus(NamedTuple):
    """The tokenizer and the sequences that all models share."""

    tokenizer: Tokenizer
    shards: ShardFolders

    def training_batches(self, scale: Scale, masking: Masking, seed: int) -> TrainingBatches:
        """The batches of a run."""
        return TrainingBatches(self.shards.training, self._masked(masking), batch_size=scale.batch_size, seed=seed)

    def held_out_batches(self, scale: Scale, masking: Masking) -> HeldOutBatches:
        """The same batches for all runs."""
        size, limit = scale.batch_size, scale.evaluate_batches
        return held_out_batches(self.shards.held_out, self._masked(masking), batch_size=size, limit=limit)

    def _masked(self, masking: Masking) -> MaskSequence:
        return MaskSequence(masking_vocabulary(self.tokenizer), masking)


def prepare(data: Path, folder: Path, scale: Scale) -> Corpus:
    """Collect the text, train the tokenizer and write the sequences; what exists is used again."""
    text = make_folder(folder) / "text.txt"
    write_documents(data, text)
    text_files = TextFiles((str(text),), ())
    tokenizer = train_run_tokenizer(text_files, folder / "tokenizer" / "spm.model", scale.vocabulary)
    if (folder / "shards" / "held_out").is_dir():
        return Corpus(tokenizer, ShardFolders(folder / "shards" / "train", folder / "shards" / "held_out"))
    return Corpus(tokenizer, prepare_shards(text_files, folder / "shards", tokenizer, scale.length))


def training_config(scale: Scale, seed: int, steps: int) -> TrainingConfig:
    """The options of a pretraining run."""
    optimizer = OptimizerConfig(learning_rate=scale.learning_rate)
    return TrainingConfig(steps=steps, batch_size=scale.batch_size, seed=seed, optimizer=optimizer)


class Trainer:
    """A training method whose step is compiled once."""

    def __init__(self, method: TrainingMethod):
        self.method, self.mesh = method, make_mesh()
        abstract = abstract_state(method.build, method.optimizer, 0, self.mesh)
        self._step: Step = method.make_step(shardings(abstract, self.mesh))

    def run(self, seed: int, batches: Iterator[Any], steps: int, model: Any = None) -> TrainState:
        """The state after `steps` batches, from `model` or from random weights."""
        state = initial_state(self.method.build, self.method.optimizer, seed, self.mesh, model)
        for batch in itertools.islice(batches, steps):
            state, _ = self._step(state, place(batch, self.mesh))
        return state


class Pretraining:
    """Pretraining of one model with one objective, for any seed."""

    def __init__(self, scale: Scale, corpus: Corpus, method: TrainingMethod, masking: Masking, steps: int):
        self.scale, self.corpus, self.masking, self.steps = scale, corpus, masking, steps
        self.trainer = Trainer(method)
        held_out = corpus.held_out_batches(scale, masking)
        self._evaluate = held_out_evaluation(method, self.trainer.mesh, lambda: held_out)

    def run(self, seed: int) -> tuple[Any, dict[str, float]]:
        """The trained model, and its metrics on held-out text."""
        start = time.perf_counter()
        source = self.corpus.training_batches(self.scale, self.masking, seed)
        with closing(source):
            state = self.trainer.run(seed, iter(lambda: next(source), None), self.steps)
        metrics = self._evaluate(self.steps, state.model, lambda: None)
        return state.model, metrics | {"pretraining_seconds": time.perf_counter() - start}


def measure(method: TrainingMethod, scale: Scale, masking: Masking) -> Sizes:
    """Parameters and FLOPs of a pretraining step."""
    slots, B = masking.slots(scale.length), scale.batch_size
    widths = dict.fromkeys(("input_ids", "segment_ids", "position_ids"), scale.length)
    widths |= dict.fromkeys(("masked_positions", "labels"), slots)
    batch = {name: jax.ShapeDtypeStruct((B, width), np.int32) for name, width in widths.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((B, slots), np.float32)
    return sizes(method.evaluate, abstract_state(method.build, method.optimizer, 0, make_mesh()), batch)


def baselines(scale: Scale, corpus: Corpus, masking: Masking) -> dict[str, float]:
    """The held-out loss and accuracy of predicting the frequencies of the masked training tokens, and the majority."""
    source = corpus.training_batches(scale, masking, seed=0)
    counts = np.ones(corpus.tokenizer.vocab_size)
    with closing(source):
        for batch in itertools.islice(iter(lambda: next(source), None), scale.steps // 4 + 1):
            labels = batch["labels"][batch["label_weights"] > 0]
            counts += np.bincount(labels, minlength=len(counts))
    held_out = corpus.held_out_batches(scale, masking)
    labels = np.concatenate([batch["labels"][batch["label_weights"] > 0] for batch in held_out])
    probabilities = counts / counts.sum()
    return {"loss": float(-np.log(probabilities[labels]).mean()), "accuracy": float((labels == counts.argmax()).mean())}


class TaskData(NamedTuple):
    """A task, its encoded training rows, the examples to evaluate on, and its labels."""

    task: Any
    features: list[Any]
    dev: list[Any]
    labels: tuple[str, ...]


def read_task(name: str, options: Finetuning, folder: Path, tokenizer: Tokenizer) -> TaskData:
    """A fixed random subset of the rows of a task."""
    task = TASKS[name]
    paths = find_splits(task, folder)
    train, dev = (load(task, paths[split], split).examples for split in ("train", "dev"))
    labels = labels_of(task, train)
    train, dev = _subset(train, options.rows), _subset(dev, options.dev_rows)
    features, _ = features_of(KINDS[task.kind], tokenizer, train, labels, options.max_length)
    return TaskData(task, features, dev, labels)


def _subset(examples: Any, count: int) -> list[Any]:
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    return [examples[index] for index in sorted(order.tolist())]


def finetuning_batches(
    kind: Kind, features: list[Feature], batch_size: int, seed: int, options: Finetuning, pad_id: int
) -> Iterator[HostBatch]:
    """Batches of features of similar length, padded to one of two lengths: each length is a program to compile."""
    lengths = np.asarray([feature.length for feature in features])
    for epoch in itertools.count():
        for numbers in epoch_order(lengths, batch_size, seed, epoch):
            longest = lengths[numbers[numbers >= 0]].max()
            length = options.max_length // (2 if longest <= options.max_length // 2 else 1)
            rows = [features[number] if number >= 0 else None for number in numbers.tolist()]
            yield stack(kind, rows, length, pad_id, range(len(rows)))


class FinetuningRuns:
    """Fine-tuning of saved models; programs are compiled once for each architecture, task and kind of training."""

    def __init__(self, scale: Scale, data: Path, tokenizer: Tokenizer, ner: Path | None):
        self.scale, self.data, self.tokenizer, self.ner = scale, data, tokenizer, ner
        self._tasks: dict[tuple[str, Finetuning], TaskData] = {}
        self._trainers: dict[Any, Trainer] = {}

    def run(self, model: Path, name: str, options: Finetuning, seed: int, adversarial: SiftConfig) -> dict[str, float]:
        """The metrics on the development set at the end of the run."""
        data, training = self.task(name, options), self._training(name, options, seed)
        kind = KINDS[data.task.kind]
        dtype = self.scale.dtype
        spec = model_spec(open_pretrained(str(model)), kind, data.labels, head_dropout=HEAD_DROPOUT, dtype=dtype)
        key = spec.config, name, options, adversarial
        if key not in self._trainers:
            objective = sift(kind.objective, adversarial) if adversarial.weight else plain_objective(kind.objective)
            self._trainers[key] = Trainer(one_objective(training, spec.build, objective))
        trainer = self._trainers[key]
        load_initial = initial_model(spec, seed, trainer.mesh)
        assert load_initial is not None
        batches = finetuning_batches(kind, data.features, training.batch_size, seed, options, self.tokenizer.pad_id)
        state = trainer.run(seed, batches, training.steps, load_initial())
        batching = Batching(max_length=options.max_length)
        (evaluation,), _ = evaluate(data.task, kind, state.model, self.tokenizer, {"dev": data.dev}, batching)
        return dict(evaluation.metrics)

    def task(self, name: str, options: Finetuning) -> TaskData:
        """The data of a task, read once."""
        if (name, options) not in self._tasks:
            folder = self.ner if name == "ner" else self.data / options.folder
            assert folder is not None
            self._tasks[name, options] = read_task(name, options, folder, self.tokenizer)
        return self._tasks[name, options]

    def constant(self, name: str, options: Finetuning) -> float | None:
        """The metric of the best constant label; None for a task without labels."""
        data = self.task(name, options)
        answers = {example.answer for example in data.dev if isinstance(example.answer, str | int)}
        scores = [data.task.metrics(data.dev, [answer] * len(data.dev)) for answer in answers]
        return max((score[options.metric] for score in scores), default=None)

    def _training(self, name: str, options: Finetuning, seed: int) -> TrainingConfig:
        batch_size = 32 if options.rows > 1000 else 16
        epoch = batches_in_epoch(len(self.task(name, options).features), batch_size)
        optimizer = OptimizerConfig(learning_rate=self.scale.finetuning_rate)
        return TrainingConfig(steps=options.epochs * epoch, batch_size=batch_size, seed=seed, optimizer=optimizer)
