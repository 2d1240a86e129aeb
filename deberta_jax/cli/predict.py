"""`deberta-jax predict`: the predictions of a model for texts of the command line or of a file, as lines of JSON."""

import dataclasses
import hashlib
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.cli.predict_examples import (
    ARRAYS,
    PREDICTION,
    Fields,
    Source,
    decode_line,
    encode_line,
    example_of,
    is_stream,
    source_of_file,
    source_of_options,
)
from deberta_jax.cli.predict_options import CHUNK, PredictConfig
from deberta_jax.cli.predict_output import Output, open_resumable, open_stream, result_line
from deberta_jax.errors import InputError
from deberta_jax.hub.adapter import find_base
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import read_folder
from deberta_jax.hub.heads import heads_in_file, named_head
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.hub.repository_files import ADAPTER_CONFIG, CONFIG_FILES, TOKENIZER_FILES
from deberta_jax.hub.sentence import read_sentence
from deberta_jax.hub.sentence_modules import MODULES, SETTINGS, TRANSFORMER_FILES, read_modules
from deberta_jax.inference.activations import activations
from deberta_jax.inference.names import PipelineName
from deberta_jax.inference.pipelines import PIPELINES
from deberta_jax.inference.stream import Pipeline, stream
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.tokenizer import Tokenizer

# The files that decide about results, beside weights.
_MODEL_FILES = {*CONFIG_FILES, *TOKENIZER_FILES, ADAPTER_CONFIG, MODULES, SETTINGS, *TRANSFORMER_FILES}
# Results that are written together.
LINES_PER_WRITE = 256


class Line(NamedTuple):
    """The number of a line, its fields, and the example of the pipeline."""

    number: int
    fields: Fields
    example: tuple


class Loaded(NamedTuple):
    """A model with its tokenizer, and the pipeline that runs it."""

    model: Any
    tokenizer: Tokenizer
    pipeline: Pipeline[Any]


def run(config: PredictConfig) -> None:
    """Predict all examples; raises InputError at the end if some of them are invalid."""
    folder = resolve(config.model, revision=config.revision, generator=config.generator)
    base = find_base(folder, config.base)
    name = _pipeline_name(config, folder, base)
    _check_options(config, name)
    source = _source(config, name)
    try:
        with _open_output(config, name, source, [folder] if base is None else [folder, base]) as output:
            lines, errors = _predict_all(config, name, partial(_load, config, name, folder, base), source, output)
    except KeyboardInterrupt:
        if not is_stream(config.output) and config.output.exists():
            print(f"{config.output} is incomplete: run the same command again to resume", file=sys.stderr)
        raise
    _report_end(config, lines, errors)


def _report_end(config: PredictConfig, lines: int, errors: int) -> None:
    """Print where the results are; raises InputError if lines were invalid."""
    to_file = not is_stream(config.output)
    if errors:
        hint = f'; {config.output} has an "error" for each: fix them, and run the command with another --output'
        raise InputError(f"{errors:,} of {lines:,} lines are invalid{hint if to_file else ''}")
    if to_file:
        arrays = f", arrays in {_arrays_folder(config.output)}" if config.parts else ""
        plural = "s" * (lines != 1)
        print(f"results of {lines:,} line{plural} are in {config.output}{arrays}", file=sys.stderr)


def _pipeline_name(config: PredictConfig, folder: Path, base: Path | None) -> PipelineName:
    """The task of --task, or of the head that config.json names; raises InputError if the file lacks its head.

    A sentence encoder gives embeddings.
    """
    model_config, tensors, _ = read_folder(folder, generator=config.generator, base=base)
    heads = {None, *heads_in_file(tensors)}
    available = [name for name, spec in PIPELINES.items() if spec.head in heads]
    head = "masked_lm" if config.generator else named_head(model_config)
    default = next((name for name, spec in PIPELINES.items() if head and spec.head == head), None)
    if head is None and read_sentence(folder) is not None:
        default = "embeddings"
    name = config.task or default
    hint = f"its tensors serve {', '.join(available)}"
    if name is None:
        raise InputError(f"{config.model}: config.json names no head: choose a task with --task; {hint}")
    if name not in available:
        raise InputError(f"{config.model}: no head for {name}; {hint}")
    return name


