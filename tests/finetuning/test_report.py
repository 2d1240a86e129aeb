"""The report is one file without external resources, for every kind of task and any predictions."""

import base64
import html.parser
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

from deberta_jax.finetuning import figures
from deberta_jax.finetuning.calibration import Bin
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.outcomes import PredictedExample
from deberta_jax.finetuning.report import write_report
from deberta_jax.finetuning.run import _curves
from deberta_jax.finetuning.sections import class_sections, class_table
from deberta_jax.tasks.examples import (
    ChoiceExample,
    EntityExample,
    Seq2SeqExample,
    SpanExample,
    SpanPrediction,
    TextExample,
    WordsExample,
)

EVIL = "<script>alert('x')</script> & \"日本\" $x$ " + "long " * 100
CURVE = [{"step": k, "split": "train", "loss": 1 / k} for k in range(1, 40)] + [
    {"step": 20, "split": "held_out", "accuracy": 0.4},
    {"step": 39, "split": "held_out", "accuracy": 0.6},
]


def text(label):
    return TextExample("1", EVIL, EVIL, label, "group $1")


PREDICTED = {
    "single_label": [PredictedExample(text(a), b, {"a": 0.3, "b": 0.7}) for a, b in ("ab", "bb", "aa", "<b")],
    "regression": [PredictedExample(text(float(k)), k + 0.5 * (k % 3), None) for k in range(6)],
    "ordinal": [PredictedExample(text(a), b, {"1": 0.3, "2": 0.7}) for a, b in ("12", "22", "11")],
    "multi_label": [
        PredictedExample(text(("a",)), ("a", "b"), {"a": 0.9, "b": 0.6}),
        PredictedExample(text(()), (), {"a": 0.1, "b": 0.2}),
    ],
    "token": [
        PredictedExample(WordsExample("1", ("A", EVIL), ("B-X", "I-X"), (2,)), ("B-X", "O"), None),
        PredictedExample(WordsExample("2", ("A", "b"), ("O", "B-Y"), (2,)), ("O", "B-X"), None),
    ],
    "extractive_qa": [
        PredictedExample(SpanExample("1", EVIL, EVIL, (("the fox", 0),)), SpanPrediction("fox that", 0.1), None),
        PredictedExample(SpanExample("2", "q", "c", ()), SpanPrediction("", 0.1), None),
    ],
    "multiple_choice": [
        PredictedExample(ChoiceExample("1", ((EVIL, "x"), (EVIL, "y")), 0), 1, {"0": 0.4, "1": 0.6}),
        PredictedExample(ChoiceExample("2", (("a", "x"), ("a", "y")), 1), 1, {"0": 0.1, "1": 0.9}),
    ],
    "entity_ranking": [
        PredictedExample(EntityExample("1", EVIL, "@placeholder", (), ("fox",)), "dog", {"dog": 0.6, "fox": 0.4}),
        PredictedExample(EntityExample("2", "p", "@placeholder", (), ("fox",)), "fox", {"fox": 0.4}),
    ],
    "seq2seq": [
        PredictedExample(Seq2SeqExample("1", EVIL, EVIL), "the fox", None),
        PredictedExample(Seq2SeqExample("2", "a b", "a b"), "a b", None),
    ],
}


