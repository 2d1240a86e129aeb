"""Extractive question answering: the span of a context that answers a question."""

import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning import figures
from deberta_jax.finetuning.baselines import no_answer
from deberta_jax.finetuning.config import Divergence
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import Averaging, CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake, joined
from deberta_jax.finetuning.objectives import (
    IMPOSSIBLE,
    Losses,
    categorical_divergence,
    classification_losses,
    head_outputs,
    weighted_objective,
)
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities, outcome_pipeline
from deberta_jax.finetuning.sections import Figure, Section, Table
from deberta_jax.finetuning.strata import BY_ANSWERABLE
from deberta_jax.finetuning.summary import Comparison, one_example
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.question_answering import MAX_RANKED, encode_contexts, span_ranking_pipeline
from deberta_jax.inference.stream import Pipeline
from deberta_jax.inference.windows import window_stride
from deberta_jax.tasks.custom_questions import EXTRACTIVE_QA as ROW_PARSER
from deberta_jax.tasks.examples import SpanExample, SpanPrediction
from deberta_jax.tasks.squad_metrics import exact_match, score_squad2, word_f1
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.objective import ArrayBatch

_NO_ANSWER = "no answer"
# Groups of questions by the words of the shortest answer: name and largest number of words.
_LENGTHS = (("1 word", 1), ("2 or 3 words", 3), ("4 or more", 10**9))


