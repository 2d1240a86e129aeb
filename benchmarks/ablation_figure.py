"""The figure of the ablation: differences to DeBERTa, beside those of the paper."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from ablation_setup import DEBERTA, VARIANTS

# He et al. 2021, Table 4 (base, one million steps): MNLI-m accuracy, SQuAD 2.0 F1, RACE accuracy. The row of absolute
# positions is their own run of RoBERTa. Table 13 has only MNLI for the last two.
PAPER: dict[str, tuple[float, ...]] = {
    DEBERTA: (86.3, 82.5, 71.7),
    "without EMD": (86.1, 81.3, 70.3),
    "without c2p": (85.9, 81.3, 69.3),
    "without p2c": (86.0, 80.8, 69.6),
    "without EMD and c2p": (85.8, 80.3, 68.1),
    "without EMD and p2c": (85.8, 80.2, 68.5),
    "absolute positions (BERT)": (84.9, 79.5, 66.8),
    "with convolution": (86.3,),
    "with shared projections": (86.3,),
}
PAPER_METRICS = ("MNLI-m", "SQuAD 2.0 F1", "RACE")
_LABELS = {"loss": "held-out loss (nats)", "accuracy": "held-out accuracy (points)"}
# Whether a difference exceeds the noise -> its color and its name.
_COLORS = {False: ("tab:blue", "within the noise"), True: ("tab:red", "beyond the noise")}


def _columns(values: Iterable[Any]) -> tuple[list[float], list[float]]:
    values = list(values)
    return [value.difference for value in values], [value.error for value in values]


def draw(compared: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], file: Path) -> None:
    """Save a panel for the paper's Table 4, and one per metric with paired standard errors and a band of noise."""
    names = [name for name in VARIANTS if name in compared["loss"]]
    rows = {name: len(names) - 1 - index for index, name in enumerate(names)}
    figure, axes = plt.subplots(
        1, 1 + len(columns), figsize=(3.1 * (1 + len(columns)), 0.42 * len(names) + 2), layout="constrained"
    )
    paper, *panels = axes
    for index, (metric, marker) in enumerate(zip(PAPER_METRICS, "osD", strict=True)):
        values = {name: PAPER[name][index] for name in names if len(PAPER.get(name, ())) > index}
        points = [(value - PAPER[DEBERTA][index], rows[name]) for name, value in values.items()]
        paper.plot(*zip(*points, strict=True), marker, label=metric, markersize=5)
    paper.set_title("paper, Tables 4 and 13", fontsize=10)
    paper.set_xlabel("difference (points)", fontsize=9)
    paper.legend(fontsize=7, loc="lower left")
    for axis, (metric, title) in zip(panels, columns.items(), strict=True):
        scale = 1 if metric == "loss" else 100
        label = _LABELS.get(metric, f"{title} (points)")
        critical = scale * compared[metric][DEBERTA].critical
        if math.isfinite(critical):
            axis.axvspan(-critical, critical, color="0.9", label="noise: p > 5 %")
        for is_beyond, (color, key) in _COLORS.items():
            shown = {n: v for n, v in compared[metric].items() if n in names and v.exceeds_noise == is_beyond}
            differences, errors = ([scale * x for x in column] for column in _columns(shown.values()))
            points = [rows[name] for name in shown]
            axis.errorbar(differences, points, xerr=errors, fmt="o", color=color, capsize=3, label=key)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel(f"difference; {'lower' if metric == 'loss' else 'higher'} is better", fontsize=9)
    for index, axis in enumerate(axes):
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_yticks(list(rows.values()), list(rows) if index == 0 else [])
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    handles, keys = panels[0].get_legend_handles_labels()
    figure.suptitle(f"Differences to {DEBERTA}, and their standard errors", fontsize=11)
    figure.legend(handles, keys, loc="outside lower center", ncols=len(keys), fontsize=8, frameon=False)
    figure.savefig(file, dpi=110, facecolor="white")
    plt.close(figure)