class Reader(html.parser.HTMLParser):
    """Records the tags, and checks that each is closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def report_of(folder, kind, predicted, **more):
    """The page and its tags."""
    options = {
        "labels": ("a", "b", "<"),
        "title": f"{kind} <1>",
        "best_metric": "accuracy",
        "metrics": {"accuracy": 0.5},
        "history": CURVE,
        "settings": {"model": "<m>"},
        "rows": ["train.tsv: 4 rows, 4 used"],
    }
    page = write_report(folder, KINDS[kind], predicted=predicted, **(options | more)).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader.tags


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_a_kind_is_complete_and_has_no_external_resources(tmp_path, kind):
    page, tags = report_of(tmp_path, kind, PREDICTED[kind], seeds=[{"accuracy": 0.4}, {"accuracy": 0.6}])
    # Texts of examples are escaped.
    assert not any(tag == "script" for tag, _ in tags)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "<h2>Worst mistakes</h2>" in page
    images = [attributes for tag, attributes in tags if tag == "img"]
    for attributes in images:
        assert attributes["alt"]
        assert base64.b64decode(attributes["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert len(images) == len(list(tmp_path.glob("*.png"))) >= 2


def test_the_worst_mistake_is_first_and_correct_predictions_are_not_listed(tmp_path):
    predicted = [
        PredictedExample(TextExample("1", "right", None, "a"), "a", {"a": 0.9, "b": 0.1}),
        PredictedExample(TextExample("2", "nearly", None, "a"), "b", {"a": 0.4, "b": 0.6}),
        PredictedExample(TextExample("3", "quite wrong", None, "a"), "b", {"a": 0.01, "b": 0.99}),
    ]
    page, _ = report_of(tmp_path, "single_label", predicted)
    mistakes = page.partition("Worst mistakes")[2]
    assert mistakes.index("quite wrong") < mistakes.index("nearly")
    assert ">right<" not in mistakes
    assert "2 of 3 predictions are not correct" in mistakes


def test_labels_mistakes_and_history_may_be_missing(tmp_path):
    unlabelled = [PredictedExample(TextExample("1", "t", None, None), "a", {"a": 1.0})]
    page, _ = report_of(tmp_path, "single_label", unlabelled, history=[], metrics={})
    assert "0 labelled examples of 1" in page
    perfect = [PredictedExample(TextExample("1", "t", None, "a"), "a", {"a": 1.0})]
    page, _ = report_of(tmp_path, "single_label", perfect)
    assert "every prediction is correct" in page


def test_lone_surrogates_are_replaced(tmp_path):
    predicted = [PredictedExample(TextExample("1", "lone \ud800 surrogate", None, "a"), "b", {"a": 0.0, "b": 1.0})]
    assert "lone ? surrogate" in report_of(tmp_path, "single_label", predicted)[0]


def test_many_classes_are_a_table_without_a_matrix(tmp_path):
    predicted = [
        PredictedExample(TextExample("1", "t", None, f"c{k}"), f"c{k // 2}", {f"c{k // 2}": 1.0}) for k in range(30)
    ]
    page, _ = report_of(tmp_path, "single_label", predicted, labels=[f"c{k}" for k in range(30)])
    assert "<h2>Confusion</h2>" not in page
    assert "<h2>Most confused</h2>" in page


def test_scores_of_classes_and_entities_are_exact():
    true, predicted = ["a", "a", "b", "none"], ["a", "b", "b", "b"]
    assert class_table(["a", "b"], true, predicted).rows == [
        ("a", 1.0, 0.5, pytest.approx(2 / 3), 2, 1),
        ("b", pytest.approx(1 / 3), 1.0, 0.5, 1, 3),
    ]


def test_entities_are_compared_by_span_and_type_and_other_tags_by_word(tmp_path):
    example = WordsExample("1", ("A", "b", "c", "d"), ("B-X", "I-X", "O", "B-Y"), (4,))
    item = PredictedExample(example, ("B-X", "I-X", "B-Y", "B-X"), None)
    entities, confused = KINDS["token"].report.figures(tmp_path, [item], ())
    assert entities.table.rows == [("X", 0.5, 1.0, pytest.approx(2 / 3), 1, 2), ("Y", 0.0, 0.0, 0.0, 1, 1)]
    assert sorted(confused.table.rows) == [("Y", "X", 1), ("no entity", "Y", 1)]
    words = PredictedExample(WordsExample("1", ("A", "b"), ("N", "D"), (2,)), ("N", "N"), None)
    (tags,) = KINDS["token"].report.figures(tmp_path, [words], ())
    assert tags.title == "Tags"
    assert [row[:3] for row in tags.table.rows] == [("D", 0.0, 0.0), ("N", 0.5, 1.0)]


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_names_of_classes_overlap_neither_each_other_nor_an_axis(monkeypatch, tmp_path, count):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    for names in ([f"a rather long name of label {k}" for k in range(count)], [f"c{k}" for k in range(count)]):
        figures.confusion(np.full((count, count), 12_345), names, tmp_path / "c.png")
        figure = drawn.pop()
        figure.canvas.draw()
        axes = figure.axes[0]
        labels = axes.get_xticklabels()
        assert len({label.get_text() for label in labels}) == count
        boxes = [label.get_window_extent() for label in labels]
        assert all(box.y1 <= axes.bbox.y0 for box in boxes)
        assert all(label.get_window_extent().x1 <= axes.bbox.x0 for label in axes.get_yticklabels())
        step = axes.bbox.width / count
        if labels[0].get_rotation():
            # Parallel lines of text at 45 degrees.
            height = labels[0].get_fontsize() * figure.dpi / 72
            assert step / np.sqrt(2) > height
        else:
            assert all(first.x1 < second.x0 for first, second in itertools.pairwise(boxes))


def test_the_best_of_an_error_is_the_lowest_and_the_baseline_is_drawn(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    lines = [{"step": k, "split": "held_out", "rmse": value} for k, value in ((1, 0.9), (2, 0.4), (3, 0.6))]
    lines += [{"step": k, "split": "train", "loss": 1.0} for k in range(1, 101)]
    figures.learning_curves(lines, "rmse", tmp_path / "c.png", {"baseline, the mean": 0.8}, "squared error")
    loss, metric = drawn[0].axes
    assert loss.get_ylabel() == "squared error"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "training, each step",
        "training, mean of 2 steps",
    ]
    assert [text.get_text() for text in metric.get_legend().get_texts()] == [
        "best: 0.4",
        "held out",
        "baseline, the mean: 0.8",
    ]
    figures.seeds([0.4, 0.5, 0.6], "rmse", tmp_path / "s.png", {"baseline, the mean": 0.8})
    texts = drawn[1].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts[-2:]] == ["median: 0.5", "baseline, the mean: 0.8"]


def test_classes_that_do_not_occur_are_not_in_the_matrix(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    names = ["c1", "c5", "c6", "c7", *(f"d{k}" for k in range(figures.MAX_CLASSES))]
    matrix, *_ = class_sections(tmp_path, names, ["c1", "c1", "c5"], ["c1", "c7", "c7"])
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["c1", "c5", "c7"]
    assert matrix.text.startswith("Labels without examples and predictions are not shown: c6, d0, d1, ")


def test_each_figure_has_a_title(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    lines = [{"step": 1, "split": "train", "loss": 1.0}, {"step": 1, "split": "held_out", "f1": 0.5}]
    figures.learning_curves(lines, "f1", tmp_path / "a.png", {}, KINDS["single_label"].report.loss)
    figures.confusion(np.eye(2, dtype=int), ["a", "b"], tmp_path / "b.png")
    figures.reliability([Bin(3, 0.7, 0.6)], 0.1, tmp_path / "c.png")
    figures.scatter([1.0, 2.0, 4.0], [1.5, 2.0, 3.0], tmp_path / "d.png")
    figures.bars({"a": 0.5}, "F1", tmp_path / "e.png", title="F1 by answer length")
    figures.seeds([0.5, 0.6], "f1", tmp_path / "f.png", {})
    # The last axes of a confusion matrix are its color bar.
    titles = [axes.get_title() for figure in drawn for axes in figure.axes if axes.get_ylabel() != figures.SHARE]
    assert all(titles) and len(titles) == 9
    assert "(best constant 1.25)" in titles[6]


def test_the_plot_of_a_run_names_the_loss_and_its_unit(unchecked_shapes):
    inputs = SimpleNamespace(task=SimpleNamespace(best_metric="pearson"), held_out=[], kind=KINDS["regression"])
    assert _curves(inputs)["loss"].label == KINDS["regression"].report.loss != "loss"
