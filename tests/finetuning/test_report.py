"""A report is one file that needs no other, of every kind of task, whatever was predicted."""

import base64
import html.parser
import re

import pytest

from deberta_jax.finetuning.report import Judged, write_report
from deberta_jax.tasks.examples import (
    ChoiceExample,
    EntityExample,
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


JUDGED = {
    "single_label": [Judged(text(a), b, {"a": 0.3, "b": 0.7}) for a, b in ("ab", "bb", "aa", "<b")],
    "regression": [Judged(text(float(k)), k + 0.5 * (k % 3), None) for k in range(6)],
    "multi_label": [Judged(text(("a",)), ("a", "b"), {"a": 0.9, "b": 0.6}), Judged(text(()), (), {"a": 0.1, "b": 0.2})],
    "token": [
        Judged(WordsExample("1", ("A", EVIL), ("B-X", "I-X"), (2,)), ("B-X", "O"), None),
        Judged(WordsExample("2", ("A", "b"), ("O", "B-Y"), (2,)), ("O", "B-X"), None),
    ],
    "extractive_qa": [
        Judged(SpanExample("1", EVIL, EVIL, (("the fox", 0),)), SpanPrediction("fox that", 0.1), None),
        Judged(SpanExample("2", "q", "c", ()), SpanPrediction("", 0.1), None),
    ],
    "multiple_choice": [
        Judged(ChoiceExample("1", ((EVIL, "x"), (EVIL, "y")), 0), 1, {"0": 0.4, "1": 0.6}),
        Judged(ChoiceExample("2", (("a", "x"), ("a", "y")), 1), 1, {"0": 0.1, "1": 0.9}),
    ],
    "entity_ranking": [
        Judged(EntityExample("1", EVIL, "@placeholder", (), ("fox",)), "dog", {"dog": 0.6, "fox": 0.4}),
        Judged(EntityExample("2", "p", "@placeholder", (), ("fox",)), "fox", {"fox": 0.4}),
    ],
}


class Reader(html.parser.HTMLParser):
    """Which tags are opened, and which are left open."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(folder, kind, judged, **more):
    options = {
        "title": f"{kind} <1>",
        "single_label": ("a", "b", "<"),
        "best": "accuracy",
        "metrics": {"accuracy": 0.5},
        "curve": CURVE,
        "settings": {"model": "<m>"},
        "accounts": ["train.tsv: 4 rows, 4 used"],
    }
    path = write_report(folder, kind=kind, judged=judged, **(options | more))
    reader = Reader()
    page = path.read_text(encoding="utf-8")
    reader.feed(page)
    assert reader.open == []
    return page, reader


@pytest.mark.parametrize("kind", JUDGED)
def test_a_report_of_every_kind_is_whole_and_asks_for_nothing(tmp_path, kind):
    page, reader = written(tmp_path, kind, JUDGED[kind], seeds=[{"accuracy": 0.4}, {"accuracy": 0.6}])
    assert not any(tag == "script" for tag, _ in reader.seen)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "<h2>Worst mistakes</h2>" in page
    for tag, attributes in reader.seen:
        if tag == "img":
            assert attributes["alt"]
            image = base64.b64decode(attributes["src"].partition(",")[2])
            assert image.startswith(b"\x89PNG")
    assert (tmp_path / "curves.png").exists()
    assert (tmp_path / "seeds.png").exists()


def test_the_worst_mistake_comes_first_and_what_is_right_is_none(tmp_path):
    judged = [
        Judged(TextExample("1", "right", None, "a"), "a", {"a": 0.9, "b": 0.1}),
        Judged(TextExample("2", "nearly", None, "a"), "b", {"a": 0.4, "b": 0.6}),
        Judged(TextExample("3", "quite wrong", None, "a"), "b", {"a": 0.01, "b": 0.99}),
    ]
    page, _ = written(tmp_path, "single_label", judged)
    mistakes = page.partition("Worst mistakes")[2]
    assert mistakes.index("quite wrong") < mistakes.index("nearly")
    assert ">right<" not in mistakes
    assert "2 of 3 are not quite right" in mistakes


def test_without_labels_mistakes_or_curves_there_is_a_report_all_the_same(tmp_path):
    unknown = [Judged(TextExample("1", "t", None, None), "a", {"a": 1.0})]
    page, _ = written(tmp_path, "single_label", unknown, curve=[], metrics={})
    assert "0 examples judged of 1" in page
    perfect = [Judged(TextExample("1", "t", None, "a"), "a", {"a": 1.0})]
    page, _ = written(tmp_path, "single_label", perfect)
    assert "every example is right" in page


def test_many_classes_are_a_table_and_no_matrix(tmp_path):
    judged = [Judged(TextExample("1", "t", None, f"c{k}"), f"c{k // 2}", {f"c{k // 2}": 1.0}) for k in range(30)]
    page, _ = written(tmp_path, "single_label", judged, labels=[f"c{k}" for k in range(30)])
    assert "<h2>Confusion</h2>" not in page
    assert "<h2>Most confused</h2>" in page
