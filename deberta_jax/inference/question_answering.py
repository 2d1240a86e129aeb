"""Answers to questions, as spans of a context of any length."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, Rows, Texts, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import stride_of
from deberta_jax.model.heads import QuestionAnswering
from deberta_jax.tokenizers.tokenizer import Tokenizer

# How many spans of a row are told apart when they are ranked.
_RANKED = 20
# What pieces of white space alone are written with, by either vocabulary.
_BLANK = "\u2581\u0120\u010a\u010d\u0109"
# The score of a span that is none, finite so that differences of scores are numbers.
_NEVER = -1e9


class Answer(NamedTuple):
    """`context[start:end]`, or "" at 0 where there is none; its probability; and how much none is likelier.

    `probability` is among the spans of its window and, where there is a threshold, no answer. `no_answer` is the score
    of no answer less the score of the best span, what the threshold is compared with.
    """

    text: str
    start: int
    end: int
    probability: float
    no_answer: float


class Ranked(NamedTuple):
    """The best spans of a context as (text, probability), and how much likelier than the first one is no answer.

    Probabilities are among the best spans of all windows and no answer, whose text is "".
    """

    spans: tuple[tuple[str, float], ...]
    no_answer: float


class Span(NamedTuple):
    """The best span of a row, its score, that of [CLS], and the logarithm of the sum over all spans."""

    start: int
    end: int
    score: float
    none: float
    total: float


# The spans of a batch, [B] each.
Spans = tuple[
    Int[Array, "B"],
    Int[Array, "B"],
    Float[Array, "B"],
    Float[Array, "B"],
    Float[Array, "B"],
]


def answer(
    model: QuestionAnswering,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    longest: int = 30,
    no_answer_threshold: float | None = 0.0,
    batching: Batching = BATCHING,
) -> list[Answer]:
    """The best span of at most `longest` tokens in each context, by the sum of its start's and end's logits.

    Longer contexts are read in windows that share a quarter of a row. There is no answer where [CLS] scores higher than
    the best span by more than `no_answer_threshold`, its least over the windows (as SQuAD 2.0 is evaluated); with None
    there always is one, if the context has a token. Raises InputError with the number of what is no text, and of a
    question that leaves no room for its context.
    """
    task = answer_pipeline(
        model, tokenizer, longest=longest, no_answer_threshold=no_answer_threshold, batching=batching
    )
    return complete(task, questions, contexts)


def answer_pipeline(
    model: QuestionAnswering,
    tokenizer: Tokenizer,
    *,
    longest: int = 30,
    no_answer_threshold: float | None = 0.0,
    batching: Batching = BATCHING,
) -> Pipeline[Answer]:
    """The task of `answer`, for `stream`; an example is `(question, context)`."""
    limit, blank = _bounds(model, tokenizer, longest, batching)

    def read(example: tuple, rows: list[Row]) -> Answer:
        spans = [Span(*(value.item() for value in row.outputs)) for row in rows]
        none = min(span.none for span in spans)
        best = max(range(len(rows)), key=lambda place: spans[place].score)
        span, offsets = spans[best], rows[best].offsets
        more = none - span.score
        if no_answer_threshold is None:
            total = span.total
        else:
            total = float(np.logaddexp(span.total, none))
            if more > no_answer_threshold:
                return Answer("", 0, 0, float(np.exp(none - total)), more)
        start, end = (int(offsets[span.start, 0]), int(offsets[span.end, 1])) if span.score > _NEVER else (0, 0)
        return Answer(example[1][start:end], start, end, float(np.exp(span.score - total)), more)

    program = functools.partial(best_spans, longest=longest, blank=blank)
    return Pipeline(
        model, program, functools.partial(span_rows, tokenizer, limit=limit), read, limit, tokenizer.pad_id, batching
    )


def ranking(
    model: QuestionAnswering, tokenizer: Tokenizer, *, longest: int = 30, batching: Batching = BATCHING
) -> Pipeline[Ranked]:
    """The best spans of each context, for `stream`; an example is `(question, context)`."""
    limit, blank = _bounds(model, tokenizer, longest, batching)

    def read(example: tuple, rows: list[Row]) -> Ranked:
        found: dict[str, float] = {}
        for row in rows:
            for start, end, score in zip(*(part.tolist() for part in row.outputs[:3]), strict=True):
                if score > _NEVER:
                    text = example[1][row.offsets[start, 0] : row.offsets[end, 1]]
                    found[text] = max(score, found.get(text, score))
        none = min(row.outputs[3].item() for row in rows)
        best = sorted(found.items(), key=lambda item: -item[1])[:_RANKED]
        scores = np.asarray([none, *(score for _, score in best)], np.float64)
        weights = np.exp(scores - scores.max())
        its = (weights / weights.sum()).tolist()
        spans = tuple((text, probability) for (text, _), probability in zip(best, its[1:], strict=True))
        return Ranked(spans, none - (best[0][1] if best else _NEVER))

    program = functools.partial(top_spans, longest=longest, blank=blank, number=_RANKED)
    return Pipeline(
        model, program, functools.partial(span_rows, tokenizer, limit=limit), read, limit, tokenizer.pad_id, batching
    )


def span_rows(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> Rows:
    """The windows of examples `(question, context)`."""
    return encode(
        tokenizer,
        examples,
        texts_of=_question_and_context,
        max_length=limit,
        truncation="second",
        stride=stride_of(limit),
    )


def _question_and_context(example: tuple) -> list[Texts]:
    if len(example) != 2:
        raise InputError("a question and its context are wanted")
    return [example]


def _bounds(
    model: QuestionAnswering, tokenizer: Tokenizer, longest: int, batching: Batching
) -> tuple[int, tuple[int, ...]]:
    """How long rows may be, and the tokens that an answer neither begins nor ends with: white space."""
    if longest < 1:
        raise InputError(f"longest is {longest}, an answer has 1 token at least")
    blank = tuple(index for index in range(tokenizer.vocab_size) if not tokenizer.token(index).strip(_BLANK))
    return limit_of(model, batching), blank


@functools.partial(jax.jit, static_argnames=("longest", "blank"))
def best_spans(
    model: QuestionAnswering,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
    *,
    longest: int,
    blank: tuple[int, ...] = (),
) -> Spans:
    """The best span of each row's context, whose tokens have the type 1, its last [SEP] left out.

    Tokens of the ids `blank` neither begin nor end one.
    """
    scores, none, size = _span_scores(model, input_ids, attention_mask, token_type_ids, longest, blank)
    best = scores.argmax(-1)
    return best // size, best // size + best % size, scores.max(-1), none, jax.nn.logsumexp(scores, axis=-1)


@functools.partial(jax.jit, static_argnames=("longest", "blank", "number"))
def top_spans(
    model: QuestionAnswering,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
    *,
    longest: int,
    blank: tuple[int, ...],
    number: int,
) -> tuple[Int[Array, "B K"], Int[Array, "B K"], Float[Array, "B K"], Float[Array, "B"]]:
    """Starts, ends and scores of the best spans of each row's context, and the score of [CLS]."""
    scores, none, size = _span_scores(model, input_ids, attention_mask, token_type_ids, longest, blank)
    values, places = jax.lax.top_k(scores, min(number, scores.shape[1]))
    return places // size, places // size + places % size, values, none


def _span_scores(
    model: QuestionAnswering,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
    longest: int,
    blank: tuple[int, ...],
) -> tuple[Float[Array, "B spans"], Float[Array, "B"], int]:
    """The score of each span by start and length, that of [CLS], and the number of lengths."""
    logits = model(input_ids, attention_mask, token_type_ids=token_type_ids)
    B, T = input_ids.shape
    followed = jnp.pad(attention_mask[:, 1:], ((0, 0), (0, 1)))
    inside = (token_type_ids == 1) & (followed == 1)
    for index in blank:
        inside &= input_ids != index
    size = min(longest, T)
    ends = np.arange(T)[:, None] + np.arange(size)
    possible = inside[:, :, None] & jnp.pad(inside, ((0, 0), (0, size)))[:, ends]
    scores = logits.start[:, :, None] + jnp.pad(logits.end, ((0, 0), (0, size)))[:, ends]
    scores = jnp.where(possible, scores, jnp.asarray(_NEVER, scores.dtype)).reshape(B, -1)
    return scores, logits.start[:, 0] + logits.end[:, 0], size
