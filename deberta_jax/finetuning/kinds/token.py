"""Token classification: a tag for each word of a document."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from deberta_jax.finetuning.baselines import most_frequent_tag
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import Averaging, ClassWeighting, CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake
from deberta_jax.finetuning.objectives import classification_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities
from deberta_jax.finetuning.sections import Section, class_table, confused_pairs
from deberta_jax.finetuning.strata import BY_TAG
from deberta_jax.finetuning.summary import Comparison
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows
from deberta_jax.inference.entities import label_probabilities
from deberta_jax.inference.models import max_row_length
from deberta_jax.inference.stream import Pipeline
from deberta_jax.inference.windows import assign_tokens, encode_windows, merge_windows
from deberta_jax.model.heads import TokenClassification
from deberta_jax.tasks.conll_metrics import chunks, score_entities
from deberta_jax.tasks.custom_words import TOKEN as ROW_PARSER
from deberta_jax.tasks.examples import WordsExample
from deberta_jax.tasks.tagging import OUTSIDE
from deberta_jax.tokenizers.tokenizer import Tokenizer

_NO_ENTITY = "no entity"
# Wrong words that a row of the table of mistakes lists.
_MAX_WORDS = 12


def text_of_words(words: Sequence[str]) -> str:
    """The words with one space between them, without those of white space, which have no tokens."""
    return " ".join(word for word in words if word.strip())


def first_tokens(words: Sequence[str], offsets: Int[np.ndarray, "T 2"]) -> Int[np.ndarray, "W"]:
    """The index of the first token of each word, -1 for a word without tokens; `offsets` refer to `text_of_words`."""
    lengths = np.asarray([len(word) if word.strip() else -1 for word in words], np.int64)
    # A word of white space takes no characters, not even the space after it.
    starts = np.cumsum(lengths + 1) - lengths - 1
    tokens = np.searchsorted(offsets[:, 1], starts, side="right")
    exists = tokens < len(offsets)
    begins = offsets[np.minimum(tokens, len(offsets) - 1), 0] if len(offsets) else np.zeros(len(words), np.int64)
    return np.where(exists & (begins < starts + lengths), tokens, -1)


def _encode(tokenizer: Tokenizer, inputs: Sequence[tuple], max_length: int) -> EncodedRows:
    return encode_windows(tokenizer, [(text_of_words(words),) for (words,) in inputs], max_length)


def _targets(
    example: WordsExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    """The first token of a word has its tag; each token counts in one of its windows."""
    assert example.tags is not None
    assigned = assign_tokens([len(window.input_ids) for window in windows], max_length)
    offsets = np.concatenate([window.offsets[tokens] for window, tokens in zip(windows, assigned, strict=True)])
    firsts = first_tokens(example.words, offsets)
    labels, weights = np.zeros(len(offsets), np.int32), np.zeros(len(offsets), np.float32)
    has_tokens = firsts >= 0
    labels[firsts[has_tokens]] = np.asarray([label_index[tag] for tag in example.tags], np.int32)[has_tokens]
    weights[firsts[has_tokens]] = 1
    start = 0
    for window, tokens in zip(windows, assigned, strict=True):
        T, part = len(window.input_ids), slice(start, start + len(tokens))
        window_labels, window_weights = np.zeros(T, np.int32), np.zeros(T, np.float32)
        window_labels[tokens], window_weights[tokens] = labels[part], weights[part]
        start += len(tokens)
        yield single_feature(window, labels=window_labels, weights=window_weights)


def _pipeline(model: TokenClassification, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    labels = model.deberta.config.labels
    outside = labels.index(OUTSIDE) if OUTSIDE in labels else 0

    def read(inputs: tuple, rows: list[EncodedRow]) -> Outcome:
        (words,) = inputs
        tokens = merge_windows(rows, max_row_length(model, batching))
        firsts = first_tokens(words, tokens.offsets)
        has_tokens = firsts >= 0
        probabilities = np.zeros((len(words), len(labels)), np.float32)
        probabilities[:, outside] = 1
        probabilities[has_tokens] = tokens.outputs[firsts[has_tokens]]
        return _likeliest(dict(zip(labels, probabilities.T, strict=True)))

    return Pipeline(model, tokenizer, label_probabilities, _encode, read, batching)


def _likeliest(probabilities: Mapping[str, Float[np.ndarray, "W"]]) -> Outcome:
    """The most likely tag of each word."""
    tags, values = tuple(probabilities), np.stack(list(probabilities.values()))
    return Outcome(tuple(tags[index] for index in values.argmax(0).tolist()), probabilities)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    return _likeliest(mean_probabilities(outcomes))


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    """Scores of each entity type; of each tag if the tags do not mark entities."""
    true, predictions = [], []
    for item in predicted:
        true_types = {(start, end): type_ for type_, start, end in chunks(item.example.tags)}
        predicted_types = {(start, end): type_ for type_, start, end in chunks(item.prediction)}
        for span in true_types | predicted_types:
            true.append(true_types.get(span, _NO_ENTITY))
            predictions.append(predicted_types.get(span, _NO_ENTITY))
    if not true:
        tags = [tag for item in predicted for tag in item.example.tags]
        predicted_tags = [tag for item in predicted for tag in item.prediction]
        return [Section("Tags", table=class_table(sorted({*tags, *predicted_tags}), tags, predicted_tags))]
    types = sorted({*true, *predictions} - {_NO_ENTITY})
    # A missed entity is an error, but not a confusion of types.
    pairs = [pair for pair in zip(true, predictions, strict=True) if pair[1] != _NO_ENTITY]
    confused = confused_pairs([a for a, _ in pairs], [b for _, b in pairs], unit="entities")
    return [Section("Entities", table=class_table(types, true, predictions, header="type")), *confused]


def _mistake(item: PredictedExample) -> Mistake:
    words = zip(item.example.words, item.example.tags, item.prediction, strict=True)
    wrong = [(word, true, predicted) for word, true, predicted in words if true != predicted]
    true_tags = ", ".join(f"{word} {true}" for word, true, _ in wrong[:_MAX_WORDS])
    predicted_tags = ", ".join(f"{word} {predicted}" for word, _, predicted in wrong[:_MAX_WORDS])
    return Mistake(float(len(wrong)), true_tags, predicted_tags, text_of_words(item.example.words))


TOKEN = Kind(
    name="token",
    head="token_classification",
    encoding=Encoding(_encode, _targets, padded_shape=lambda shape, length: [length]),
    objective=classification_objective(),
    class_weighting=ClassWeighting(classification_objective, lambda example: example.tags),
    pipeline=_pipeline,
    averaging=Averaging(_average, by_label=True),
    table=CustomTable(ROW_PARSER, score_entities, "f1"),
    report=ReportContent(_figures, _mistake, "wrong words"),
    stratification=BY_TAG,
    comparison=Comparison(most_frequent_tag, lambda tags: tags),
    predict_options='--text "..."',
)
