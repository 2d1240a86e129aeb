"""The figures of docs/concepts.md: `python benchmarks/concept_figures.py [FOLDER]` writes them as PNG files."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import deberta_jax as dj

BLUE, ORANGE, GRAY = "#3b6ea8", "#d9822b", "#b8bec6"
# The relative positions of v2 and v3.
BUCKETS, MAX_DISTANCE = 256, 512
# The example of He et al. 2021, section 1; the two masked words of the paper are written out.
WORDS = ["a", "new", "store", "opened", "beside", "the", "new", "mall"]
# The features of a content vector of the example: article, adjective, noun, verb or preposition.
ARTICLE, ADJECTIVE, NOUN, OTHER = np.eye(4)
CONTENT = [ARTICLE, ADJECTIVE, NOUN, OTHER, OTHER, ARTICLE, ADJECTIVE, NOUN]
Boxes = dict[str, tuple[float, float]]


def example_head() -> tuple[np.ndarray, ...]:
    """A head written by hand: q, k [1, T, 1, 4], rel_k, rel_q [R, 1, 4], and the index."""
    T = len(WORDS)
    index = dj.relative_index(T, T, buckets=-1, max_distance=T)
    content = np.asarray(CONTENT, np.float32)[None, :, None]
    rel_k, rel_q = np.zeros((2, 2 * T, 1, 4), np.float32)
    # By what the query is: an adjective looks one word to the right, an article one and two, a verb to both sides.
    for feature, distance, score in ((1, -1, 6), (0, -2, 9), (0, -1, 4), (3, -1, 5), (3, 1, 5)):
        rel_k[T + distance, 0, feature] = score
    # By what the key is: a noun is read from the two words to its right, a verb from both sides.
    for feature, distance, score in ((2, 1, 5), (2, 2, 3), (3, -1, 3), (3, 1, 3)):
        rel_q[T + distance, 0, feature] = score
    return content * np.asarray([1, 2, 5, 2], np.float32), content, rel_k, rel_q, index


def plot_words(axes: Axes, values: np.ndarray, title: str, colors: str, label: str) -> None:
    image = axes.imshow(values, cmap=colors, vmin=0)
    axes.set_xticks(range(len(WORDS)), WORDS, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(WORDS)), WORDS)
    axes.set(title=title, xlabel="key", ylabel="query")
    axes.figure.colorbar(image, ax=axes, shrink=0.7, label=label)


def terms() -> Figure:
    """The three terms of a head, and its attention."""
    q, k, rel_k, rel_q, index = example_head()
    figure = Figure(figsize=(9.5, 7.8), layout="constrained")
    panels = {
        "c2c: word and word": dj.c2c_scores(q, k),
        "c2p: the query's word and the distance": dj.c2p_scores(q, rel_k, index),
        "p2c: the key's word and the distance": dj.p2c_scores(k, rel_q, index),
    }
    axes = figure.subplots(2, 2).flat
    for (title, values), panel in zip(panels.items(), axes, strict=False):
        plot_words(panel, np.asarray(values[0, 0]), title, "Blues", "score, before scaling")
    probabilities = dj.attention_probabilities(q, k, rel_k, rel_q, index=index)
    plot_words(axes[3], np.asarray(probabilities[0, 0]), "Softmax of the scaled sum", "Oranges", "probability")
    return figure


def buckets() -> Figure:
    """The bucket of a distance, how many distances share it, and the two rules beyond the maximum distance."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    by_distance, width, beyond = figure.subplots(1, 3)
    near = np.arange(MAX_DISTANCE)
    bucket = dj.log_bucket(near, BUCKETS, MAX_DISTANCE)
    by_distance.plot(near, near, color=ORANGE, linestyle="--", label="v1: one row for each distance")
    by_distance.plot(near, bucket, color=BLUE, label="v2 and v3: 256 buckets")
    by_distance.set(xlabel="distance in tokens", ylabel="bucket", title="Distances to buckets")
    by_distance.legend()
    width.plot(np.arange(BUCKETS), np.bincount(bucket, minlength=BUCKETS), color=BLUE)
    width.set(xlabel="bucket", ylabel="distances in the bucket", title="Near distances are exact", ylim=(0, None))
    far = np.arange(1500)
    for clamp, color, label in ((True, BLUE, "clamp first (Microsoft)"), (False, ORANGE, "no clamp (Hugging Face)")):
        row = np.clip(BUCKETS - dj.log_bucket(far, BUCKETS, MAX_DISTANCE, clamp=clamp), 0, 2 * BUCKETS - 1)
        beyond.plot(far, row, color=color, linestyle="-" if clamp else "--", label=label)
    beyond.axvline(MAX_DISTANCE, color=GRAY)
    beyond.set(xlabel="distance of a key to the right, tokens", ylabel="row of the relative table", ylim=(-1, 12))
    beyond.set(title="Beyond 512 tokens: rows 1 and 0", xlim=(400, 1500))
    beyond.legend()
    return figure


