"""The options of `deberta-jax predict`."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deberta_jax.config import AttentionName, Pooling, Precision
from deberta_jax.errors import InputError, check_at_least
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.names import FillOrder, PipelineName, ScoreFunction

# Examples per chunk: a chunk is in memory together, and is computed again if the process is killed.
CHUNK = 1024
# The default of `top_k` for fill-mask.
TOP_TOKENS = 5
ArrayName = Literal["hidden_states", "attentions"]
_Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")]


@dataclasses.dataclass(frozen=True)
class FieldNames:
    """The columns of a table, or the fields of JSON objects, that contain the parts of an example."""

    text: str = "text"
    """Column with the text."""
    pair: str | None = None
    """Column with the second text; by default "pair" or "text_pair" if there is one."""
    words: str = "words"
    """Column with the words of the text, a list or separated by spaces, if there is no text (token-classification)."""
    question: str = "question"
    """Column with the question (question-answering)."""
    context: str = "context"
    """Column with the text that contains the answer (question-answering)."""
    choices: tuple[str, ...] = ("choices",)
    """One column with a list of choices, or one column per choice (multiple-choice)."""
    query: str = "query"
    """Column with the query (rank, entity-ranking)."""
    documents: str = "documents"
    """Column with the list of documents (rank)."""
    passage: str = "passage"
    """Column with the passage (entity-ranking)."""
    entities: str = "entities"
    """Column with the spans of entities, a list of [start, end] (entity-ranking)."""

    def of(self, key: str) -> tuple[str, ...]:
        """The names of the fields that contain a part."""
        name = getattr(self, key)
        return name if isinstance(name, tuple) else (name,)

    def pair_in(self, names: Collection[str]) -> str | None:
        """The name of the field with the second text; None if there is none."""
        if self.pair is not None:
            return self.pair
        return next((name for name in ("pair", "text_pair") if name in names), None)


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Fill masks, generate, classify, score, rank, tag, answer, choose, detect or embed with a model of a folder or of
    the hub.

    Each example is a --text, or a line or row of --input. It gives one line of JSON, in the same order: the fields of
    the example, and the result as "prediction". In a file, an example is a JSON object or a row of a table (csv, tsv,
    parquet, xlsx, or json with a list of objects) with the fields of the task: "text", and optionally "pair", for most
    tasks; "question" and "context" for question-answering; "text" and "choices" for multiple-choice; "query" and
    "documents" for rank; "passage", "query" and "entities", a list of [start, end], for entity-ranking. The options
    --columns.* change these names. Other fields, such as "id", are copied. In a .txt file, each line is a text.

    An invalid line is reported with its number, and its result is {"line": 7, "error": "..."}, with the field "id" if
    it has one. After 20 of them only the count of the others is reported. The other lines are processed, and the exit
    code is 2. To resume an --output that was interrupted, run the same command again: it continues after the last
    complete line. The folder OUTPUT.progress exists until the output is complete. A complete output is never
    overwritten.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model folder, or owner/name on the hub."""
    text: _Texts = ()
    """Text, with [MASK] for fill-mask; write --text=TEXT if it starts with a dash."""
    pair: _Texts = ()
    """Second text for each --text (fill-mask, classification, score, embeddings)."""
    question: _Texts = ()
    """Question (question-answering)."""
    context: _Texts = ()
    """Text that contains the answer to each --question (question-answering)."""
    choices: tuple[str, ...] = ()
    """Choices for each --text (multiple-choice)."""
    query: _Texts = ()
    """Query (rank)."""
    documents: tuple[str, ...] = ()
    """Documents for each --query (rank)."""
    documents_file: Path | None = None
    """File with the documents for each query: a .txt file with one per line, or any --input with a "text" (rank).

    Blank lines of a .txt file are skipped.
    """
    input: Path | None = None
    """File with one example per line or row: JSON, .txt, csv, tsv, parquet or xlsx; - for JSON on standard input."""
    columns: FieldNames = FieldNames()
    """Names of the columns or fields of --input."""
    encoding: str | None = None
    """Encoding of --input and --documents-file, such as latin-1; by default UTF-8, or as the byte-order mark says."""
    output: Path = Path("-")
    """File to write; - for standard output."""
    task: PipelineName | None = None
    """Task; by default the task of the head that the model's config.json names in "architectures"."""
    labels: tuple[str, ...] = ()
    """Labels to choose from (zero-shot)."""
    template: str = "This example is {}."
    """Sentence with {} in place of a label, in the language of the texts (zero-shot)."""
    multi_label: bool = False
    """Score each label independently, so that any number of labels can be true (zero-shot)."""
    entailment: str | None = None
    """The model's label of entailment, if its name does not say so, such as LABEL_0 (zero-shot)."""
    function: ScoreFunction = "auto"
    """Function of the logits (classification, score, rank).

    auto is that of the model's problem type for classification, none for score, and for rank the one that
    sentence-transformers stored with the model, else sigmoid.
    """
    top: int | None = 10
    """Number of documents to return for each query; None for all (rank)."""
    windows: bool = False
    """Read a long document in windows and take the best score, instead of truncating it (rank)."""
    relevant: str | None = None
    """The label of relevant documents, for a model with several labels (rank)."""
    max_answer_tokens: int = 30
    """Maximum number of tokens of an answer (question-answering)."""
    no_answer_threshold: float | None = 0.0
    """Predict no answer if its score exceeds that of the best span by more than this (question-answering).

    None always answers.
    """
    top_k: int | None = None
    """Number of tokens to return for each [MASK], by default 5, or to sample among, by default all (generate)."""
    fill_order: FillOrder = "independent"
    """Predict each [MASK] independently, or fill one after the other and return the filled text too (fill-mask)."""
    max_new_tokens: int | None = None
    """Maximum number of tokens to write, by default 64 or what the model was trained to write (generate)."""
    temperature: float = 0.0
    """0 for the most likely token; higher for more random texts (generate)."""
    top_p: float = 1.0
    """Sample among the most likely tokens whose probabilities add up to this (generate)."""
    stop: tuple[str, ...] = ()
    """Tokens that end a text, beside [SEP] (generate)."""
    seed: int = 0
    """Seed of the samples (generate)."""
    pooling: Pooling | None = None
    """How token states become one vector (embeddings).

    By default as the folder says, with its dense layers and its normalization, or the mean of all token states.
    """
    prompt: str | None = None
    """Name of a prompt of the folder, or text to write before each text; by default the folder's (embeddings)."""
    parts: Annotated[tuple[ArrayName, ...], tyro.conf.arg(name="return")] = ()
    """Also write these arrays for each text, as .npz files in OUTPUT.arrays; "arrays" in the output names the file."""
    base: str | None = None
    """Base model of a PEFT adapter; by default the one that the adapter names."""
    generator: bool = False
    """Use the generator that a v3 model was trained with (fill-mask)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of parameters and computation."""
    precision: Precision = "float32"
    """Precision of float32 matrix products: tf32 is faster on GPU and TPU, and has no effect with bfloat16."""
    attention: AttentionName = "auto"
    """Implementation of attention (docs/attention.md); auto chooses by device and length."""
    max_length: int | None = None
    """Maximum number of tokens per sequence; by default the number of positions of the model.

    For rank, the model_max_length of the tokenizer is the default if it is lower.
    """
    batch_tokens: int = BATCHING.batch_tokens
    """Number of tokens per batch, including padding."""

    def __post_init__(self) -> None:
        if self.top_k is not None:
            check_at_least("top_k", self.top_k, 1)
        check_at_least("top", self.top, 1)
        if "{}" not in self.template:
            raise InputError(f"template {self.template!r} has no {{}} for the label")
        # Raises InputError for invalid values.
        _ = self.batching

    def option(self, name: str, task: PipelineName) -> Any:
        """The value of an option that only some tasks take, for this task."""
        value = getattr(self, name)
        return TOP_TOKENS if (name, task, value) == ("top_k", "fill-mask", None) else value

    @property
    def batching(self) -> Batching:
        """Sizes of batches and chunks."""
        return Batching(batch_tokens=self.batch_tokens, max_length=self.max_length, chunk=CHUNK)


OPTIONS = PredictConfig
