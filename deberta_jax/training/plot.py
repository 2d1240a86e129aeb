"""Plots of the metrics of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.files import replace_file


def plot_losses(lines: Sequence[Mapping[str, Any]], path: Path, curves: Mapping[str, str]) -> None:
    """Plot metrics of training and held-out data over the steps into a PNG file.

    `lines` are those of `metrics.jsonl`, `curves` maps metrics to axis labels. Metrics without values are left out;
    without any there is no file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in curves if any(line.get(name) is not None for line in lines)]
    if not names:
        return
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, position)
        steps, values = _curve(lines, "train", name)
        if len(steps):
            axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
            axes.plot(steps, _running_mean(values), color="tab:blue", label="training, running mean")
        axes.plot(*_curve(lines, "held_out", name), color="tab:orange", marker="o", markersize=3, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel(curves[name])
        axes.grid(alpha=0.3)
        axes.legend()
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _curve(lines: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["step"], line[name]) for line in lines if line["split"] == split and line.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps), np.asarray(values)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Means over a window of a fiftieth of the run, shorter at the start."""
    window = max(1, len(values) // 50)
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
