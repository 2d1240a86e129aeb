"""`deberta-jax predict`: the predictions of a model for texts of the command line or of a file, as lines of JSON."""

import dataclasses
import hashlib
import io
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.cli.predict_examples import ARRAYS, PREDICTION, Fields, add_text, example_of
from deberta_jax.cli.predict_options import CHUNK, PredictConfig
from deberta_jax.cli.predict_output import Output, error_line, open_resumable, open_stream, result_line
from deberta_jax.cli.predict_sources import Inputs, is_stream, read_inputs
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
from deberta_jax.inference.pipelines import PIPELINES, PipelineSpec, default_pipeline
from deberta_jax.inference.stream import Pipeline, stream
from deberta_jax.printing import print_message
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.tokenizer import Tokenizer

# The files that decide about results, beside weights.
_MODEL_FILES = {*CONFIG_FILES, *TOKENIZER_FILES, ADAPTER_CONFIG, MODULES, SETTINGS, *TRANSFORMER_FILES}
# Results that are written together.
LINES_PER_WRITE = 256
# Invalid lines that are reported one by one.
MAX_REPORTED = 20


class Line(NamedTuple):
    """The number of a record, its fields, and the example of the pipeline."""

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
    inputs = read_inputs(config, name)
    try:
        with _open_output(config, name, inputs, [folder] if base is None else [folder, base]) as output:
            load = partial(_load, config, name, folder, base)
            lines, errors = _predict_all(config, name, load, inputs, output)
    except KeyboardInterrupt:
        if not is_stream(config.output) and config.output.exists():
            print_message(f"{config.output} is incomplete: run the same command again to resume")
        raise
    _report_end(config, inputs.source.unit, lines, errors)


def _report_end(config: PredictConfig, unit: str, lines: int, errors: int) -> None:
    """Print where the results are; raises InputError if lines were invalid."""
    to_file = not is_stream(config.output)
    if errors:
        hint = f'; {config.output} has an "error" for each: fix them, and run the command with another --output'
        raise InputError(f"{errors:,} of {lines:,} {unit}s are invalid{hint if to_file else ''}")
    if to_file:
        arrays = f", arrays in {_arrays_folder(config.output)}" if config.parts else ""
        plural = "s" * (lines != 1)
        print_message(f"results of {lines:,} {unit}{plural} are in {config.output}{arrays}")


def _pipeline_name(config: PredictConfig, folder: Path, base: Path | None) -> PipelineName:
    """The task of --task, or of the head that config.json names; raises InputError if the file lacks its head.

    A sentence encoder gives embeddings, a model that was trained only to generate text generates.
    """
    model_config, tensors, _ = read_folder(folder, generator=config.generator, base=base)
    heads = {None, *heads_in_file(tensors)}
    available = [name for name, spec in PIPELINES.items() if spec.head in heads]
    head = "masked_lm" if config.generator else named_head(model_config)
    default = None if head is None else default_pipeline(head, model_config)
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
            raise InputError(
                f"--{option} is for {', '.join(users)}, but the task is {name}: choose another task with --task"
            )
    if name == "zero-shot" and not config.labels:
        raise InputError("zero-shot needs the labels to choose from: --labels")
    if config.parts and name in ("zero-shot", "multiple-choice", "entity-ranking", "rank", "generate"):
        raise InputError(f"--return needs one text or pair that is read once, but {name} reads several sequences")
    if config.parts and is_stream(config.output):
        raise InputError("--return writes arrays next to the output: name a file with --output")


def _open_output(
    config: PredictConfig, name: PipelineName, inputs: Inputs, folders: Iterable[Path]
) -> AbstractContextManager[Output]:
    if is_stream(config.output):
        return open_stream(config.output)
    names = *_options(name), "dtype", "precision", "attention", "max_length"
    settings = {"task": name} | {option: config.option(option, name) for option in names} | {"return": config.parts}
    settings |= {"columns": dataclasses.asdict(config.columns), "documents": inputs.given_sha256}
    return open_resumable(config.output, settings | {"model": _sha256(folders), "input": inputs.source.sha256})


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
    options = {option: config.option(option, name) for option in spec.options}
    pipeline = spec.build(model, tokenizer, batching=config.batching, **options)
    if name == "fill-mask" and model.decoder is not None:
        print_message("masks are filled with the enhanced mask decoder")
    return Loaded(model, tokenizer, pipeline)


def _predict_all(
    config: PredictConfig, name: PipelineName, load: Callable[[], Loaded], inputs: Inputs, output: Output
) -> tuple[int, int]:
    """Write the lines that the output does not have yet; returns its number of lines, and of errors among them."""
    source = inputs.source
    if output.lines:
        print_message(f"{config.output}: resuming after line {output.lines:,}")
    loaded = load()
    lines, errors, started = output.lines, output.errors, time.perf_counter()
    ready: list[bytes] = []
    with progress_bar(f"{source.unit}s") as progress:
        for line, result in _predict_lines(config, inputs, PIPELINES[name], loaded.pipeline, output.lines):
            lines += 1
            try:
                ready.append(_output_line(config, loaded, line, result))
            except InputError as error:
                errors += 1
                if errors - output.errors <= MAX_REPORTED:
                    print_message(f"{source.name}, {source.locate(line.number)}: {error}")
                ready.append(error_line(line.number, error, line.fields))
            if len(ready) == LINES_PER_WRITE:
                output.write(b"".join(ready))
                ready.clear()
            progress(lines, source.total or lines)
        output.write(b"".join(ready))
    if (hidden := errors - output.errors - MAX_REPORTED) > 0:
        print_message(f"{source.name}: {hidden:,} more invalid {source.unit}s are not listed")
    if config.input is not None:
        done, seconds, unit = lines - output.lines, time.perf_counter() - started, f"{source.unit}s"
        print_message(f"{source.name}: {done:,} {unit} ({seconds:.0f} s, {done / seconds:,.1f} {unit}/s)")
    return lines, errors


def _predict_lines(
    config: PredictConfig, inputs: Inputs, spec: PipelineSpec, pipeline: Pipeline[Any], skip: int
) -> Iterator[tuple[Line, Any]]:
    """All records after the first `skip`, in order, with the result or the error of each."""
    waiting: deque[tuple[Line, InputError | None]] = deque()

    def examples(records: Iterator[tuple[int, Any]]) -> Iterator[tuple]:
        for number, record in records:
            fields: Fields = {}
            try:
                fields = add_text(inputs.source.decode(record), spec, config.columns)
                example = example_of(fields, spec, config.columns, inputs.given)
            except InputError as error:
                waiting.append((Line(number, fields, ()), error))
            else:
                waiting.append((Line(number, fields, example), None))
                yield example
            # This many lines wait for a result only if most of them are invalid.
            if len(waiting) >= 4 * CHUNK:
                return

    records = inputs.source.records(skip)
    for first in records:
        for result in stream(pipeline, examples(itertools.chain([first], records))):
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
    content = io.BytesIO()
    np.savez(content, tokens=np.asarray(computed.tokens), offsets=computed.offsets, **arrays)
    try:
        (folder / name).write_bytes(content.getbuffer())
    except OSError as error:
        (folder / name).unlink(missing_ok=True)
        # Some errors of a full disk do not name the file.
        raise OSError(error.errno, error.strerror, str(folder / name)) from None
    return f"{folder.name}/{name}"


def _arrays_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.arrays")
