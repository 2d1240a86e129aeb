"""The results of a random search: a table for the terminal, a plot, and a section of the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.files import replace_file
from deberta_jax.finetuning.best_model import best_run
from deberta_jax.finetuning.figures import plain_name
from deberta_jax.finetuning.search import Trial
from deberta_jax.finetuning.search_options import SEARCHED, format_value, option_word
from deberta_jax.finetuning.sections import Figure, Section, Table
from deberta_jax.training.plot import BLUE, GREEN, ORANGE

OPTIMISTIC = (
    "The best trial was selected on the examples that it is evaluated on, so its metric is optimistic: measure it on a "
    "test set that was not used for the choice."
)
_COLUMNS = 3


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The trials from the best to the worst."""
    rest, order = list(trials), []
    while rest:
        order.append(rest.pop(best_run([trial.metrics for trial in rest], metric)))
    return order


def search_table(trials: Sequence[Trial], metric: str) -> Table:
    """One row per trial, the best first: its number, its options, and the metric."""
    names = list(trials[0].options)
    rows = [
        (
            f"{trial.number}{' (as given)' if trial.number == 0 else ''}",
            *(format_value(trial.options[name]) for name in names),
            f"{trial.metrics[metric]:.4f}" if metric in trial.metrics else "diverged",
        )
        for trial in ranked(trials, metric)
    ]
    return Table(("trial", *names, metric), rows)


def table_lines(table: Table) -> list[str]:
    """A table as aligned lines for the terminal."""
    texts = [[str(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def search_section(folder: Path, trials: Sequence[Trial], metric: str, name: str) -> Section:
    """The section of the report, with the plot `search.png` of a folder."""
    path = plot_search(trials, metric, folder / "search.png", title=name)
    figure = Figure(path, f"{metric} of each trial by the value of each option")
    return Section("Search", OPTIMISTIC, figure, search_table(trials, metric))


def plot_search(trials: Sequence[Trial], metric: str, path: Path, *, title: str) -> Path:
    """Plot the metric of each trial against each option into a PNG file.

    A dashed line is the first trial, with the options as given; a ring marks the best one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    names = list(trials[0].options)
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Canvas(figsize=(max(6.0, 3.9 * columns), 3.4 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{plain_name(title)}: {plain_name(metric)} on held-out data, {len(trials)} trials")
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, position)
        _plot_option(axes, trials, metric, name)
        if position % columns != 1 and columns > 1:
            axes.set_ylabel("")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # All in one line is wider than two plots.
    figure.legend(handles, labels, loc="outside lower center", ncols=4 if columns > 2 else 2, frameon=False)
    return replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130, facecolor="white"))


def _plot_option(axes: Any, trials: Sequence[Trial], metric: str, name: str) -> None:
    scored = [trial for trial in trials if metric in trial.metrics]
    values = sorted({trial.options[name] for trial in scored}, key=lambda value: -1.0 if value is None else value)
    results = {value: [t.metrics[metric] for t in scored if t.options[name] == value] for value in values}
    for place, value in enumerate(values):
        label = "trial" if place == 0 else None
        axes.plot([place] * len(results[value]), results[value], "o", color=BLUE, alpha=0.6, label=label)
        label = "mean of a value" if place == 0 else None
        axes.hlines(np.mean(results[value]), place - 0.25, place + 0.25, color=BLUE, linewidth=1.5, label=label)
    if metric in trials[0].metrics:
        label = "options as given (trial 0)"
        axes.axhline(trials[0].metrics[metric], color=ORANGE, linestyle="--", linewidth=1.2, label=label)
    winner = ranked(trials, metric)[0]
    position = values.index(winner.options[name]), winner.metrics[metric]
    axes.plot(*position, "o", markersize=12, fillstyle="none", color=GREEN, label=f"best (trial {winner.number})")
    axes.set_xticks(range(len(values)), [format_value(value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set(xlabel=SEARCHED[name].label, ylabel=plain_name(metric))
    axes.margins(y=0.15)
    axes.grid(alpha=0.25, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) > 5:
        axes.tick_params(axis="x", labelrotation=45)


def summary_lines(trials: Sequence[Trial], metric: str) -> list[str]:
    """The table, the best trial beside the first one, and the options that repeat the best one."""
    best, first = ranked(trials, metric)[0], trials[0].metrics.get(metric)
    against = "" if first is None or best is trials[0] else f" (options as given: {first:.4f})"
    words = [f"{option_word(name)} {value:.10g}" for name, value in best.options.items() if value is not None]
    best_line = f"best: trial {best.number}, {metric} {best.metrics[metric]:.4f}{against}: {' '.join(words)}"
    return [*table_lines(search_table(trials, metric)), best_line, OPTIMISTIC]
