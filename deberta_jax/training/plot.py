"""Plots of the metrics of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.files import replace_file

# Distinguishable with color vision deficiency (Okabe and Ito 2008).
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
_BASELINES = ("#4D4D4D", "--"), ("#8C8C8C", ":")
# A baseline is inside the axis if the curves then still cover this share of it.
_MIN_SHARE = 0.1

Line = Mapping[str, Any]
# The value of a prediction without a model: one number, or the value for a line of held-out metrics.
Baseline = float | Callable[[Line], float]


class Curve(NamedTuple):
    """How a metric is plotted: the title, the label of its axis with the unit, and baselines by name.

    The values of a curve in percent are shares.
    """

    title: str
    label: str
    baselines: Mapping[str, Baseline] = {}
    percent: bool = False

    def text(self, value: float) -> str:
        """A value with the unit of the axis."""
        return f"{value:.1%}" if self.percent else f"{value:.4g}"


Curves = Mapping[str, Curve]


def plot_losses(lines: Sequence[Line], path: Path, curves: Curves) -> None:
    """Plot metrics of training and held-out data over the steps into a PNG file.

    `lines` are those of `metrics.jsonl`, `curves` says which metrics are plotted and how. Metrics without values are
    left out; without any there is no file.
    """
    figure = draw_losses(lines, curves)
    if figure is not None:
        replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120, facecolor="white"))


def draw_losses(lines: Sequence[Line], curves: Curves) -> Any:
    """The figure of `plot_losses`, one subplot per curve; None without values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in curves if any(line.get(name) is not None for line in lines)]
    if not names:
        return None
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for position, name in enumerate(names, start=1):
        draw_curve(figure.add_subplot(rows, columns, position), lines, name, curves[name])
    return figure


def draw_curve(axes: Any, lines: Sequence[Line], name: str, curve: Curve) -> None:
    """Draw a metric of training and held-out data, its running mean and its baselines."""
    steps, values = _points(lines, "train", name)
    if len(steps):
        window = max(1, len(values) // 50)
        raw = {"alpha": 0.3, "linewidth": 0.8} if window > 1 else {}
        axes.plot(steps, values, color=BLUE, label="training, each step", **raw)
        if window > 1:
            axes.plot(steps, _running_mean(values, window), color=BLUE, label=f"training, mean of {window} steps")
    held_out = _points(lines, "held_out", name)
    if len(held_out[0]):
        axes.plot(*held_out, color=ORANGE, marker="o", markersize=4, label="held out")
    for (key, baseline), (color, style) in zip(curve.baselines.items(), _BASELINES, strict=False):
        _draw_baseline(axes, lines, key, baseline, curve, {"color": color, "linestyle": style, "linewidth": 1.2})
    axes.set(title=curve.title, xlabel="step", ylabel=curve.label)
    if curve.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _draw_baseline(
    axes: Any, lines: Sequence[Line], name: str, baseline: Baseline, curve: Curve, style: Mapping[str, Any]
) -> None:
    """Draw a line at a baseline, or only list its value where the line would flatten the curves."""
    if callable(baseline):
        points = [(line["step"], baseline(line)) for line in lines if line["split"] == "held_out"]
        if not points:
            return
        value = points[-1][1]
    else:
        points, value = [], baseline
    label = f"{name}: {curve.text(value)}"
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if high - low < _MIN_SHARE * (max(high, value) - min(low, value)) and high > low:
        axes.plot([], [], label=f"{label} (outside)", **style)
    elif points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
    else:
        axes.axhline(value, label=label, **style)


def _points(lines: Sequence[Line], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["step"], line[name]) for line in lines if line["split"] == split and line.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps), np.asarray(values)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over the last `window` values, over fewer at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
