"""The figures of a report, each a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deberta_jax.finetuning.calibration import Bin
from deberta_jax.tasks.selected_metrics import lower_is_better
from deberta_jax.training.plot import BLUE, GREEN, ORANGE, Curve, draw_curve

# A confusion matrix with more classes is unreadable.
MAX_CLASSES = 20
# The label of the color bar.
SHARE = "share of the true label"
_MAX_NAME = 18
# Longer names of columns of a confusion matrix are rotated.
_MAX_LEVEL = 7
_TICKS = 5


def learning_curves(
    lines: Sequence[Mapping[str, Any]], metric: str, path: Path, baselines: Mapping[str, float], loss: str
) -> Path | None:
    """Training loss, and a metric on the development set with baselines, by step; None if `lines` have neither.

    `loss` names the loss and its unit.
    """
    train, held_out = (
        [line for line in lines if line["split"] == split and line.get(name) is not None]
        for split, name in (("train", "loss"), ("held_out", metric))
    )
    if not train and not held_out:
        return None
    figure, (left, right) = _subplots(9, 3.4, 2)
    if train:
        draw_curve(left, train, "loss", Curve("Training loss", loss))
    if held_out:
        values = np.asarray([line[metric] for line in held_out])
        best = int(values.argmin() if lower_is_better(metric) else values.argmax())
        position = (held_out[best]["step"], values[best])
        right.plot(*position, "o", markersize=11, fillstyle="none", color=GREEN, label=f"best: {values[best]:.4g}")
        curve = Curve(f"Development set: {plain_name(metric)}", plain_name(metric), baselines)
        draw_curve(right, held_out, metric, curve)
        right.margins(y=0.2)
    _style(left, right)
    return _save(figure, path)


def confusion(matrix: Int[np.ndarray, "C C"], labels: Sequence[str], path: Path) -> Path:
    """The share of each true label (row) that is predicted as each label (column), with counts.

    Labels that are neither true nor predicted are left out.
    """
    occurs = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix, labels = matrix[np.ix_(occurs, occurs)], [labels[index] for index in occurs.tolist()]
    C = len(labels)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = max(3.6, 0.55 * C + 1.8)
    figure, (axes,) = _subplots(size + 0.8, size)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix).tolist():
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.55 else "black",
            fontsize=9 if C <= 10 else 7,
        )
    names = [plain_name(label) for label in labels]
    is_rotated = C > 3 or max(map(len, names)) > _MAX_LEVEL
    axes.set_xticks(
        range(C),
        names,
        rotation=45 if is_rotated else 0,
        ha="right" if is_rotated else "center",
        rotation_mode="anchor",
        va="top" if not is_rotated else "center",
    )
    axes.set_yticks(range(C), names)
    axes.set(xlabel="predicted", ylabel="true", title="Number of examples")
    figure.colorbar(image, ax=axes, shrink=0.8, label=SHARE)
    return _save(figure, path)


def reliability(bins: Sequence[Bin], error: float, path: Path) -> Path:
    """The accuracy by confidence, and the number of predictions in each bin."""
    figure, (left, right) = _subplots(8, 3.6, 2)
    confidences = [b.confidence for b in bins]
    left.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    left.plot(confidences, [b.accuracy for b in bins], color=BLUE, marker="o", label="model", clip_on=False)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=f"Accuracy, ECE {error:.3f}")
    left.legend(frameon=False)
    right.bar(confidences, [b.size for b in bins], width=0.05, color=BLUE)
    right.set(xlim=(0, 1), xlabel="confidence", ylabel="predictions", title="Number of predictions")
    _style(left, right)
    return _save(figure, path)


def scatter(true: Sequence[float], predicted: Sequence[float], path: Path) -> Path:
    """Predicted against true numbers, beside their mean, which is the best constant, and a histogram of the errors."""
    figure, (left, right) = _subplots(8, 3.6, 2)
    ends = [min(*true, *predicted), max(*true, *predicted)]
    left.plot(ends, ends, color="grey", linewidth=1, linestyle="--", label="predicted = true")
    mean = float(np.mean(true))
    left.axhline(mean, color=ORANGE, linewidth=1, linestyle=":", label=f"best constant: {mean:.4g}")
    left.scatter(true, predicted, s=10, alpha=0.4, color=BLUE, linewidths=0, label="example")
    left.set(xlabel="true", ylabel="predicted", title="Predicted and true numbers")
    left.legend(fontsize="small")
    errors = np.asarray(predicted) - np.asarray(true)
    right.hist(errors, bins=30, color=BLUE)
    right.axvline(0, color="grey", linewidth=1, linestyle="--")
    rmse = float(np.sqrt(np.mean(errors**2)))
    title = f"Errors: RMSE {rmse:.3g} (best constant {float(np.std(true)):.3g})"
    right.set(xlabel="predicted - true", ylabel="examples", title=title)
    for axes in (left, right):
        axes.ticklabel_format(scilimits=(-3, 4))
    _style(left, right)
    return _save(figure, path)


def bars(values: Mapping[str, float], label: str, path: Path, *, title: str) -> Path:
    """One bar per name, the first at the top."""
    figure, (axes,) = _subplots(7, 0.34 * len(values) + 1.1)
    positions = np.arange(len(values))[::-1]
    drawn = axes.barh(positions, list(values.values()), color=BLUE, height=0.65)
    axes.bar_label(drawn, fmt="%.3g", padding=4)
    axes.set_yticks(positions, [plain_name(name) for name in values])
    axes.set(xlabel=label, title=title)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def seeds(values: Sequence[float], metric: str, path: Path, baselines: Mapping[str, float], noun: str = "seed") -> Path:
    """One dot per seed or fold, the median, and baselines."""
    figure, (axes,) = _subplots(8, 1.7)
    median = float(np.median(values))
    axes.plot(values, np.zeros(len(values)), "o", color=BLUE, alpha=0.6, markersize=9)
    axes.axvline(median, color=ORANGE, label=f"median: {median:.4g}")
    for name, baseline in baselines.items():
        axes.axvline(baseline, color="grey", linestyle="--", label=f"{name}: {baseline:.4g}")
    axes.set(xlabel=plain_name(metric), yticks=[], title=f"{plain_name(metric)} of each {noun}")
    # Beside the axes, where it covers nothing.
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.margins(x=0.1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _save(figure, path)


def plain_name(name: str) -> str:
    """A name in characters that the font of the figures has; long names are truncated."""
    shown = "".join(sign if sign.isascii() or "\u00a0" <= sign <= "\u04ff" else "?" for sign in name)
    if len(shown) <= _MAX_NAME:
        return _escaped(shown)
    # The ends of long names differ as often as their starts.
    half = (_MAX_NAME - 1) // 2
    return _escaped(f"{shown[: _MAX_NAME - 1 - half]}…{shown[-half:]}")


def _escaped(name: str) -> str:
    """A name without the signs of formulas."""
    return name.replace("$", r"\$")


def _subplots(width: float | int, height: float | int, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _style(*subplots: Any) -> None:
    for axes in subplots:
        axes.locator_params(nbins=_TICKS)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight")
    return path