def _options(name: PipelineName) -> tuple[str, ...]:
    """The options that only some tasks take."""
    return (*PIPELINES[name].options, *["generator"] * (name == "fill-mask"))


def _check_options(config: PredictConfig, name: PipelineName) -> None:
    """Raise InputError for options of other tasks, and for options that exclude each other."""
    for field in dataclasses.fields(config):
        users = [user for user in PIPELINES if field.name in _options(user)]
        if users and name not in users and getattr(config, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise InputError(f"--{option} is for {users[0]}, but the task is {name}: choose another task with --task")
    if name == "zero-shot" and not config.labels:
        raise InputError("zero-shot needs the labels to choose from: --labels")
    if config.parts and name in ("zero-shot", "multiple-choice", "entity-ranking"):
        raise InputError(f"--return needs one text or pair per example, but {name} encodes several sequences")
    if config.parts and is_stream(config.output):
        raise InputError("--return writes arrays next to the output: name a file with --output")


def _source(config: PredictConfig, name: PipelineName) -> Source:
    """The lines of the input file, or the texts of the command line as lines; `choices` apply to every text."""
    spec = PIPELINES[name]
    columns = {key: getattr(config, key) for key in ("text", "pair", "question", "context", "choices")}
    given = {key: values for key, values in columns.items() if values}
    if config.input is not None:
        if config.output.exists() and config.input.exists() and config.output.samefile(config.input):
            raise InputError(f"{config.output} is the --input: name another file with --output")
        if given:
            raise InputError(f"{_listed(given)} and --input exclude each other: use one of them")
        return source_of_file(config.input)
    if unused := given.keys() - {*spec.fields, *["pair"] * spec.pairs}:
        raise InputError(f"{_listed(unused)}: not used by {name}, which takes {_listed(spec.fields)}")
    if not set(spec.fields) <= columns.keys():
        raise InputError(f"{name} takes its examples from a file: --input")
    if missing := [key for key in spec.fields if key not in given]:
        raise InputError(f"{name} needs {_listed(missing)}, or a file of examples: --input")
    choices = {"choices": list(given.pop("choices"))} if "choices" in given else {}
    if len({len(values) for values in given.values()}) > 1:
        numbers = [f"{len(values)} of --{key}" for key, values in given.items()]
        raise InputError(f"{' and '.join(numbers)}: each example needs one of each")
    return source_of_options(dict(zip(given, row, strict=True)) | choices for row in zip(*given.values(), strict=True))


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(f"--{key}" for key in keys)


def _open_output(
    config: PredictConfig, name: PipelineName, source: Source, folders: Iterable[Path]
) -> AbstractContextManager[Output]:
    if is_stream(config.output):
        return open_stream(config.output)
    names = *_options(name), "dtype", "precision", "attention", "max_length"
    settings = {"task": name} | {option: getattr(config, option) for option in names} | {"return": config.parts}
    return open_resumable(config.output, settings | {"model": _sha256(folders), "input": source.sha256})


def _sha256(folders: Iterable[Path]) -> str:
    """The SHA-256 of all files that a model, its base model and its tokenizer can be read from."""
    digest = hashlib.sha256()
    for folder in folders:
        subfolders = [folder / module.path for module in read_modules(folder) if module.path]
        for path in sorted(path for each in (folder, *subfolders) if each.is_dir() for path in each.iterdir()):
            if path.name in _MODEL_FILES or path.suffix in (".safetensors", ".bin"):
                with path.open("rb") as file:
                    digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _load(config: PredictConfig, name: PipelineName, folder: Path, base: Path | None) -> Loaded:
    """Load the model with the head of the pipeline, which the file contains."""
    spec = PIPELINES[name]
    dtypes: dict[str, Any] = {"dtype": config.dtype, "param_dtype": config.dtype, "precision": config.precision}
    dtypes["attention"] = config.attention
    model, tokenizer = load_pretrained(folder, spec.head, generator=config.generator, base=base, **dtypes)
    options = {option: getattr(config, option) for option in spec.options}
    pipeline = spec.build(model, tokenizer, batching=config.batching, **options)
    if spec.head == "masked_lm" and model.decoder is not None:
        print("masks are filled with the enhanced mask decoder", file=sys.stderr)
    return Loaded(model, tokenizer, pipeline)


def _predict_all(
    config: PredictConfig, name: PipelineName, load: Callable[[], Loaded], source: Source, output: Output
) -> tuple[int, int]:
    """Write the lines that the output does not have yet; returns its number of lines, and of errors among them."""
    if output.lines:
        print(f"{config.output}: resuming after line {output.lines:,}", file=sys.stderr)
    loaded = load()
    lines, errors, started = output.lines, output.errors, time.perf_counter()
    ready: list[bytes] = []
    with progress_bar("lines") as progress:
        for line, result in _predict_lines(source, name, loaded.pipeline, output.lines):
            lines = line.number
            try:
                ready.append(_output_line(config, loaded, line, result))
            except InputError as error:
                errors += 1
                print(f"{source.name}, line {lines}: {error}", file=sys.stderr)
                ready.append(encode_line({"line": lines, "error": str(error)}))
            if len(ready) == LINES_PER_WRITE:
                output.write(b"".join(ready))
                ready.clear()
            progress(lines, source.total or lines)
        output.write(b"".join(ready))
    if config.input is not None:
        done, seconds = lines - output.lines, time.perf_counter() - started
        print(f"{source.name}: {done:,} lines ({seconds:.0f} s, {done / seconds:,.1f} lines/s)", file=sys.stderr)
    return lines, errors


def _predict_lines(
    source: Source, name: PipelineName, pipeline: Pipeline[Any], skip: int
) -> Iterator[tuple[Line, Any]]:
    """All lines after the first `skip`, in order, with the result or the error of each."""
    waiting: deque[tuple[Line, InputError | None]] = deque()

    def examples(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple]:
        for number, line in lines:
            fields: Fields = {}
            try:
                fields = decode_line(line, plain_text=source.plain_text)
                example = example_of(fields, PIPELINES[name])
            except InputError as error:
                waiting.append((Line(number, fields, ()), error))
            else:
                waiting.append((Line(number, fields, example), None))
                yield example
            # This many lines wait for a result only if most of them are invalid.
            if len(waiting) >= 4 * CHUNK:
                return

    lines = source.lines(skip)
    for first in lines:
        for result in stream(pipeline, examples(itertools.chain([first], lines))):
            while waiting[0][1] is not None:
                yield waiting.popleft()
            yield waiting.popleft()[0], result
        while waiting:
            yield waiting.popleft()


def _output_line(config: PredictConfig, loaded: Loaded, line: Line, result: Any) -> bytes:
    """The line of a result; raises InputError if the result is an error or cannot be written."""
    if isinstance(result, InputError):
        raise result
    arrays = {ARRAYS: _write_arrays(config, loaded, line)} if config.parts else {}
    return result_line(line.fields, {PREDICTION: result} | arrays)


def _write_arrays(config: PredictConfig, loaded: Loaded, line: Line) -> str:
    """Write the arrays of --return for a line; returns the path of the file, relative to the folder of the output."""
    try:
        computed = activations(loaded.model, loaded.tokenizer, *line.example, batching=config.batching)
    except InputError as error:
        raise InputError(f"--return: {str(error).removeprefix('text 0: ').partition(';')[0]}") from None
    folder = _arrays_folder(config.output)
    folder.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {part: np.asarray(getattr(computed, part), np.float32) for part in config.parts}
    name = f"{line.number:08}.npz"
    np.savez(folder / name, tokens=np.asarray(computed.tokens), offsets=computed.offsets, **arrays)
    return f"{folder.name}/{name}"


def _arrays_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.arrays")
