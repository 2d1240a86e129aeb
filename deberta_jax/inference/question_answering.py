"""Extractive question answering: answers are spans of a context of any length."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError, check_at_least
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head, require_tokenizer
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import encode_second_windows
from deberta_jax.model.heads import QuestionAnswering
from deberta_jax.tokenizers.tokenizer import Tokenizer

# The number of spans that a ranking keeps, per row and in total.
MAX_RANKED = 20
# The characters that vocabularies use to write white space.
_WHITE_SPACE = "\u2581\u0120\u010a\u010d\u0109"
# The score of an invalid span: finite, so that differences of scores are numbers.
_INVALID = -1e9


class Answer(NamedTuple):
    """`context[start:end]`, or "" at 0 for no answer; its probability; and the score of no answer.

    The probability is among all spans of the window and, if there is a threshold, no answer. `no_answer` is the score
    of no answer minus the score of the best span: the value that is compared with the threshold.
    """

    text: str
    start: int
    end: int
    probability: float
    no_answer: float


class SpanRanking(NamedTuple):
    """The best spans of a context as (text, probability), and the score of no answer minus that of the best span.

    Probabilities are among the best spans of all windows and no answer, which has `no_answer_probability`.
    """

    spans: tuple[tuple[str, float], ...]
    no_answer: float
    no_answer_probability: float


class BestSpans(NamedTuple):
    """The best span of each row: its tokens and score, the score of [CLS], and the log-sum-exp over all spans."""

    start: Int[Array, "B"]
    end: Int[Array, "B"]
    score: Float[Array, "B"]
    no_answer: Float[Array, "B"]
    total: Float[Array, "B"]


class TopSpans(NamedTuple):
    """The tokens and scores of the best spans of each row, the best first, and the score of [CLS]."""

    start: Int[Array, "B K"]
    end: Int[Array, "B K"]
    score: Float[Array, "B K"]
    no_answer: Float[Array, "B"]


def answer(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_answer_tokens: int = 30,
    no_answer_threshold: float | None = 0.0,
    batching: Batching = BATCHING,
) -> list[Answer]:
    """The best span of each context as the answer to its question, by the sum of its start and end logits.

    Longer contexts are read in windows that overlap by a quarter of a row. There is no answer if [CLS] scores higher
    than the best span by more than `no_answer_threshold`, at its minimum over the windows, as in the evaluation of
    SQuAD 2.0.

    Args:
        model: a model with the head "question_answering".
        tokenizer: its tokenizer.
        questions: the questions.
        contexts: a context for each question.
        max_answer_tokens: the maximum number of tokens of an answer.
        no_answer_threshold: in logits; None disables this, and each context with a token has an answer.
        batching: sizes of batches and the maximum number of tokens of a window.

    Returns:
        For each question `text`, `start` and `end` in characters of the context ("" at 0 without an answer),
        `probability`, and `no_answer`, the score that is compared with the threshold.

    Raises:
        InputError: a model without the head; with its index, an invalid text, or a question that leaves no room for its
            context.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("deepset/deberta-v3-base-squad2", "question_answering")
        >>> context = "Marie lives in Paris."
        >>> result = dj.answer(model, tokenizer, ["Where does Marie live?"], [context], no_answer_threshold=None)[0]
        >>> context[result.start : result.end] == result.text
        True
    """
    pipeline = answer_pipeline(
        model,
        tokenizer,
        max_answer_tokens=max_answer_tokens,
        no_answer_threshold=no_answer_threshold,
        batching=batching,
    )
    return complete(pipeline, questions, contexts)


def answer_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    *,
    max_answer_tokens: int = 30,
    no_answer_threshold: float | None = 0.0,
    batching: Batching = BATCHING,
) -> Pipeline[Answer]:
    """The pipeline of `answer`; an example is `(question, context)`."""
    require_head(model, "question_answering", "answer")
    program = _span_program(best_spans, tokenizer, max_answer_tokens)

    def read(example: tuple, rows: list[EncodedRow]) -> Answer:
        spans = [BestSpans(*(value.item() for value in row.outputs)) for row in rows]
        no_answer = float(min(span.no_answer for span in spans))
        best = max(range(len(rows)), key=lambda index: spans[index].score)
        span, offsets = spans[best], rows[best].offsets
        difference = float(no_answer - span.score)
        total = float(span.total) if no_answer_threshold is None else float(np.logaddexp(span.total, no_answer))
        if no_answer_threshold is not None and difference > no_answer_threshold:
            return Answer("", 0, 0, float(np.exp(no_answer - total)), difference)
        start, end = (int(offsets[span.start, 0]), int(offsets[span.end, 1])) if span.score > _INVALID else (0, 0)
        return Answer(example[1][start:end], start, end, float(np.exp(span.score - total)), difference)

    return Pipeline(model, tokenizer, program, encode_contexts, read, batching)


def span_ranking_pipeline(
    model: Model, tokenizer: Tokenizer, *, max_answer_tokens: int = 30, batching: Batching = BATCHING
) -> Pipeline[SpanRanking]:
    """The best spans of each context, for metrics and reports; an example is `(question, context)`."""
    require_head(model, "question_answering", "span_ranking_pipeline")
    program = _span_program(functools.partial(top_spans, k=MAX_RANKED), tokenizer, max_answer_tokens)

    def read(example: tuple, rows: list[EncodedRow]) -> SpanRanking:
        best_scores: dict[str, float] = {}
        for row in rows:
            for start, end, score in zip(*(part.tolist() for part in row.outputs[:3]), strict=True):
                if score > _INVALID:
                    text = example[1][row.offsets[start, 0] : row.offsets[end, 1]]
                    best_scores[text] = max(score, best_scores.get(text, score))
        no_answer = min(row.outputs.no_answer.item() for row in rows)
        ranked = sorted(best_scores.items(), key=lambda item: -item[1])[:MAX_RANKED]
        scores = np.asarray([no_answer, *(score for _, score in ranked)], np.float64)
        no_answer_probability, *probabilities = scipy.special.softmax(scores).tolist()
        spans = tuple((text, probability) for (text, _), probability in zip(ranked, probabilities, strict=True))
        return SpanRanking(spans, no_answer - (ranked[0][1] if ranked else _INVALID), no_answer_probability)

    return Pipeline(model, tokenizer, program, encode_contexts, read, batching)


def encode_contexts(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int) -> EncodedRows:
    """The overlapping windows of examples `(question, context)`."""
    return encode_second_windows(tokenizer, examples, max_length, texts_of=_question_and_context)


def _question_and_context(example: tuple) -> list[Texts]:
    if len(example) != 2:
        raise InputError("expected a question and its context")
    return [example]


def _span_program(program: Callable[..., Any], tokenizer: Tokenizer, max_answer_tokens: int) -> Callable[..., Any]:
    """A program of spans that neither start nor end with a token of white space."""
    check_at_least("max_answer_tokens", max_answer_tokens, 1)
    require_tokenizer(tokenizer)
    blank_ids = tuple(index for index in range(tokenizer.vocab_size) if not tokenizer.token(index).strip(_WHITE_SPACE))
    return functools.partial(program, max_answer_tokens=max_answer_tokens, blank_ids=blank_ids)


@functools.partial(jax.jit, static_argnames=("max_answer_tokens", "blank_ids"))
def best_spans(
    model: QuestionAnswering, inputs: ModelInputs, *, max_answer_tokens: int, blank_ids: tuple[int, ...] = ()
) -> BestSpans:
    """The best span of each row's context: the tokens of type 1, without the last [SEP].

    Tokens with one of the ids `blank_ids` neither start nor end a span.
    """
    scores, no_answer = _span_scores(model, inputs, max_answer_tokens, blank_ids)
    flat = scores.reshape(len(scores), -1)
    start, length = jnp.divmod(flat.argmax(-1), scores.shape[2])
    return BestSpans(start, start + length, flat.max(-1), no_answer, jax.nn.logsumexp(flat, axis=-1))


@functools.partial(jax.jit, static_argnames=("max_answer_tokens", "blank_ids", "k"))
def top_spans(
    model: QuestionAnswering, inputs: ModelInputs, *, max_answer_tokens: int, blank_ids: tuple[int, ...], k: int
) -> TopSpans:
    """The `k` best spans of each row's context, as in `best_spans`."""
    scores, no_answer = _span_scores(model, inputs, max_answer_tokens, blank_ids)
    flat = scores.reshape(len(scores), -1)
    values, indices = jax.lax.top_k(flat, min(k, flat.shape[1]))
    start, length = jnp.divmod(indices, scores.shape[2])
    return TopSpans(start, start + length, values, no_answer)


def _span_scores(
    model: QuestionAnswering, inputs: ModelInputs, max_answer_tokens: int, blank_ids: tuple[int, ...]
) -> tuple[Float[Array, "B T K"], Float[Array, "B"]]:
    """The score of each span by its start and its length minus 1, and the score of [CLS]."""
    input_ids, attention_mask, token_type_ids = (jnp.asarray(x) for x in inputs[:3])
    logits = model(input_ids, attention_mask, token_type_ids=token_type_ids)
    T = input_ids.shape[1]
    has_next = jnp.pad(attention_mask[:, 1:], ((0, 0), (0, 1)))
    in_context = (token_type_ids == 1) & (has_next == 1)
    for index in blank_ids:
        in_context &= input_ids != index
    K = min(max_answer_tokens, T)
    ends = np.arange(T)[:, None] + np.arange(K)
    valid = in_context[:, :, None] & jnp.pad(in_context, ((0, 0), (0, K)))[:, ends]
    scores = logits.start[:, :, None] + jnp.pad(logits.end, ((0, 0), (0, K)))[:, ends]
    scores = jnp.where(valid, scores, jnp.asarray(_INVALID, scores.dtype))
    return scores, logits.start[:, 0] + logits.end[:, 0]