def _targets(
    example: SpanExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    """The first answer that a window contains, [CLS] if it contains none.

    An answer that fits into a sequence but that no window contains gets an additional window.
    """
    spans = [(start, start + len(text)) for text, start in example.answers or () if text]
    contained = False
    for window in windows:
        tokens = next(filter(None, (answer_tokens(window, *span) for span in spans)), None)
        contained |= tokens is not None
        yield _feature(window, tokens)
    if spans and not contained:
        centered = _window_around(windows, *spans[0], max_length)
        if centered is not None:
            yield _feature(centered, answer_tokens(centered, *spans[0]))


def _feature(window: Window, tokens: tuple[int, int] | None) -> Feature:
    return single_feature(window, labels=np.asarray(tokens or (0, 0), np.int32), weights=np.float32(1))


def answer_tokens(window: Window, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of a span of the context; None if the window does not contain all of it."""
    context = np.flatnonzero(window.sequence_ids == 1)
    if not len(context):
        return None
    starts, ends = window.offsets[context].T
    covered = context[(starts < end) & (ends > start)]
    if not len(covered) or window.offsets[covered[0], 0] > start or window.offsets[covered[-1], 1] < end:
        return None
    return int(covered[0]), int(covered[-1])


def _window_around(windows: Sequence[Window], start: int, end: int, max_length: int) -> Window | None:
    """A window with a span of the context in its middle; None if the span is too long."""
    first = windows[0]
    begin = first.second_start
    room = max_length - begin - 1
    step = room - window_stride(max_length)
    # The tokens of each window that the previous one does not contain.
    parts = [
        slice(begin if number == 0 else begin + room - step, len(window.input_ids) - 1)
        for number, window in enumerate(windows)
    ]
    ids = np.concatenate([window.input_ids[part] for window, part in zip(windows, parts, strict=True)])
    offsets = np.concatenate([window.offsets[part] for window, part in zip(windows, parts, strict=True)])
    covered = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    if not 0 < len(covered) <= room:
        return None
    left = int(np.clip(covered[0] - (room - len(covered)) // 2, 0, max(len(ids) - room, 0)))
    ids, offsets = ids[left : left + room], offsets[left : left + room]
    return Window(
        np.concatenate([first.input_ids[:begin], ids, first.input_ids[-1:]]),
        np.concatenate([first.offsets[:begin], offsets, np.zeros((1, 2), offsets.dtype)]),
        np.concatenate([first.sequence_ids[:begin], np.ones(len(ids), np.int32), np.full(1, -1, np.int32)]),
        None,
    )


def _outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Float[Array, "B 2 T"]:
    """Logits of the start and the end. Padding has probability 0, unlike in the loss of Hugging Face (golden c16)."""
    logits = head_outputs(model, batch, key)
    both = jnp.stack([logits.start, logits.end], axis=1)
    return jnp.where(batch["attention_mask"][:, None] != 0, both, jnp.asarray(IMPOSSIBLE, both.dtype))


def _losses(logits: Float[Array, "B 2 T"], batch: ArrayBatch) -> Losses:
    """The mean of both cross entropies; `labels` [B, 2] are the first and last token of the answer, [CLS] for none."""
    losses, correct = classification_losses(logits, batch)
    assert correct is not None
    return Losses(losses.mean(-1), correct.all(-1))


def _divergence(name: Divergence, logits: Float[Array, "B 2 T"], target: Float[Array, "B 2 T"]) -> Float[Array, "B"]:
    return categorical_divergence(name, logits, target).mean(-1)


def _pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def to_outcome(result: Any) -> Outcome:
        best = result.spans[0][0] if result.spans else ""
        probabilities = {**dict(result.spans), "": result.no_answer_probability}
        return Outcome(SpanPrediction(best, float(result.no_answer), result.spans), probabilities)

    return outcome_pipeline(span_ranking_pipeline(model, tokenizer, batching=batching), to_outcome)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    """The answers by their mean probabilities; the score of no answer is a difference of logarithms."""
    probabilities = mean_probabilities(outcomes)
    answers = [(text, value) for text, value in probabilities.items() if text]
    ranked = tuple(sorted(answers, key=lambda answer: -answer[1])[:MAX_RANKED])
    best, best_probability = ranked[0] if ranked else ("", 0.0)
    no_answer = _log(probabilities[""]) - _log(best_probability)
    return Outcome(SpanPrediction(best, no_answer, ranked), probabilities)


def _log(probability: float) -> float:
    """The logarithm of a probability, finite for probability 0."""
    return math.log(max(probability, sys.float_info.min))


def _answers(example: SpanExample) -> list[str]:
    return [text for text, _ in example.answers or ()] or [""]


def _length_group(answers: Sequence[str]) -> str:
    if list(answers) == [""]:
        return _NO_ANSWER
    words = min(len(answer.split()) for answer in answers)
    return next(name for name, largest in _LENGTHS if words <= largest)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item in predicted:
        answers, text = _answers(item.example), item.prediction.text
        best = max(exact_match(text, answer) for answer in answers), max(word_f1(text, answer) for answer in answers)
        scores[_length_group(answers)].append(best)
    names = [name for name in (_NO_ANSWER, *(name for name, _ in _LENGTHS)) if name in scores]
    means = {name: np.mean(scores[name], axis=0).tolist() for name in names}
    f1s = {name: f1 for name, (_, f1) in means.items()}
    path = figures.bars(f1s, "F1", folder / "answers.png", title="F1 by answer length")
    table = Table(
        ("answer", "exact match", "F1", "questions"),
        [(name, exact, f1, len(scores[name])) for name, (exact, f1) in means.items()],
    )
    return [Section("Answers", figure=Figure(path, "F1 by answer length"), table=table)]


def _mistake(item: PredictedExample) -> Mistake:
    answers, text = _answers(item.example), item.prediction.text
    severity = 1 - max(word_f1(text, answer) for answer in answers)
    true = " / ".join(dict.fromkeys(answers)) or _NO_ANSWER
    return Mistake(severity, true, text or _NO_ANSWER, joined(item.example.question, item.example.context))


EXTRACTIVE_QA = Kind(
    name="extractive_qa",
    head="question_answering",
    encoding=Encoding(encode_contexts, _targets),
    objective=weighted_objective(_outputs, _losses, _divergence),
    pipeline=_pipeline,
    empty_prediction=SpanPrediction("", 0.0),
    averaging=Averaging(_average),
    table=CustomTable(ROW_PARSER, score_squad2, "f1"),
    report=ReportContent(_figures, _mistake, "1 - F1"),
    stratification=BY_ANSWERABLE,
    comparison=Comparison(
        no_answer,
        lambda prediction: (getattr(prediction, "text", prediction),),
        {metric: one_example(metric) for metric in ("f1", "exact", "exact_match")},
    ),
    predict_options='--question "..." --context "..."',
)
