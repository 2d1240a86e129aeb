"""Plots have titles, units, baselines and legends that say what is drawn."""

import math

import pytest

from deberta_jax.training.plot import Curve, draw_losses, plot_losses

LOSS = Curve("Training: loss", "loss (nats per token)", {"best constant": 6.0, "uniform guess": 8.0})
ACCURACY = Curve("Training: accuracy", "accuracy", {"majority-class baseline": 0.05}, percent=True)


def lines(loss, accuracy, steps=200):
    """A curve from 8 nats and 0 % to other values, with an evaluation every 50 steps."""
    shares = [(k / steps, "train", k) for k in range(1, steps + 1)]
    shares += [(k / steps, "held_out", k) for k in range(50, steps + 1, 50)]
    start = loss[0], accuracy[0]
    return [
        {
            "step": step,
            "split": split,
            "loss": start[0] + share * (loss[1] - start[0]),
            "accuracy": start[1] + share * (accuracy[1] - start[1]),
        }
        for share, split, step in shares
    ]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_metrics_with_values_are_plotted(tmp_path):
    plot_losses([], tmp_path / "none.png", {"loss": LOSS})
    assert not (tmp_path / "none.png").exists()
    line = {"step": 1, "split": "train", "loss": 2.0, "other": 1.0}
    for name, metrics in ("one", ("loss", "accuracy")), ("three", ("loss", "step", "other")):
        plot_losses([line], tmp_path / f"{name}.png", dict.fromkeys(metrics, LOSS))
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "three.png"]


def test_a_plot_says_what_is_drawn():
    loss, accuracy = draw_losses(lines((8, 4), (0, 0.3)), {"loss": LOSS, "accuracy": ACCURACY}).axes
    assert (loss.get_title(), loss.get_xlabel(), loss.get_ylabel()) == (LOSS.title, "step", LOSS.label)
    training = ["training, each step", "training, mean of 4 steps", "held out"]
    assert legend(loss) == [*training, "best constant: 6", "uniform guess: 8"]
    assert legend(accuracy) == [*training, "majority-class baseline: 5.0%"]
    assert accuracy.yaxis.get_major_formatter()(0.25, 0) == "25%"
    assert [line.get_ydata()[0] for line in loss.lines[3:]] == [6.0, 8.0]


def test_the_mean_is_that_of_the_last_steps_and_of_fewer_at_the_start():
    (axes,) = draw_losses(lines((8, 4), (0, 0)), {"loss": LOSS}).axes
    values, means = axes.lines[0].get_ydata(), axes.lines[1].get_ydata()
    assert means[0] == values[0] and means[-1] == pytest.approx(values[-4:].mean())


def test_a_short_run_has_no_mean():
    (axes,) = draw_losses(lines((8, 4), (0, 0), steps=60), {"loss": LOSS}).axes
    assert legend(axes)[:2] == ["training, each step", "held out"]


def test_a_distant_baseline_does_not_flatten_the_curve_but_is_listed():
    (axes,) = draw_losses(lines((2.0, 1.8), (0, 0)), {"loss": LOSS}).axes
    assert legend(axes)[3:] == ["best constant: 6 (outside)", "uniform guess: 8 (outside)"]
    assert axes.get_ylim()[1] < 2.1


def test_a_baseline_may_depend_on_the_evaluation():
    curve = Curve("Discriminator", "nats", {"best constant": lambda line: -math.log(line["accuracy"])})
    history = lines((1, 0.5), (0.1, 0.5))
    (axes,) = draw_losses(history, {"loss": curve}).axes
    values = [-math.log(line["accuracy"]) for line in history if line["split"] == "held_out"]
    assert axes.lines[-1].get_ydata().tolist() == pytest.approx(values)
    (axes,) = draw_losses(history[:10], {"loss": curve}).axes
    assert legend(axes) == ["training, each step"]


def test_the_background_is_white_also_in_a_dark_page(tmp_path):
    from matplotlib.image import imread

    plot_losses(lines((8, 4), (0, 0.3)), tmp_path / "loss.png", {"loss": LOSS})
    image = imread(tmp_path / "loss.png")
    assert image[0, 0].tolist() == [1, 1, 1, 1] and (image[..., 3] == 1).all()
