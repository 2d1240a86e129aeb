"""The options of `deberta-jax predict`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching

# Examples that are held at a time, and done again after a violent end.
CHUNK = 1024
TaskName = Literal[
    "fill-mask",
    "classification",
    "zero-shot",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "replaced-tokens",
    "embeddings",
]
Part = Literal["hidden_states", "attentions"]
_Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")]


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Fill masks, classify, tag, answer, choose or embed, as --task says, by a model folder or a model of the hub.

    Each example is a --text, or a line of --input, and gives one line of JSON, in the same order: the example's fields,
    and the result as "prediction". In a file an example is a JSON object with "text" and, where a task takes two
    texts, a "pair"; question-answering takes "question" and "context", multiple-choice "text" and "choices". Other
    fields, such as "id", are kept. A line of a .txt file is a text. Standard input is answered by the thousand lines.

    A line that cannot be used is told with its number, and {"line": 7, "error": "..."} stands in its place; the others
    are done, and the exit code is 2. The same command goes on with an --output that was interrupted, after its last
    whole line; until it is complete, OUTPUT.progress stands beside it. A complete one is not written over.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model folder, or owner/name on the hub."""
    text: _Texts = ()
    """A text, with [MASK] for fill-mask; --text=TEXT where it begins with a dash."""
    pair: _Texts = ()
    """Second text of each --text (fill-mask, classification, embeddings)."""
    question: _Texts = ()
    """Question (question-answering)."""
    context: _Texts = ()
    """Text that answers each --question."""
    choices: tuple[str, ...] = ()
    """What each --text is completed by (multiple-choice)."""
    input: Path | None = None
    """File with an example on each line, JSON or .txt; - is standard input."""
    output: Path = Path("-")
    """File to write; - is standard output."""
    task: TaskName | None = None
    """By default what the model's config.json names in "architectures"."""
    labels: tuple[str, ...] = ()
    """Labels to choose from (zero-shot)."""
    template: str = "This example is {}."
    """Sentence that a label completes, in the texts' language (zero-shot)."""
    several: bool = False
    """Let any number of labels hold, each for itself (zero-shot)."""
    longest: int = 30
    """Tokens of the longest answer (question-answering)."""
    no_answer_threshold: float | None = 0.0
    """How much likelier no answer must be than the best one; None for always one (question-answering)."""
    top: int = 5
    """Tokens for each mask (fill-mask)."""
    pooling: Literal["mean", "cls"] = "mean"
    """The mean of a text's tokens, or the first, [CLS] (embeddings)."""
    parts: Annotated[tuple[Part, ...], tyro.conf.arg(name="return")] = ()
    """Also write these of each text, as .npz files in OUTPUT.arrays, named by "arrays" in the output."""
    generator: bool = False
    """Fill masks by the generator that a v3 model was trained with."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of parameters and computation."""
    max_length: int | None = None
    """Tokens of the longest row; by default as many as the model has positions."""
    batch_tokens: int = BATCHING.batch_tokens
    """Tokens that go to the device at once, padding included."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top is {self.top}; it must be at least 1")
        if "{}" not in self.template:
            raise InputError(f"template {self.template!r} has no {{}}, where the label goes")
        # It checks itself.
        _ = self.batching

    @property
    def batching(self) -> Batching:
        return Batching(batch_tokens=self.batch_tokens, max_length=self.max_length, chunk=CHUNK)


OPTIONS = PredictConfig
