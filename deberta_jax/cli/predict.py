"""`deberta-jax predict`: what a model makes of texts, from the command line or a file, as lines of JSON."""

import dataclasses
import hashlib
import itertools
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from deberta_jax.cli.predict_io import (
    Row,
    Source,
    Written,
    answered,
    decoded,
    encoded,
    is_stream,
    resumed,
    source_of_file,
    source_of_rows,
    to_stream,
)
from deberta_jax.cli.tasks import ARRAYS, PREDICTION, TASKS, Task, TaskName, named_task, tasks_for, texts_of
from deberta_jax.errors import InputError
from deberta_jax.hub.download import CONFIGS, TOKENIZERS, resolve
from deberta_jax.hub.pretrained import load_pretrained, read_folder
from deberta_jax.inference import stream
from deberta_jax.inference.activations import Activations, activations
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.embeddings import Pooling
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Examples that are held at a time, and done again after a violent end; lines that are written at a time.
CHUNK, WRITTEN = 1024, 256
Part = Literal["hidden_states", "attentions"]
_Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")]


class Example(NamedTuple):
    """A line's number, its fields, and what the library takes of them."""

    number: int
    row: Row
    texts: tuple


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
    pooling: Pooling = "mean"
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


def run(config: PredictConfig) -> None:
    """Answer every example; that some could not be used is said at the end, as an error."""
    folder = resolve(config.model, revision=config.revision, generator=config.generator)
    name = _task_name(config, folder)
    _check_options(config, name)
    source = _source(config, TASKS[name], name)
    try:
        with _output(config, name, source, folder) as output:
            lines, bad = _answer_all(config, TASKS[name], folder, source, output)
    except BrokenPipeError:
        # As if the signal had ended it: who reads has enough.
        raise SystemExit(141) from None
    if bad:
        raise InputError(f"{bad:,} of {lines:,} lines could not be used")


def _task_name(config: PredictConfig, folder: Path) -> TaskName:
    """What is asked for, or what the model's config names; a task that the file has no head for is refused."""
    model_config, tensors, _ = read_folder(folder, generator=config.generator)
    able = tasks_for({name.partition(".")[0] for name in tensors})
    chosen = config.task or ("fill-mask" if config.generator else named_task(model_config.extra))
    serves = f"the file serves {', '.join(able)}"
    if chosen is None:
        raise InputError(f"{config.model}: config.json names no task; say which by --task; {serves}")
    if chosen not in able:
        raise InputError(f"{config.model}: has no head for {chosen}; {serves}")
    return chosen


def _check_options(config: PredictConfig, name: TaskName) -> None:
    """Refuse options of other tasks, and what does not go together."""
    for field in dataclasses.fields(config):
        users = [user for user, task in TASKS.items() if field.name in task.options]
        if users and name not in users and getattr(config, field.name) != field.default:
            raise InputError(f"--{field.name} is for {users[0]}, and the task is {name}; --task names another")
    if name == "zero-shot" and not config.labels:
        raise InputError("zero-shot needs the labels to choose from: --labels")
    if config.parts and name in ("zero-shot", "multiple-choice"):
        raise InputError(f"--return is of one row of tokens, and {name} makes several of a text")
    if config.parts and is_stream(config.output):
        raise InputError("--return writes arrays beside the output: name a file with --output")


def _source(config: PredictConfig, task: Task, name: TaskName) -> Source:
    """The lines of `input`, or the examples of the command line as lines; `choices` are those of every text."""
    columns = {key: getattr(config, key) for key in ("text", "pair", "question", "context", "choices")}
    given = {key: values for key, values in columns.items() if values}
    if config.input is not None:
        if config.output.exists() and config.input.exists() and config.output.samefile(config.input):
            raise InputError(f"{config.output} is the --input: name another file with --output")
        if given:
            raise InputError(f"{_listed(given)} and --input: give one of them")
        return source_of_file(config.input)
    if surplus := given.keys() - {*task.fields, *["pair"] * task.pairs}:
        raise InputError(f"{_listed(surplus)}: of no use for {name}, which takes {_listed(task.fields)}")
    if missing := [key for key in task.fields if key not in given]:
        raise InputError(f"{name} needs {_listed(missing)}, or a file of examples: --input")
    choices = {"choices": list(given.pop("choices"))} if "choices" in given else {}
    if len({len(values) for values in given.values()}) > 1:
        numbers = [f"{len(values)} of --{key}" for key, values in given.items()]
        raise InputError(f"{' and '.join(numbers)}: each example needs one of both")
    return source_of_rows(dict(zip(given, row, strict=True)) | choices for row in zip(*given.values(), strict=True))


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(f"--{key}" for key in keys)


