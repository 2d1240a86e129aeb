"""The picture of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LABELS = {
    "loss": "loss (nats per masked token)",
    "accuracy": "masked tokens found",
    "generator_loss": "generator's loss (nats per masked token)",
    "generator_accuracy": "masked tokens found by the generator",
    "discriminator_loss": "discriminator's loss (nats per token)",
    "auc": "replaced tokens told from others (ROC AUC)",
}


def plot_losses(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses, accuracy and AUC of training and held-out text by step, into `path` if there is any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in _LABELS if any(line.get(name) is not None for line in lines)]
    if "generator_loss" in names:
        # The sum of both losses tells little.
        names.remove("loss")
    if not names:
        return
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for name, axes in zip(names, figure.subplots(rows, columns, squeeze=False).flat, strict=True):
        steps, values = _curve(lines, "train", name)
        if len(steps):
            axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
            axes.plot(steps, _smoothed(values), color="tab:blue", label="training, running mean")
        axes.plot(*_curve(lines, "held_out", name), color="tab:orange", marker="o", markersize=3, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel(_LABELS[name])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _curve(lines: Sequence[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["step"], line[name]) for line in lines if line["split"] == split and line.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps), np.asarray(values)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Means over a window of a fiftieth of the run, shorter at the start."""
    window = max(1, len(values) // 50)
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
