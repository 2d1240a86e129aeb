"""`report.html`: what a model learned and where it fails, in one file that needs no other."""

import base64
import importlib.metadata
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.finetuning import report_figures as figures
from deberta_jax.finetuning.calibration import bins, calibration_error
from deberta_jax.tasks.conll_metrics import chunks
from deberta_jax.tasks.examples import Kind
from deberta_jax.tasks.squad_metrics import exact_match, word_f1

_WORST, _SHOWN = 20, 320
_LIBRARIES = "deberta-jax", "jax", "flax", "optax", "numpy", "scikit-learn"
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #5f6b76; --line: #d9dee3; --paper: #ffffff; --soft: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --dim: #9aa7b3; --line: #3a434c; --paper: #15191d; --soft: #1f252b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p.lead { color: var(--dim); margin: 0; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .8rem; margin: 1.6rem 0 0; }
dl.tiles div { background: var(--soft); border-radius: .5rem; padding: .7rem .9rem; }
dl.tiles dt { color: var(--dim); font-size: .82rem; overflow-wrap: anywhere; }
dl.tiles dd { margin: .1rem 0 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
p, li { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border-radius: .4rem; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.text { min-width: 18rem; overflow-wrap: anywhere; }
summary { cursor: pointer; } code, pre { font-size: .85rem; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: #ffe08a; color: #1c2024; padding: 0 .15em; }
@media print { body { max-width: none; } details { display: block; } }
"""


class Judged(NamedTuple):
    """An example, what is predicted for it, and the probability of each label, choice by its place, or entity."""

    # An `Example` and a `Prediction` of the kind.
    example: Any
    prediction: Any
    probabilities: Mapping[str, float] | None


class Row(NamedTuple):
    """A judged example in words: how wrong, 0 for right, what is true and what is predicted, what was read."""

    badness: float
    true: str
    predicted: str
    text: str


def write_report(
    folder: Path,
    *,
    title: str,
    kind: Kind,
    labels: Sequence[str],
    best: str,
    judged: Sequence[Judged],
    metrics: Mapping[str, float],
    curve: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    accounts: Sequence[str],
    seeds: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write the report into a folder, its figures beside it; `best` is the metric that the model was chosen by."""
    folder.mkdir(parents=True, exist_ok=True)
    known = [one for one in judged if _truth(one.example) is not None]
    parts = [_tiles(metrics)]
    if seeds:
        parts += [_section("Seeds", _seeds(folder, seeds, best))]
    if curve and (path := figures.curves(curve, best, folder / "curves.png")):
        parts.append(_section("Learning", _image(path, f"Training loss and {best} on held-out data by step")))
    if known:
        for name, content in _FIGURES[kind](folder, known, labels):
            parts.append(_section(name, content))
        parts.append(_section("Worst mistakes", _mistakes(kind, known)))
    parts += [
        _section("Rows", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in accounts) + "</ul>"),
        _section("Settings", f"<pre>{escape(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>"),
        _section("Libraries", f"<p>{escape(', '.join(_versions()))}</p>"),
    ]
    lead = f"{len(known):,} examples judged" + (f" of {len(judged):,}" if len(known) < len(judged) else "")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n' + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    partial = folder / "report.partial"
    # A lone surrogate, which a table may hold, has no form in UTF-8.
    partial.write_text(page, encoding="utf-8", errors="replace")
    os.replace(partial, folder / "report.html")
    return folder / "report.html"


def _section(name: str, content: str) -> str:
    return f"<section>\n<h2>{escape(name)}</h2>\n{content}\n</section>"


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _tiles(metrics: Mapping[str, float]) -> str:
    its = "".join(f"<div><dt>{escape(name)}</dt><dd>{_number(value)}</dd></div>" for name, value in metrics.items())
    return f'<dl class="tiles">{its}</dl>'


def _number(value: float | int) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Numbers stand to the right; cells that are HTML already are given as such."""

    def cell(value: Any, tag: str = "td") -> str:
        if isinstance(value, float | int):
            return f'<{tag} class="n">{_number(value)}</{tag}>'
        return f"<{tag}>{escape(str(value))}</{tag}>"

    numeric = [bool(rows) and isinstance(rows[0][place], float | int) for place in range(len(header))]
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if right else f"<th>{escape(name)}</th>"
        for name, right in zip(header, numeric, strict=True)
    )
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _seeds(folder: Path, seeds: Sequence[Mapping[str, float]], best: str) -> str:
    path = figures.seeds([one[best] for one in seeds], best, folder / "seeds.png")
    rows = []
    for name in seeds[0]:
        values = [one[name] for one in seeds if name in one]
        rows.append((name, float(np.median(values)), min(values), max(values), float(np.std(values))))
    header = ("metric", "median", "lowest", "highest", "standard deviation")
    return _image(path, f"{best} of each seed") + _table(header, rows)


def _truth(example: Any) -> Any:
    return next(getattr(example, name) for name in ("label", "tags", "answers") if hasattr(example, name))


def _classes(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Confusion, figures of each class, calibration."""
    wanted = [str(one.example.label) for one in judged]
    found = [str(one.prediction) for one in judged]
    names = list(dict.fromkeys([*labels, *wanted, *found]))
    matrix = _counts(names, wanted, found)
    parts = []
    if len(names) <= figures.MOST_CLASSES:
        path = figures.confusion(matrix, names, folder / "confusion.png")
        parts.append(("Confusion", _image(path, "Predicted by true label")))
    pairs = Counter((a, b) for a, b in zip(wanted, found, strict=True) if a != b)
    if len(names) > 2 and pairs:
        rows = [(a, b, number) for (a, b), number in pairs.most_common(15)]
        parts.append(("Most confused", _table(("true", "predicted", "examples"), rows)))
    parts.append(("Classes", _per_class(names, matrix)))
    confident = [max(one.probabilities.values()) for one in judged if one.probabilities]
    if len(confident) == len(judged):
        right = [a == b for a, b in zip(wanted, found, strict=True)]
        parts.append(_calibrated(folder, confident, right))
    return parts + _groups(folder, judged, [a == b for a, b in zip(wanted, found, strict=True)])


def _counts(names: Sequence[str], wanted: Sequence[str], found: Sequence[str]) -> np.ndarray:
    """How often each name (rows) is predicted as which (columns)."""
    place = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, ([place[name] for name in wanted], [place[name] for name in found]), 1)
    return matrix


def _per_class(names: Sequence[str], matrix: np.ndarray) -> str:
    rows = []
    for number, name in enumerate(names):
        right, true, said = (int(x) for x in (matrix[number, number], matrix[number].sum(), matrix[:, number].sum()))
        precision, recall = right / said if said else 0.0, right / true if true else 0.0
        f1 = 2 * right / (true + said) if true + said else 0.0
        rows.append((name, precision, recall, f1, true, said))
    return _table(("label", "precision", "recall", "F1", "true", "predicted"), rows)


def _calibrated(folder: Path, confident: Sequence[float], right: Sequence[bool]) -> tuple[str, str]:
    error = calibration_error(confident, right)
    path = figures.reliability(bins(confident, right), error, folder / "calibration.png")
    text = (
        f"<p>Expected calibration error {error:.3f}: how far confidence is from the part that is right, on average.</p>"
    )
    return "Calibration", text + _image(path, "Part that is right by confidence")


def _groups(folder: Path, judged: Sequence[Judged], right: Sequence[bool]) -> list[tuple[str, str]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for one, hit in zip(judged, right, strict=True):
        groups[getattr(one.example, "group", "")].append(hit)
    if not 1 < len(groups) <= 40:
        return []
    values = {name or "none": float(np.mean(hits)) for name, hits in sorted(groups.items())}
    path = figures.bars(values, "part that is right", folder / "groups.png")
    return [("Groups", _image(path, "Part that is right by group"))]


def _chosen(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    right = [one.prediction == one.example.label for one in judged]
    confident = [max(one.probabilities.values()) for one in judged if one.probabilities]
    parts = [_calibrated(folder, confident, right)] if len(confident) == len(judged) else []
    return parts + _groups(folder, judged, right)


def _numbers(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    wanted = [float(one.example.label) for one in judged]
    found = [float(one.prediction) for one in judged]
    path = figures.numbers(wanted, found, folder / "numbers.png")
    return [("Numbers", _image(path, "Predicted against true numbers, and the errors"))]


def _several(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    wanted = [set(one.example.label) for one in judged]
    found = [set(one.prediction) for one in judged]
    rows = []
    for label in labels:
        right = sum(label in a and label in b for a, b in zip(wanted, found, strict=True))
        true, said = sum(label in a for a in wanted), sum(label in b for b in found)
        precision, recall = right / said if said else 0.0, right / true if true else 0.0
        rows.append((label, precision, recall, 2 * right / (true + said) if true + said else 0.0, true, said))
    parts = [("Classes", _table(("label", "precision", "recall", "F1", "true", "predicted"), rows))]
    if all(one.probabilities for one in judged):
        confident, hits = [], []
        for one, its in zip(judged, wanted, strict=True):
            for label, p in (one.probabilities or {}).items():
                confident.append(max(p, 1 - p))
                hits.append((p > 0.5) == (label in its))
        parts.append(_calibrated(folder, confident, hits))
    return parts


def _tagged(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    right, true, said, mixed = Counter[str](), Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for one in judged:
        golds, ours = (set(chunks(tags)) for tags in (one.example.tags, one.prediction))
        true.update(kind for kind, *_ in golds)
        said.update(kind for kind, *_ in ours)
        right.update(kind for kind, *_ in golds & ours)
        by_place = {(start, end): kind for kind, start, end in golds}
        for kind, start, end in ours:
            gold = by_place.get((start, end), "no entity")
            if gold != kind:
                mixed[gold, kind] += 1
    if not true | said:
        wanted = [tag for one in judged for tag in one.example.tags]
        found = [tag for one in judged for tag in one.prediction]
        names = sorted({*wanted, *found})
        return [("Tags", _per_class(names, _counts(names, wanted, found)))]
    rows = []
    for kind in sorted(true | said):
        precision, recall = right[kind] / max(said[kind], 1), right[kind] / max(true[kind], 1)
        f1 = 2 * right[kind] / (true[kind] + said[kind])
        rows.append((kind, precision, recall, f1, true[kind], said[kind]))
    parts = [("Entities", _table(("type", "precision", "recall", "F1", "true", "predicted"), rows))]
    if mixed:
        pairs = [(a, b, number) for (a, b), number in mixed.most_common(15)]
        parts.append(("Most confused", _table(("true", "predicted", "entities"), pairs)))
    return parts


def _answered(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in judged:
        golds = [text for text, _ in one.example.answers] or [""]
        text = one.prediction.text
        words = min(len(gold.split()) for gold in golds)
        name = (
            "no answer" if golds == [""] else "1 word" if words == 1 else "2 or 3 words" if words < 4 else "4 or more"
        )
        scores[name].append((max(exact_match(text, g) for g in golds), max(word_f1(text, g) for g in golds)))
    order = [name for name in ("no answer", "1 word", "2 or 3 words", "4 or more") if name in scores]
    means = {name: np.mean(scores[name], axis=0).tolist() for name in order}
    rows = [(name, exact, f1, len(scores[name])) for name, (exact, f1) in means.items()]
    f1s: dict[str, float] = {name: f1 for name, (_, f1) in means.items()}
    path = figures.bars(f1s, "F1 by the answer's length", folder / "answers.png")
    table = _table(("answer", "exact match", "F1", "questions"), rows)
    return [("Answers", _image(path, "F1 by the answer's length") + table)]


def _gaps(folder: Path, judged: Sequence[Judged], labels: Sequence[str]) -> list[tuple[str, str]]:
    rows = Counter("right" if one.prediction in (one.example.answers or ()) else "wrong" for one in judged)
    return [("Queries", _table(("entity", "queries"), sorted(rows.items())))]


_FIGURES: dict[Kind, Callable[[Path, Sequence[Judged], Sequence[str]], list[tuple[str, str]]]] = {
    "single_label": _classes,
    "regression": _numbers,
    "multi_label": _several,
    "token": _tagged,
    "extractive_qa": _answered,
    "multiple_choice": _chosen,
    "entity_ranking": _gaps,
}


def _mistakes(kind: Kind, judged: Sequence[Judged]) -> str:
    rows = [row for row in (_row(kind, one) for one in judged) if row.badness > 0]
    if not rows:
        return "<p>None: every example is right.</p>"
    worst = sorted(rows, key=lambda row: -row.badness)[:_WORST]
    body = "".join(
        f"<tr><td>{escape(row.true)}</td><td>{escape(row.predicted)}</td>"
        f'<td class="text">{_cut(row.text)}</td><td class="n">{_number(row.badness)}</td></tr>'
        for row in worst
    )
    return (
        f"<p>{len(rows):,} of {len(judged):,} are not quite right; the worst first.</p>"
        '<div class="wide"><table><thead><tr><th>true</th><th>predicted</th><th>text</th><th class="n">'
        f"{_BADNESS[kind]}</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


_BADNESS: dict[Kind, str] = {
    "single_label": "loss",
    "regression": "error",
    "multi_label": "loss",
    "token": "wrong words",
    "extractive_qa": "1 - F1",
    "multiple_choice": "loss",
    "entity_ranking": "loss",
}


def _cut(text: str) -> str:
    """A text, of a long one the beginning, and the whole on demand."""
    if len(text) <= _SHOWN:
        return escape(text)
    return f"<details><summary>{escape(text[:_SHOWN])}…</summary>{escape(text)}</details>"


def _row(kind: Kind, one: Judged) -> Row:
    example: Any = one.example
    prediction: Any = one.prediction
    p = one.probabilities or {}
    if kind in ("single_label", "regression", "multi_label"):
        text = example.text if example.pair is None else f"{example.text} ⟷ {example.pair}"
    if kind == "single_label":
        wrong = str(prediction) != str(example.label)
        return Row(_loss(p.get(example.label, 0.0)) if wrong else 0.0, example.label, str(prediction), text)
    if kind == "regression":
        return Row(abs(prediction - example.label), f"{example.label:g}", f"{prediction:.3g}", text)
    if kind == "multi_label":
        wrong = set(example.label) != set(prediction)
        losses = [_loss(value if label in example.label else 1 - value) for label, value in p.items()]
        badness = max(losses, default=1.0) if wrong else 0.0
        return Row(badness, ", ".join(example.label) or "none", ", ".join(prediction) or "none", text)
    if kind == "multiple_choice":
        wrong = prediction != example.label
        first, second = example.pairs[example.label]
        text = f"{first} ⟷ {second}"
        said = " ⟷ ".join(example.pairs[prediction])
        return Row(
            _loss(p.get(str(example.label), 0.0)) if wrong else 0.0, str(example.label), f"{prediction}: {said}", text
        )
    if kind == "token":
        pairs = list(zip(example.words, example.tags, prediction, strict=True))
        wrong_words = [(word, a, b) for word, a, b in pairs if a != b]
        true = ", ".join(f"{word} {a}" for word, a, _ in wrong_words[:12])
        said = ", ".join(f"{word} {b}" for word, _, b in wrong_words[:12])
        return Row(float(len(wrong_words)), true, said, " ".join(example.words))
    if kind == "extractive_qa":
        golds = [text for text, _ in example.answers] or [""]
        badness = 1 - max(word_f1(prediction.text, gold) for gold in golds)
        true = " / ".join(dict.fromkeys(golds)) or "no answer"
        return Row(badness, true, prediction.text or "no answer", f"{example.question} ⟷ {example.context}")
    wrong = prediction not in example.answers
    badness = _loss(max((p.get(answer, 0.0) for answer in example.answers), default=0.0)) if wrong else 0.0
    return Row(badness, " / ".join(example.answers), str(prediction), f"{example.query} ⟷ {example.passage}")


def _loss(probability: float) -> float:
    return -math.log(max(probability, 1e-12))


def _versions() -> list[str]:
    return [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