def _output(config: PredictConfig, name: TaskName, source: Source, folder: Path) -> AbstractContextManager[Written]:
    if is_stream(config.output):
        return to_stream(config.output)
    names = *TASKS[name].options, "dtype", "max_length"
    settings = {"task": name} | {option: getattr(config, option) for option in names} | {"return": config.parts}
    return resumed(config.output, settings | {"model": _sha256(folder), "input": source.sha256})


def _sha256(folder: Path) -> str:
    """Of all files that a model and its tokenizer may be read from."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in (*CONFIGS, *TOKENIZERS) or path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _load(config: PredictConfig, task: Task, folder: Path) -> tuple[Any, Tokenizer, stream.Pipeline]:
    """The model, its tokenizer and the library's task; never a head that is not in the file."""
    model, tokenizer, _ = load_pretrained(
        folder, task.head, dtype=config.dtype, param_dtype=config.dtype, generator=config.generator
    )
    if tokenizer is None:
        raise InputError(f"{config.model}: holds no tokenizer")
    options = {option: getattr(config, option) for option in task.options if option != "generator"}
    made = task.make(model, tokenizer, batching=config.batching, **options)
    if task.head == "masked_lm" and model.decoder is not None:
        print("masks are filled through the enhanced mask decoder", file=sys.stderr)
    return model, tokenizer, made


def _answer_all(config: PredictConfig, task: Task, folder: Path, source: Source, output: Written) -> tuple[int, int]:
    """Answer what the output has not yet; how many lines it has then, and how many of them say an error."""
    if output.lines:
        print(f"{config.output}: goes on after line {output.lines:,}", file=sys.stderr)
    model, tokenizer, made = _load(config, task, folder)
    lines, bad, started = output.lines, output.bad, time.perf_counter()
    ready: list[bytes] = []
    with progress_bar("lines") as progress:
        for (lines, row, texts), result in _answers(source, task, made, output.lines):
            try:
                if isinstance(result, InputError):
                    raise result
                arrays = {}
                if config.parts:
                    traced = _traced(model, tokenizer, texts, config.batching)
                    arrays[ARRAYS] = _write_arrays(config, lines, traced)
                ready.append(answered(row, {PREDICTION: result} | arrays))
            except InputError as error:
                bad += 1
                print(f"{source.name}, line {lines}: {error}", file=sys.stderr)
                ready.append(encoded({"line": lines, "error": str(error)}))
            if len(ready) == WRITTEN:
                output.write(b"".join(ready))
                ready.clear()
            progress(lines, source.total or lines)
        output.write(b"".join(ready))
    if config.input is not None:
        done, seconds = lines - output.lines, time.perf_counter() - started
        print(f"{source.name}: {done:,} lines ({seconds:.0f} s, {done / seconds:,.1f} lines/s)", file=sys.stderr)
    return lines, bad


def _answers(source: Source, task: Task, made: stream.Pipeline, start: int) -> Iterator[tuple[Example, Any]]:
    """Each line after `start`, in their order, with the result or what is wrong with it."""
    waiting: deque[tuple[Example, InputError | None]] = deque()

    def examples(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple]:
        for number, line in lines:
            row: Row = {}
            try:
                row = decoded(line, plain=source.plain)
                texts = texts_of(row, task)
            except InputError as error:
                waiting.append((Example(number, row, ()), error))
            else:
                waiting.append((Example(number, row, texts), None))
                yield texts
            # Only where most lines are bad do so many wait for a result.
            if len(waiting) >= 4 * CHUNK:
                return

    lines = source.lines(start)
    for first in lines:
        for result in stream.stream(made, examples(itertools.chain([first], lines))):
            while waiting[0][1] is not None:
                yield waiting.popleft()
            yield waiting.popleft()[0], result
        while waiting:
            yield waiting.popleft()


def _traced(model: Any, tokenizer: Tokenizer, texts: tuple, batching: Batching) -> Activations:
    try:
        return activations(model, tokenizer, *texts, batching=batching)
    except InputError as error:
        raise InputError(f"--return: {str(error).removeprefix('text 0: ').partition(';')[0]}") from None


def _write_arrays(config: PredictConfig, number: int, traced: Activations) -> str:
    """Write what --return names of a line, and say where, as seen from the output's folder."""
    folder = config.output.with_name(f"{config.output.name}.arrays")
    folder.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {part: np.asarray(getattr(traced, part), np.float32) for part in config.parts}
    name = f"{number:08}.npz"
    np.savez(folder / name, tokens=np.asarray(traced.tokens), offsets=traced.offsets, **arrays)
    return f"{folder.name}/{name}"
