"""Tables and statistics of the ablation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ablation_figure import draw
from ablation_setup import DEBERTA, Finetuning
from scipy import stats

LEVEL = 0.05
Results = Mapping[Any, Mapping[str, Any]]


class Comparison(NamedTuple):
    """A figure over seeds, its difference to the reference with the standard error paired by seed, and its p value.

    `p` is corrected for the number of comparisons, and `critical` is the smallest difference with p below 5 %.
    `paired_p` is the p value of the paired t test of this row alone.
    """

    mean: float
    deviation: float
    difference: float
    error: float
    p: float
    critical: float
    paired_p: float

    @property
    def exceeds_noise(self) -> bool:
        return self.p < LEVEL


def compare(values: Mapping[str, Sequence[float]], reference: str) -> dict[str, Comparison]:
    """Compare all rows with one, in a randomized block design: value = row + seed + noise.

    The noise is the residual of all rows together, with (rows - 1)(seeds - 1) degrees of freedom; the test is a t test
    with Bonferroni's correction. With two rows it is the paired t test.
    """
    names = list(values)
    table = np.asarray([values[name] for name in names], np.float64)
    rows, seeds = table.shape
    residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    freedom = (rows - 1) * (seeds - 1)
    error = math.sqrt(2 * np.sum(residual**2) / max(freedom, 1) / seeds)
    comparisons = max(rows - 1, 1)
    critical = error * stats.t.ppf(1 - LEVEL / 2 / comparisons, freedom) if freedom else math.inf
    result = {}
    for name, row in zip(names, table, strict=True):
        differences = row - values[reference]
        difference = float(differences.mean())
        p = 1.0
        if freedom and error and name != reference:
            p = min(1.0, comparisons * 2 * float(stats.t.sf(abs(difference) / error, freedom)))
        paired = float(differences.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else math.nan
        deviation = float(row.std(ddof=1)) if seeds > 1 else math.nan
        paired_p = 2 * float(stats.t.sf(abs(difference) / paired, seeds - 1)) if seeds > 1 and paired else math.nan
        result[name] = Comparison(float(row.mean()), deviation, difference, paired, p, float(critical), paired_p)
    return result


def collect(results: Results, experiment: str, metric: str, task: str = "") -> dict[str, dict[int, float]]:
    """The values of a metric of pretraining, or of a task, by name and seed."""
    values: dict[str, dict[int, float]] = {}
    for cell, metrics in results.items():
        if (cell.experiment, cell.task) == (experiment, task):
            values.setdefault(cell.name, {})[cell.seed] = metrics[metric]
    return values


def complete(values: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    """The values of the seeds that all names have."""
    seeds = set.intersection(*(set(by_seed) for by_seed in values.values())) if values else set()
    return {name: [by_seed[seed] for seed in sorted(seeds)] for name, by_seed in values.items()}


def print_report(
    results: Results,
    downstream: Mapping[str, Finetuning],
    sift_tasks: Mapping[str, Finetuning],
    baselines: Mapping[str, float],
    sift_baselines: Mapping[str, float],
    figure: Path,
) -> None:
    """Print the tables as Markdown, and draw the figure."""
    scores = {experiment: _scores(results, experiment, downstream) for experiment in ("parts", "rtd")}
    titles = {name: options.title for name, options in downstream.items()}
    parts = {metric: collect(results, "parts", metric) for metric in ("loss", "accuracy")} | scores["parts"]
    if DEBERTA in parts["loss"]:
        columns = {"loss": "held-out loss, nats", "accuracy": "held-out accuracy"}
        columns |= {name: title for name, title in titles.items() if name in parts}
        compared = {metric: compare(complete(parts[metric]), DEBERTA) for metric in columns}
        print("\n## Parts\n")
        _print_comparisons(columns, compared, {metric: baselines.get(metric) for metric in columns})
        _print_sizes(results, "parts")
        draw(compared, columns, figure)
    if collect(results, "rtd", "auc"):
        _print_rtd(results, scores, titles)
    _print_sift(results, sift_tasks, sift_baselines)


def _scores(
    results: Results, experiment: str, tasks: Mapping[str, Finetuning]
) -> dict[str, dict[str, dict[int, float]]]:
    """The scores by task, of those with results."""
    scores = {task: collect(results, experiment, "score", task) for task in tasks}
    return {task: values for task, values in scores.items() if values}


def _print_comparisons(
    columns: Mapping[str, str],
    compared: Mapping[str, Mapping[str, Comparison]],
    baselines: Mapping[str, float | None] | None = None,
) -> None:
    """A table with a row per name: mean ± standard deviation (difference ± paired standard error), * beyond noise."""
    print("| | " + " | ".join(columns.values()) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(compared.values())):
        texts = [_cell(compared[metric][name]) if name in compared[metric] else "–" for metric in columns]
        print(f"| {name} | " + " | ".join(texts) + " |")
    if baselines:
        values = [baselines[metric] for metric in columns]
        print("| constant prediction | " + " | ".join("–" if v is None else f"{v:.3f}" for v in values) + " |")
    print()
    for metric, title in columns.items():
        beyond = [f"{name} ({c.difference:+.4f})" for name, c in compared[metric].items() if c.exceeds_noise]
        critical = next(iter(compared[metric].values())).critical
        print(f"- {title}: beyond the noise (±{critical:.4f}): {', '.join(beyond) or 'none'}")
        alone = [f"{name} ({c.paired_p:.3f})" for name, c in compared[metric].items() if c.paired_p < LEVEL]
        print(f"  - p < 5 % in a paired t test alone, without correction: {', '.join(alone) or 'none'}")


def _cell(comparison: Comparison) -> str:
    if math.isnan(comparison.deviation):
        return f"{comparison.mean:.4f}"
    text = f"{comparison.mean:.4f} ± {comparison.deviation:.4f}"
    if comparison.difference or comparison.error:
        star = " *" if comparison.exceeds_noise else ""
        text += f" ({comparison.difference:+.4f} ± {comparison.error:.4f}{star})"
    return text


def _print_sizes(results: Results, experiment: str) -> None:
    print("\n| | parameters | GFLOP per step | steps |\n|---|---|---|---|")
    for cell, values in results.items():
        if (cell.experiment, cell.task, cell.seed) == (experiment, "", 0):
            print(f"| {cell.name} | {values['parameters']:,} | {values['step_flops'] / 1e9:.2f} | {values['steps']} |")


def _print_rtd(
    results: Results, scores: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]], titles: Mapping[str, str]
) -> None:
    """Replaced-token detection: downstream against masked language modeling, then the kinds of sharing."""
    mlm, reference = "masked language modeling", "GDES, joint step"
    titles = {task: title for task, title in titles.items() if task in scores["rtd"]}
    print("\n## Replaced-token detection at equal FLOPs\n")
    against = {task: {mlm: scores["parts"].get(task, {}).get(DEBERTA, {}), **scores["rtd"][task]} for task in titles}
    if titles:
        _print_comparisons(titles, {task: compare(complete(values), mlm) for task, values in against.items()})
    _print_sizes(results, "rtd")
    print("\n## Sharing of the embeddings\n")
    columns = {
        "discriminator_loss": "discriminator loss, nats",
        "gain": "below the best constant, nats",
        "auc": "AUC",
        "generator_loss": "generator loss, nats",
    }
    values = {metric: collect(results, "rtd", metric) for metric in columns} | scores["rtd"]
    compared = {metric: compare(complete(by_name), reference) for metric, by_name in values.items()}
    _print_comparisons({**columns, **titles}, compared)


def _print_sift(results: Results, tasks: Mapping[str, Finetuning], baselines: Mapping[str, float]) -> None:
    rows = []
    for task, options in tasks.items():
        values = complete(collect(results, "sift", "score", task))
        if len(values) == 2 and values["plain"]:
            compared = compare(values, "plain")
            constant = f"{baselines[task]:.3f}" if task in baselines else "–"
            p = f"{compared['SiFT'].p:.2f}"
            rows.append((options.title, constant, _cell(compared["plain"]), _cell(compared["SiFT"]), p))
    if rows:
        print("\n## SiFT\n\n| | constant | plain | SiFT | p |\n|---|---|---|---|---|")
        for row in rows:
            print(f"| {' | '.join(row)} |")
