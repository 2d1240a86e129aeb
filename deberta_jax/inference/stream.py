"""The engine of all pipelines: examples in, results out, in the same order; a batch runs while the previous is read."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from deberta_jax.errors import InputError, shorten
from deberta_jax.inference.buckets import BATCHING, Batching, plan
from deberta_jax.inference.encode import EncodedRow, EncodedRows
from deberta_jax.inference.inputs import ModelInputs, pad_rows
from deberta_jax.inference.models import max_row_length, require_tokenizer, unknown_id
from deberta_jax.model.deberta import encoder_of
from deberta_jax.sharding import batch_parts, batch_sharding
from deberta_jax.tokenizers.tokenizer import Tokenizer

Result = TypeVar("Result")
Item = TypeVar("Item")
# A chunk ends early at this many characters: the tokens of a chunk are in memory together.
MAX_CHUNK_CHARACTERS = 4_000_000
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pipeline(Generic[Result]):
    """A model and the functions that turn an example into its result; run it with `stream`.

    `encode(tokenizer, examples, max_length)` returns the rows of a chunk of examples. `program(model, inputs)` is
    jitted and returns a tree of arrays whose first axis is the rows. `read(example, rows)` returns the result of an
    example. Truncated texts are counted by example, or with `counts_rows` by row; `limit` says what they are truncated
    to, by default to the length of a row. `new_tokens` is the number of tokens that the program adds to each row, for
    the size of batches. Raises InputError without a tokenizer, and if `batching.max_length` is more than the model
    accepts.
    """

    model: Any
    tokenizer: Tokenizer
    program: Callable[[Any, ModelInputs], Any]
    encode: Callable[[Tokenizer, Sequence[tuple], int], EncodedRows]
    read: Callable[[tuple, list[EncodedRow]], Result]
    batching: Batching = BATCHING
    counts_rows: bool = False
    new_tokens: int = 0
    limit: str | None = None

    def __post_init__(self) -> None:
        require_tokenizer(self.tokenizer)
        max_row_length(self.model, self.batching)

    @property
    def max_length(self) -> int:
        """The maximum number of tokens per row."""
        return max_row_length(self.model, self.batching)


class _Chunk(NamedTuple):
    """Examples that are tokenized together, and the outputs of their rows so far, by row."""

    examples: list[tuple]
    rows: EncodedRows
    outputs: dict[int, Any]


class _RunningBatch(NamedTuple):
    """A batch that the device computes: its rows in the chunk, and whether it is the last batch of the chunk."""

    chunk: _Chunk
    indices: list[int]
    outputs: Any
    last: bool


def stream(pipeline: Pipeline[Result], examples: Iterable[tuple[object, ...]]) -> Iterator[Result | InputError]:
    """The result of each of any number of examples, in the same order.

    The number of truncated texts is logged at the end.

    Args:
        pipeline: from the function `pipeline`.
        examples: tuples with one element of each list that the pipeline's function takes: `(text,)`, `(text, pair)`,
            `(question, context)`, `(text, choices)`, `(query, documents)`, `(passage, query, entities)`.

    Yields:
        A result, or the `InputError` of an invalid example, which is not raised.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> results = dj.stream(dj.pipeline(model, tokenizer), (("A man eats.", text) for text in ["A man.", 7]))
        >>> [type(result).__name__ for result in results]
        ['Classification', 'InputError']
    """
    total = truncated = 0
    for batch in _delay_by_one(_dispatch(pipeline, examples)):
        chunk = batch.chunk
        fetched = jax.device_get(batch.outputs)
        _report_overflow(pipeline, chunk, batch.indices, fetched)
        for row, index in enumerate(batch.indices):
            chunk.outputs[index] = jax.tree.map(lambda x, row=row: x[row], fetched)
        if batch.last:
            yield from _results(pipeline, chunk)
            counts = _truncated(pipeline, chunk)
            total, truncated = total + counts[0], truncated + counts[1]
    if truncated:
        limit = pipeline.limit or f"{pipeline.max_length} tokens"
        _log.warning("%d of %d texts were truncated to %s", truncated, total, limit)


def _truncated(pipeline: Pipeline[Result], chunk: _Chunk) -> tuple[int, int]:
    """The number of texts of a chunk, and how many of the valid ones were truncated."""
    rows = chunk.rows
    counts = [count for source, count in rows.truncated.items() if source not in rows.errors]
    if pipeline.counts_rows:
        return len(rows.batch.sources), sum(counts)
    return len(chunk.examples), len(counts)


def _report_overflow(pipeline: Pipeline[Result], chunk: _Chunk, indices: Sequence[int], outputs: Any) -> None:
    """Add an error for each example with an output that is not a finite number."""
    valid = np.ones(len(indices), bool)
    for leaf in jax.tree.leaves(outputs):
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            valid &= np.isfinite(leaf[: len(indices)]).reshape(len(indices), -1).all(1)
    for row in np.flatnonzero(~valid).tolist():
        source = int(chunk.rows.batch.sources[indices[row]])
        text = f"{shorten(chunk.examples[source][0])[:40]!r}"
        embeddings = encoder_of(pipeline.model).embeddings
        if (dtype := jax.numpy.dtype(embeddings.dtype or embeddings.word.embedding.dtype)) == jax.numpy.float16:
            advice = "float16 has overflowed; load the model with dtype bfloat16 or float32"
        else:
            advice = f"the model, which computes in {dtype}, may be damaged; download it again, or train it again"
        chunk.rows.errors.setdefault(source, InputError(f"{text} gives outputs that are not finite numbers: {advice}"))


def complete(pipeline: Pipeline[Result], *columns: Sequence[Any]) -> list[Result]:
    """The results of a list of examples, given as one list per element of an example.

    Raises the first error, with the index of its example, and InputError for columns of different lengths.
    """
    for column in columns:
        if isinstance(column, str):
            raise InputError(f"expected a list of texts, not a single text: {column[:40]!r}; put it in a list")
    if len({len(column) for column in columns}) != 1:
        raise InputError(
            f"the lists have different lengths: {' and '.join(str(len(column)) for column in columns)}; "
            "each needs one element per text"
        )
    results: list[Result] = []
    outcomes = stream(pipeline, zip(*columns, strict=True))
    for index, result in enumerate(outcomes):
        if isinstance(result, InputError):
            raise InputError(f"text {index}: {result}")
        results.append(result)
    return results


def run_on_mesh(model: Any, program: Callable[[Any, ModelInputs], Any], inputs: ModelInputs) -> Any:
    """The outputs of a program; rows are sharded over the mesh of the parameters, if they have one.

    In a run of several processes each passes all rows and gets the outputs of all rows.
    """
    mesh = mesh_of(model)
    if mesh is None:
        return program(model, inputs)
    with jax.set_mesh(mesh):
        outputs = program(model, jax.device_put(inputs, batch_sharding(mesh)))
    if mesh.devices.flat[0].platform == "cpu":
        # XLA's CPU devices share threads, and wait for each other forever if several programs run at once.
        jax.block_until_ready(outputs)
    return outputs if jax.process_count() == 1 else multihost_utils.process_allgather(outputs, tiled=True)


def mesh_of(model: Any) -> Mesh | None:
    """The mesh that the parameters are sharded over; None if they are on one device."""
    sharding = getattr(jax.tree.leaves(model)[0], "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
        return sharding.mesh
    return None


def _on_auto_axes(model: Any) -> Any:
    """The model on the same mesh with Auto axes, where programs leave shardings to XLA; arrays are not copied."""

    def on_auto_axes(x: Any) -> Any:
        sharding = getattr(x, "sharding", None)
        if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
            return x
        mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names, (AxisType.Auto,) * len(sharding.mesh.axis_names))
        return jax.device_put(x, NamedSharding(mesh, sharding.spec))

    return jax.tree.map(on_auto_axes, model)


def _dispatch(pipeline: Pipeline[Result], examples: Iterable[tuple]) -> Iterator[_RunningBatch]:
    """Send each batch to the device; its outputs are not waited for."""
    pipeline = dataclasses.replace(pipeline, model=_on_auto_axes(pipeline.model))
    mesh = mesh_of(pipeline.model)
    multiple = 1 if mesh is None else batch_parts(mesh)
    examples = iter(examples)
    while taken := _take_chunk(examples, pipeline.batching.chunk):
        chunk = _Chunk(taken, pipeline.encode(pipeline.tokenizer, taken, pipeline.max_length), {})
        batch, errors = chunk.rows.batch, chunk.rows.errors
        _report_unknown_ids(pipeline, chunk.rows)
        valid = np.flatnonzero([source not in errors for source in batch.sources.tolist()])
        lengths = batch.attention_mask.sum(1)[valid].tolist()
        plans = list(plan(lengths, pipeline.max_length, pipeline.batching.batch_tokens, multiple, pipeline.new_tokens))
        for number, batch_plan in enumerate(plans, 1):
            indices = valid[batch_plan.indices]
            inputs = pad_rows(chunk.rows, indices, batch_plan, pipeline.tokenizer.pad_id)
            outputs = run_on_mesh(pipeline.model, pipeline.program, inputs)
            yield _RunningBatch(chunk, indices.tolist(), outputs, number == len(plans))
        if not plans:
            yield _RunningBatch(chunk, [], None, True)


def _report_unknown_ids(pipeline: Pipeline[Result], rows: EncodedRows) -> None:
    """Add an error for each example with an id of the tokenizer that the model does not have."""
    words = encoder_of(pipeline.model).embeddings.word.embedding.shape[-2]
    if pipeline.tokenizer.vocab_size <= words:
        return
    batch = rows.batch
    for source, ids, mask in zip(batch.sources.tolist(), batch.input_ids, batch.attention_mask, strict=True):
        if error := unknown_id(pipeline.model, pipeline.tokenizer, ids[mask > 0]):
            rows.errors.setdefault(source, error)


def _take_chunk(examples: Iterator[tuple], size: int) -> list[tuple]:
    """The next examples, at most `size`, and fewer if their texts are long."""
    taken: list[tuple] = []
    characters = 0
    for example in itertools.islice(examples, size):
        taken.append(example)
        characters += sum(map(_characters, example))
        if characters > MAX_CHUNK_CHARACTERS:
            break
    return taken


def _characters(part: Any) -> int:
    """The number of characters of a text, or of a list of texts."""
    if isinstance(part, str):
        return len(part)
    return sum(len(text) for text in part if isinstance(text, str)) if isinstance(part, list | tuple) else 0


def _delay_by_one(items: Iterator[Item]) -> Iterator[Item]:
    """Yield each item after the next one was made."""
    previous: list[Item] = []
    for item in items:
        yield from previous
        previous = [item]
    yield from previous


def _results(pipeline: Pipeline[Result], chunk: _Chunk) -> Iterator[Result | InputError]:
    """The results of a chunk whose outputs are complete."""
    batch, errors, parts = chunk.rows.batch, chunk.rows.errors, chunk.rows.parts
    rows: dict[int, list[EncodedRow]] = {source: [] for source in range(len(chunk.examples))}
    lengths = batch.attention_mask.sum(1).tolist()
    for index, (source, length) in enumerate(zip(batch.sources.tolist(), lengths, strict=True)):
        if source not in errors:
            ids, offsets, sequence_ids = (
                x[index, :length] for x in (batch.input_ids, batch.offsets, batch.sequence_ids)
            )
            part = 0 if parts is None else int(parts[index])
            rows[source].append(EncodedRow(ids, offsets, sequence_ids, chunk.outputs[index], part))
    for source, example in enumerate(chunk.examples):
        yield errors[source] if source in errors else pipeline.read(example, rows[source])
