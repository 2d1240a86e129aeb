"""The figures of docs/attention.md: `python benchmarks/attention_figures.py [FOLDER]` writes them as PNG files."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deberta_jax.ops.fused import constant_beyond
from deberta_jax.ops.positions import relative_index

# The relative positions of v2 and v3.
BUCKETS, MAX_DISTANCE = 256, 512
TILE = 128
BLUE, ORANGE, GRAY = "#3b6ea8", "#d9822b", "#b8bec6"


def plot_rows(axes: Axes) -> None:
    """Row of the relative table by distance."""
    reach = 1000
    index = relative_index(reach + 1, reach + 1, buckets=BUCKETS, max_distance=MAX_DISTANCE)
    distances = np.arange(reach, -reach - 1, -1)
    axes.plot(distances, index, color=BLUE, label="row")
    band = constant_beyond(index)
    for edge, label in ((-band, None), (band, f"±{band}: constant beyond")):
        axes.axvline(edge, color=ORANGE, linestyle="--", label=label)
    axes.legend(loc="lower right", fontsize=8)
    axes.set(
        xlabel="distance, query minus key",
        ylabel="row of the relative table",
        title="Row by distance",
    )


def plot_shift(by_distance: Axes, by_key: Axes) -> None:
    """Distances of the scores of 6 queries and 6 keys, before and after the shift."""
    T = S = 6
    distance = np.broadcast_to(np.arange(T - 1, -S, -1), (T, T + S - 1))
    used = np.array([[0 <= w - (T - 1 - t) < S for w in range(T + S - 1)] for t in range(T)])
    keys = np.arange(T)[:, None] - np.arange(S)
    for axes, values, shown, label in (
        (by_distance, distance, used, "distance"),
        (by_key, keys, np.ones_like(keys, bool), "key"),
    ):
        axes.imshow(np.where(shown, values, np.nan), cmap="coolwarm", vmin=-T, vmax=T)
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, value, ha="center", va="center", color="black" if shown[row, column] else GRAY)
        axes.set(xlabel=label, ylabel="query", xticks=[], yticks=range(T))
    by_distance.set_title("One product: a score for each distance")
    by_key.set_title("Row t shifted by t: scores by key")


def tile_kinds(tokens: int, documents: list[int]) -> np.ndarray:
    """0 for a pair of tiles that is skipped, 1 for far, 2 for near; `documents` are lengths."""
    tiles = tokens // TILE
    index = relative_index(tokens, tokens, buckets=BUCKETS, max_distance=MAX_DISTANCE)
    offset = np.abs(np.arange(tiles)[:, None] - np.arange(tiles)) * TILE
    near = offset - (TILE - 1) < constant_beyond(index)
    document = np.repeat(np.arange(len(documents)), documents).reshape(tiles, TILE)
    first, last = document.min(1), document.max(1)
    visible = (first[:, None] <= last) & (first <= last[:, None])
    return np.where(visible, 1 + near, 0)


def plot_tiles(axes: Axes, tokens: int, documents: list[int], title: str) -> None:
    kinds = tile_kinds(tokens, documents)
    axes.imshow(kinds, cmap=mpl.colors.ListedColormap(["white", GRAY, BLUE]), vmin=0, vmax=2)
    axes.set(xlabel="tile of keys", ylabel="tile of queries", title=title)


def plot_cost(axes: Axes) -> None:
    """Products of one head relative to attention without positions."""
    lengths = 2 ** np.arange(7, 16)
    costs = []
    for length in lengths:
        kinds = tile_kinds(max(length, TILE), [max(length, TILE)])
        costs.append(1 + (kinds == 2).mean())
    axes.plot(lengths, costs, marker="o", color=BLUE)
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    axes.legend(["two position terms", "plain attention"])
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens", ylabel="operations, plain attention = 1", title="Work by length", ylim=(0.9, 2.1))


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    print(path)


def main(folder: Path) -> None:
    mpl.rcParams["font.size"] = 9
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    rows, by_distance, by_key = figure.subplots(1, 3, width_ratios=(1.1, 1.5, 0.9))
    plot_rows(rows)
    plot_shift(by_distance, by_key)
    save(figure, folder / "attention_distances.png")
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    one, packed, cost = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    plot_tiles(one, 4096, [4096], "One text of 4,096 tokens")
    plot_tiles(packed, 4096, [1500, 700, 1896], "Three packed documents")
    labels = {"near: each distance has its row": BLUE, "far: one row on each side": GRAY, "skipped": "white"}
    handles = [mpl.patches.Patch(facecolor=color, edgecolor="gray", label=label) for label, color in labels.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    plot_cost(cost)
    save(figure, folder / "attention_tiles.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