def draw_boxes(axes: Axes, boxes: Boxes, colors: dict[str, str], width: float, height: float) -> None:
    for text, (x, y) in boxes.items():
        color = colors.get(text, "#eef1f5")
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(mpl.patches.FancyBboxPatch(corner, width, height, "round,pad=0.02", fc=color, ec="#555555"))
        axes.text(x, y, text, ha="center", va="center")
    axes.axis("off")


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555"})
    axes.text((start[0] + end[0]) / 2 + 0.08, (start[1] + end[1]) / 2, label, va="center")


def decoder() -> Figure:
    """Where the enhanced mask decoder adds absolute positions."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    boxes = {
        "words, without positions": (0, 0),
        "layers 1 to L - 1": (0, 1),
        "x: states of layer L - 1": (0, 2),
        "absolute positions": (2.4, 1),
        "q0 = x + positions": (2.4, 2),
        "last layer": (2.4, 3),
        "the last layer again": (2.4, 4),
        "masked-LM head": (4.8, 4),
    }
    colors = {"absolute positions": "#f7dcc0", "last layer": "#cfe0f2", "the last layer again": "#cfe0f2"}
    draw_boxes(axes, boxes, colors, 1.7, 0.5)
    for x, y in ((0, 0), (0, 1), (2.4, 1)):
        draw_arrow(axes, (x, y + 0.27), (x, y + 0.73))
    draw_arrow(axes, (0.87, 2), (1.53, 2))
    for end in (3, 4):
        draw_arrow(axes, (0.3, 2.27), (1.53, end))
    axes.text(0.2, 3.2, "keys and values", ha="center")
    for y, label in ((2.27, "q0"), (3.27, "q1")):
        draw_arrow(axes, (2.4, y), (2.4, y + 0.46), f"queries, residual: {label}")
    draw_arrow(axes, (3.27, 4), (3.93, 4))
    axes.set(xlim=(-1, 5.8), ylim=(-0.4, 4.4))
    return figure


def replaced_tokens() -> Figure:
    """Generator and discriminator, and what flows between them."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    boxes = {
        "the [MASK] eats": (0, 0),
        "generator": (0, 1.2),
        "the dog eats": (3, 0),
        "discriminator": (3, 1.2),
        "loss at [MASK]:\ncat": (0, 2.4),
        "loss at every token:\noriginal, replaced, original": (3, 2.4),
        "E_G": (-2.4, 1.2),
        "stopped E_G + E_Δ": (5.4, 1.2),
    }
    colors = {"generator": "#cfe0f2", "discriminator": "#cfe0f2", "E_G": "#f7dcc0", "stopped E_G + E_Δ": "#f7dcc0"}
    draw_boxes(axes, boxes, colors, 2.0, 0.5)
    for x in (0, 3):
        draw_arrow(axes, (x, 0.27), (x, 0.93))
        draw_arrow(axes, (x, 1.47), (x, 2.13))
    draw_arrow(axes, (0.5, 0.93), (1.97, 0.1))
    axes.text(1.45, 0.6, "sampled,\nno gradient")
    draw_arrow(axes, (-1.38, 1.2), (-1.02, 1.2))
    draw_arrow(axes, (4.38, 1.2), (4.02, 1.2))
    axes.text(-2.4, 0.8, "embeddings of\nthe generator", ha="center", va="top")
    axes.text(5.4, 0.8, "embeddings of\nthe discriminator", ha="center", va="top")
    axes.set(xlim=(-3.5, 6.5), ylim=(-0.4, 2.8))
    return figure


def main(folder: Path) -> None:
    mpl.rcParams["font.size"] = 9
    for name, draw in (
        ("concepts_terms", terms), ("concepts_buckets", buckets), ("concepts_decoder", decoder),
        ("concepts_replaced_tokens", replaced_tokens),
    ):  # fmt: skip
        path = folder / f"{name}.png"
        draw().savefig(path, dpi=100)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
