"""The columns of a custom table, as options."""

import dataclasses
from typing import Literal

import tyro

from deberta_jax.tasks.tagging import Tagging

ChoiceLabel = Literal["auto", "name", "text", "index", "number"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a custom table (task `generic`), or the numbers of the columns of CoNLL files (task `ner`)."""

    kind: str = "single_label"
    """Kind: single_label, multi_label, regression, ordinal, token, extractive_qa, multiple_choice or seq2seq."""
    text: str = "text"
    """Column with the text."""
    pair: str | None = None
    """Column with a second text; for multiple_choice, with the beginning of each choice."""
    label: tuple[str, ...] = ("label",)
    """Column with the label, the labels, the number, or the correct choice. Several columns: the probability of each
    label (single_label), 0 or 1 for each label (multi_label), or several numbers (regression)."""
    id: str | None = None
    """Column with the name of a row; the number of its line or row in the file by default."""
    group: str | None = None
    """Column such as the author of a text: rows with the same value are never on both sides of a split."""
    separator: str = "|"
    """Separator of the labels in a cell that is not a list (multi_label)."""
    words: str = "words"
    """Column with the words: a list, a text with spaces, or one word per row (token). Its number for `ner`."""
    tags: str = "tags"
    """Column with one tag per word, in the same form (token). Its number for `ner`."""
    sentence: str | None = None
    """Column that names the sentence of a row with one word, or that is filled only where a sentence begins (token)."""
    spans: str | None = None
    """Column with the spans of entities in the text, as Doccano, Label Studio and Prodigy export them (token)."""
    tagging: Literal["auto", "prefixes", "types", "plain"] = "auto"
    """How tags mark entities: with prefixes such as B-, by types without prefixes, or not at all (token)."""
    question: str = "question"
    """Column with the question (extractive_qa)."""
    context: str = "context"
    """Column with the text that contains the answer (extractive_qa)."""
    answer: str = "answer"
    """Column with the answer; empty if the context has none (extractive_qa)."""
    answer_start: str | None = None
    """Column with the position of the answer in characters; the first occurrence by default (extractive_qa)."""
    source: str = "source"
    """Column with the text to read (seq2seq)."""
    target: str = "target"
    """Column with the text to write (seq2seq)."""
    choices: tuple[str, ...] = ("choices",)
    """One column with a list of choices, or one column per choice (multiple_choice)."""
    choice_label: ChoiceLabel = "auto"
    """What the label of a choice is: its name (the column, or a letter), its text, its index from 0, or its number from
    1 (multiple_choice)."""
    header: tuple[str, ...] = ()
    """Names of all columns of a csv or tsv file without a header line."""
    names: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The names of labels that the table gives as numbers from 0 (`--labels`)."""
    marked: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The labels that each cell marks with 0 and 1, in their order, once this is decided (multi_label)."""

    @property
    def known_tagging(self) -> Tagging:
        """How tags mark entities, once this is decided."""
        return "prefixes" if self.tagging == "auto" else self.tagging
