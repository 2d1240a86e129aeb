"""`report.html`: the metrics, figures and mistakes of a model, in one file without external resources."""

import base64
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.files import make_folder, write_text
from deberta_jax.finetuning import figures
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import PredictedExample
from deberta_jax.finetuning.sections import NO_VALUE, Figure, Section, Table
from deberta_jax.finetuning.summary import Summary

_MAX_MISTAKES = 20
# Longer texts are collapsed.
_MAX_TEXT = 320
_LIBRARIES = "deberta-jax", "jax", "flax", "optax", "numpy", "scikit-learn"
_TEMPLATE = "report.html.j2"


def write_report(
    folder: Path,
    kind: Kind,
    labels: Sequence[str],
    predicted: Sequence[PredictedExample],
    *,
    title: str,
    metrics: Mapping[str, float],
    best_metric: str,
    history: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    rows: Sequence[str],
    seeds: Sequence[Mapping[str, float]] = (),
    summaries: Sequence[Summary] = (),
    folds: Sequence[Mapping[str, float]] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write the report and its figures into a folder.

    `history` are the lines of `metrics.jsonl`, `rows` those on the files that were read. `seeds` and `folds` are the
    metrics of several runs, `summaries` compare each split with a baseline, `sections` are the first sections.
    """
    make_folder(folder)
    known = [item for item in predicted if item.example.answer is not None]
    sections = list(sections)
    baselines = {f"baseline, {one.baseline_name}": one.baseline for one in summaries if one.split == "dev"}
    if seeds:
        sections.append(_seeds_section(folder, seeds, best_metric, baselines))
    if folds:
        sections.append(_folds_section(folder, folds, best_metric, baselines))
    curves = folder / "curves.png"
    if path := figures.learning_curves(history, best_metric, curves, baselines, kind.report.loss):
        description = f"Training loss, and {best_metric} on the development set, by step"
        sections.append(Section("Learning", figure=Figure(path, description)))
    if known:
        sections += kind.report.figures(folder, known, labels)
    mistakes = [mistake for mistake in map(kind.report.mistake, known) if mistake.severity > 0]
    mistakes.sort(key=lambda mistake: -mistake.severity)
    page = _template().render(
        title=title,
        metrics=metrics,
        summaries=summaries,
        evaluated=len(known),
        total=len(predicted),
        sections=sections,
        mistakes=mistakes[:_MAX_MISTAKES],
        mistake_count=len(mistakes),
        mistake_unit=kind.report.unit,
        max_text=_MAX_TEXT,
        rows=rows,
        settings=json.dumps(settings, indent=2, ensure_ascii=False),
        libraries=[f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES],
    )
    # A table may contain lone surrogates, which UTF-8 cannot encode.
    return write_text(folder / "report.html", page, errors="replace")


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["no_value"] = NO_VALUE
    environment.filters |= {"number": _number, "data_url": _data_url}
    return environment.get_template(_TEMPLATE)


def _number(value: float | int) -> str:
    if not math.isfinite(value):
        return NO_VALUE
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4g}"


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _seeds_section(
    folder: Path, seeds: Sequence[Mapping[str, float]], best_metric: str, baselines: Mapping[str, float]
) -> Section:
    path = figures.seeds([metrics[best_metric] for metrics in seeds], best_metric, folder / "seeds.png", baselines)
    rows = []
    for name in seeds[0]:
        values = [metrics[name] for metrics in seeds if name in metrics]
        rows.append((name, float(np.median(values)), min(values), max(values), float(np.std(values))))
    table = Table(("metric", "median", "lowest", "highest", "standard deviation"), rows)
    return Section("Seeds", figure=Figure(path, f"{best_metric} of each seed"), table=table)


def _folds_section(
    folder: Path, folds: Sequence[Mapping[str, float]], best_metric: str, baselines: Mapping[str, float]
) -> Section:
    values = [metrics[best_metric] for metrics in folds]
    path = figures.seeds(values, best_metric, folder / "folds.png", baselines, noun="fold")
    names = [name for name in folds[0] if all(name in metrics for metrics in folds)]
    columns = [[metrics[name] for metrics in folds] for name in names]
    header = ("metric", "mean", "standard deviation", *(f"fold {number}" for number in range(len(folds))))
    rows: list[tuple[str | float, ...]] = [
        (name, float(np.mean(column)), float(np.std(column)), *column)
        for name, column in zip(names, columns, strict=True)
    ]
    return Section("Folds", figure=Figure(path, f"{best_metric} of each fold"), table=Table(header, rows))
