"""Ablations of the papers: DeBERTa's parts, replaced-token detection, embedding sharing, SiFT, at equal budgets.

`python benchmarks/ablation.py DATA FOLDER [--scale small|base] [--ner CONLL] [--seeds N] [--experiments NAME...]`: DATA
contains `glue`, `gutenberg`, `squad`, `superglue`, `wikitext-2` and `wikitext-103-part`. CONLL is a folder with the
files of CoNLL-2003, which are not in DATA. `small` takes about two hours on one idle CPU core; `base` is for a GPU.
Each result is a line of FOLDER/results.jsonl; run the same command again to resume. Prints Markdown tables and writes
FOLDER/ablation.png. The experiments are:

- parts: masked language modeling with and without the parts of DeBERTa, then fine-tuning.
- rtd: replaced-token detection with as many FLOPs, generator included, and three ways to share embeddings.
- sift: virtual adversarial training against plain fine-tuning of the DeBERTa of `parts`, one task of each kind.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ablation_report import print_report
from ablation_runs import Corpus, FinetuningRuns, Pretraining, baselines, measure, prepare, training_config
from ablation_setup import DEBERTA, NER, RTD, SCALES, VARIANTS, Finetuning, Scale

from deberta_jax.errors import InputError
from deberta_jax.files import write_text
from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.pretraining.config import generator_config
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.pretraining.recipes import Selection, recipe
from deberta_jax.pretraining.replaced_tokens import replaced_token_detection
from deberta_jax.training.method import TrainingMethod, one_objective

EXPERIMENTS = ("parts", "rtd", "sift")
# Single words are masked; replaced-token detection has the masking of its recipe.
MLM_MASKING = recipe("demo").data.masking
RTD_MASKING = recipe("demo", Selection("rtd")).data.masking
SIFT = {"plain": SiftConfig(), "SiFT": SiftConfig(weight=5.0)}


class Cell(NamedTuple):
    """One run: its experiment, what is compared, the task of a fine-tuning (none for pretraining), and its seed."""

    experiment: str
    name: str
    task: str
    seed: int


def cells(
    experiments: Sequence[str], seeds: int, downstream: Collection[str], sift_tasks: Collection[str]
) -> Iterator[Cell]:
    """All runs: each stage by seed first, so that those that are complete are comparable.

    Fine-tuning follows all pretraining of its experiment.
    """
    compared = {"parts": VARIANTS, "rtd": RTD, "sift": SIFT}
    stages = {"parts": (("",), downstream), "rtd": (("",), downstream), "sift": (sift_tasks,)}
    for experiment in experiments:
        for tasks in stages[experiment]:
            for seed, task, name in itertools.product(range(seeds), tasks, compared[experiment]):
                yield Cell(experiment, name, task, seed)


class Ablation:
    """Runs cells; programs are shared between seeds."""

    def __init__(self, data: Path, folder: Path, scale: Scale, ner: Path | None):
        self.folder, self.scale = folder, scale
        tasks = {"ner": NER} if ner else {}
        self.downstream: Mapping[str, Finetuning] = {**scale.downstream, **tasks}
        self.sift_tasks: Mapping[str, Finetuning] = {**scale.sift, **tasks}
        self.corpus: Corpus = prepare(data, folder, scale)
        self.config = scale.config(self.corpus.tokenizer.vocab_size)
        self.finetuning = FinetuningRuns(scale, data, self.corpus.tokenizer, ner)
        self._pretraining: dict[tuple[str, str], Pretraining] = {}

    def run(self, cell: Cell) -> dict[str, Any]:
        """The metrics of a run: of pretraining, or the score of a fine-tuning."""
        if cell.task:
            return {"score": self._finetune(cell)}
        if (cell.experiment, cell.name) not in self._pretraining:
            self._pretraining[cell.experiment, cell.name] = self._prepare_pretraining(cell)
        pretraining = self._pretraining[cell.experiment, cell.name]
        model, metrics = pretraining.run(cell.seed)
        encoder = model if cell.experiment == "parts" else model.detector()
        save_pretrained(self.model_folder(cell), encoder, self.corpus.tokenizer)
        size = measure(pretraining.trainer.method, self.scale, pretraining.masking)
        return metrics | {"parameters": size.parameters, "step_flops": size.step_flops, "steps": pretraining.steps}

    def _finetune(self, cell: Cell) -> float:
        adversarial, options = SiftConfig(), self.downstream.get(cell.task)
        if cell.experiment == "sift":
            adversarial, options = SIFT[cell.name], self.sift_tasks[cell.task]
            cell = Cell("parts", DEBERTA, cell.task, cell.seed)
        assert options is not None
        model = self.model_folder(cell)
        if not model.is_dir():
            raise InputError(f"{model}: no such folder; run the experiment parts first, which pretrains this model")
        return self.finetuning.run(model, cell.task, options, cell.seed, adversarial)[options.metric]

    def report(self, results: Mapping[Cell, dict[str, Any]]) -> None:
        """Print the tables and draw the figure."""
        constants = [
            {
                name: value
                for name, options in tasks.items()
                if (value := self.finetuning.constant(name, options)) is not None
            }
            for tasks in (self.downstream, self.sift_tasks)
        ]
        print_report(
            results,
            self.downstream,
            self.sift_tasks,
            baselines(self.scale, self.corpus, MLM_MASKING) | constants[0],
            constants[1],
            self.folder / "ablation.png",
        )

    def model_folder(self, cell: Cell) -> Path:
        """The folder of a pretrained model."""
        name = "-".join(cell.name.replace(",", "").split())
        return self.folder / "models" / f"{cell.experiment}-{name}-{cell.seed}"

    def masked_lm(self, name: str) -> TrainingMethod:
        """Masked language modeling with a variant of DeBERTa."""
        variant = VARIANTS[name]
        config = dataclasses.replace(self.config, **variant.fields)

        def build(key: jax.Array) -> MaskedLM:
            return MaskedLM(
                config, enhanced_mask_decoder=variant.enhanced_mask_decoder, dtype=self.scale.dtype, key=key
            )

        return one_objective(training_config(self.scale, 0, self.scale.steps), build, masked_lm_objective)

    def _prepare_pretraining(self, cell: Cell) -> Pretraining:
        scale, corpus = self.scale, self.corpus
        if cell.experiment == "parts":
            return Pretraining(scale, corpus, self.masked_lm(cell.name), MLM_MASKING, scale.steps)
        rtd, config = RTD[cell.name], self.config

        def build(key: jax.Array) -> Any:
            return initial_pair(generator_config(config), config, rtd.sharing, dtype=scale.dtype, key=key)

        def method(steps: int) -> TrainingMethod:
            return replaced_token_detection(training_config(scale, 0, steps), rtd, build)

        budget = scale.steps * measure(self.masked_lm(DEBERTA), scale, MLM_MASKING).step_flops
        steps = max(1, round(budget / measure(method(scale.steps), scale, RTD_MASKING).step_flops))
        return Pretraining(scale, corpus, method(steps), RTD_MASKING, steps)


def read_results(file: Path) -> dict[Cell, dict[str, Any]]:
    """The metrics of all finished runs; the rest of a line that was not written to its end is removed."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        write_text(file, complete)
    values = [json.loads(line) for line in complete.splitlines()]
    return {Cell(*(line.pop(field) for field in Cell._fields)): line for line in values}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--ner", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    options = parser.parse_args(arguments)
    # Each run has a new head.
    logging.getLogger("deberta_jax.hub.load").setLevel(logging.ERROR)
    scale = SCALES[options.scale]
    ablation = Ablation(options.data, options.folder, scale, options.ner)
    file = options.folder / "results.jsonl"
    finished = read_results(file)
    seeds = options.seeds or scale.seeds
    for cell in cells(options.experiments, seeds, ablation.downstream, ablation.sift_tasks):
        if cell in finished:
            continue
        start = time.perf_counter()
        result = ablation.run(cell) | {"seconds": time.perf_counter() - start}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**cell._asdict(), **result}) + "\n")
        finished[cell] = result
        print(", ".join(map(str, cell)), {name: round(value, 4) for name, value in result.items()}, flush=True)
    ablation.report(finished)


if __name__ == "__main__":
    main()
