"""The figures of a report, each a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deberta_jax.finetuning.calibration import Bin

# Told apart by those who see few colours, too (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
# So many classes can be read in a matrix.
MOST_CLASSES = 20


def _figure(width: float | int, height: float | int, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight")
    return path


def plain(name: str) -> str:
    """A name of signs that the figures' font has; others are left to the tables."""
    shown = "".join(sign if sign.isascii() or "\u00a0" <= sign <= "\u04ff" else "?" for sign in name)
    shown = shown.replace("$", r"\$")
    return shown if len(shown) <= 18 else f"{shown[:17]}…"


def curves(lines: Sequence[Mapping[str, Any]], metric: str, path: Path) -> Path | None:
    """Training loss, and the metric on held-out data, by step."""
    train = [
        (line["step"], line["loss"]) for line in lines if line["split"] == "train" and line.get("loss") is not None
    ]
    held = [
        (line["step"], line[metric]) for line in lines if line["split"] == "held_out" and line.get(metric) is not None
    ]
    if not train and not held:
        return None
    figure, (left, right) = _figure(9, 3.4, 2)
    if train:
        steps, losses = np.asarray(train).T
        left.plot(steps, losses, color=_BLUE, alpha=0.25, linewidth=0.8)
        window = max(1, len(losses) // 30)
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        left.plot(steps[window - 1 :], smooth, color=_BLUE, label=f"mean of {window} steps")
        if window > 1:
            left.legend(frameon=False)
    left.set(xlabel="step", ylabel="training loss")
    if held:
        steps, values = np.asarray(held).T
        best = int(values.argmax())
        right.plot(steps, values, color=_ORANGE, marker="o", markersize=4)
        right.plot(steps[best], values[best], "o", markersize=11, fillstyle="none", color=_GREEN)
        right.annotate(
            f"{values[best]:.4g}", (steps[best], values[best]), (0, 9), textcoords="offset points", ha="center"
        )
        right.margins(y=0.2)
    right.set(xlabel="step", ylabel=f"{plain(metric)}, held out")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def confusion(matrix: Int[np.ndarray, "C C"], labels: Sequence[str], path: Path) -> Path:
    """Of each true label (rows) the part that is predicted as each (columns), with the numbers."""
    C = len(labels)
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = max(3.6, 0.55 * C + 1.8)
    figure, (axes,) = _figure(size + 0.8, size)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for row in range(C):
        for column in range(C):
            if matrix[row, column]:
                dark = parts[row, column] > 0.55
                colour, size_of_text = ("white" if dark else "black"), (9 if C <= 10 else 7)
                shown = f"{matrix[row, column]:,}"
                axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=size_of_text)
    names = [plain(label) for label in labels]
    axes.set_xticks(range(C), names, rotation=45 if C > 3 else 0, ha="right" if C > 3 else "center")
    axes.set_yticks(range(C), names)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, shrink=0.8, label="part of the true label")
    return _saved(figure, path)


def reliability(found: Sequence[Bin], error: float, path: Path) -> Path:
    """The part that is right by confidence, and how many predictions there are of each."""
    figure, (left, right) = _figure(8, 3.6, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    left.plot([b.confidence for b in found], [b.right for b in found], color=_BLUE, marker="o", label="model")
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="right", title=f"ECE {error:.3f}")
    left.legend(frameon=False)
    right.bar([b.confidence for b in found], [b.number for b in found], width=0.05, color=_BLUE)
    right.set(xlim=(0, 1), xlabel="confidence", ylabel="predictions")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def numbers(wanted: Sequence[float], found: Sequence[float], path: Path) -> Path:
    """Predicted against true numbers, and the errors."""
    figure, (left, right) = _figure(8, 3.6, 2)
    ends = [min(*wanted, *found), max(*wanted, *found)]
    left.plot(ends, ends, color="grey", linewidth=1, linestyle="--")
    left.scatter(wanted, found, s=10, alpha=0.4, color=_BLUE, linewidths=0)
    left.set(xlabel="true", ylabel="predicted")
    right.hist(np.asarray(found) - np.asarray(wanted), bins=30, color=_BLUE)
    right.axvline(0, color="grey", linewidth=1, linestyle="--")
    right.set(xlabel="predicted - true", ylabel="examples")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def bars(values: Mapping[str, float], label: str, path: Path) -> Path:
    """A value for each name, the first on top."""
    figure, (axes,) = _figure(7, 0.34 * len(values) + 1.1)
    names = [plain(name) for name in values]
    places = np.arange(len(values))[::-1]
    drawn = axes.barh(places, list(values.values()), color=_BLUE, height=0.65)
    axes.bar_label(drawn, fmt="%.3g", padding=4)
    axes.set_yticks(places, names)
    axes.set(xlabel=label)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def seeds(values: Sequence[float], metric: str, path: Path) -> Path:
    """A dot for each seed, and the median."""
    figure, (axes,) = _figure(6, 1.7)
    axes.plot(values, np.zeros(len(values)), "o", color=_BLUE, alpha=0.6, markersize=9)
    axes.axvline(float(np.median(values)), color=_ORANGE, label=f"median {np.median(values):.4g}")
    axes.set(xlabel=f"{plain(metric)} of each seed", yticks=[])
    axes.legend(frameon=False, loc="upper left")
    axes.margins(x=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _saved(figure, path)
