"""The engine: examples in, results out, in the order given; one batch is computed while another is fetched."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching, Planned, bucket_width, plan
from deberta_jax.inference.rows import Row, Rows
from deberta_jax.sharding import BATCH_AXES, batch_sharding

Result = TypeVar("Result")
Item = TypeVar("Item")
# Texts that are tokenised together, whatever their number.
CHARACTERS = 4_000_000
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pipeline(Generic[Result]):
    """What is done with a model: made by `fill_mask_pipeline`, `embed_pipeline`, `classification_pipeline` and the like, run by `stream`.

    `program` is jitted: of the model, token ids, mask and types, and the rows' positions where there are some, to a
    tree of arrays with an axis of rows. `read` makes the result of an example from its rows.
    """

    model: Any
    program: Callable[..., Any]
    encode: Callable[[Sequence[tuple]], Rows]
    read: Callable[[tuple, list[Row]], Result]
    limit: int
    pad_id: int
    batching: Batching


@dataclasses.dataclass
class _Chunk:
    """Examples that are tokenised together, and the outputs of their rows as far as they have come."""

    examples: list[tuple]
    rows: Rows
    outputs: dict[int, Any]


def stream(task: Pipeline[Result], examples: Iterable[tuple]) -> Iterator[Result | InputError]:
    """The result of each example, in the order given, or what is wrong with it; of a stream of any length.

    An example is a tuple of what the task's function takes a list of each: `(text,)`, `(text, pair)`,
    `(question, context)`, `(text, choices)`, `(passage, query, entities)`. How many were cut is logged at the end.
    """
    number = cut = 0
    for chunk, places, outputs, last in _one_late(_dispatched(task, examples)):
        fetched = jax.device_get(outputs)
        for row, place in enumerate(places):
            chunk.outputs[place] = jax.tree.map(lambda x, row=row: x[row], fetched)
        if last:
            yield from _results(task, chunk)
            number += len(chunk.examples)
            cut += len(chunk.rows.cut - chunk.rows.errors.keys())
    if cut:
        _log.warning("%d of %d texts have more than %d tokens and were cut at their ends", cut, number, task.limit)


def complete(task: Pipeline[Result], *columns: Sequence[Any]) -> list[Result]:
    """The results of lists, of which one of each is an example; raises the first error with the text's number."""
    for column in columns:
        if isinstance(column, str):
            raise InputError(f"a list of texts is wanted, found one text: {column[:40]!r}; put it in a list")
    if len({len(column) for column in columns}) != 1:
        raise InputError(f"lists of {' and '.join(str(len(column)) for column in columns)}; each text needs one of all")
    results: list[Result] = []
    found = stream(task, zip(*columns, strict=True))
    for number, result in enumerate(found):
        if isinstance(result, InputError):
            raise InputError(f"text {number}: {result}")
        results.append(result)
    return results


def run_on(model: Any, program: Callable[..., Any], *inputs: Int[np.ndarray, "B ..."]) -> Any:
    """The program's outputs for rows that are shared out as the parameters' mesh has it.

    Of several processes each gives all rows, and gets the outputs of all.
    """
    mesh = mesh_of(model)
    if mesh is None:
        return program(model, *inputs)
    with jax.set_mesh(mesh):
        outputs = program(model, *jax.device_put(inputs, batch_sharding(mesh)))
    return outputs if jax.process_count() == 1 else multihost_utils.process_allgather(outputs, tiled=True)


def mesh_of(model: Any) -> Mesh | None:
    """The mesh of several devices that the parameters live on."""
    place = getattr(jax.tree.leaves(model)[0], "sharding", None)
    if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh) and place.mesh.size > 1:
        return place.mesh
    return None


def _dispatched(task: Pipeline[Result], examples: Iterable[tuple]) -> Iterator[tuple[_Chunk, list[int], Any, bool]]:
    """Each batch on its way to the device: its chunk, its rows, its outputs to come, whether it is the chunk's last."""
    mesh = mesh_of(task.model)
    multiple = 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    examples = iter(examples)
    while some := _taken(examples, task.batching.chunk):
        chunk = _Chunk(some, task.encode(some), {})
        batch, errors = chunk.rows.batch, chunk.rows.errors
        good = np.flatnonzero([source not in errors for source in batch.sources.tolist()])
        lengths = batch.attention_mask.sum(1)[good]
        planned = list(plan(lengths.tolist(), task.limit, task.batching.batch_tokens, multiple))
        for left, part in zip(reversed(range(len(planned))), planned, strict=True):
            places = good[part.places]
            inputs = _inputs(chunk.rows, places, part, task.pad_id)
            yield chunk, places.tolist(), run_on(task.model, task.program, *inputs), left == 0
        if not planned:
            yield chunk, [], None, True


def _taken(examples: Iterator[tuple], most: int) -> list[tuple]:
    """The next examples, at most so many, and no more once their texts are long: their tokens are held together."""
    taken: list[tuple] = []
    characters = 0
    for example in itertools.islice(examples, most):
        taken.append(example)
        characters += sum(len(part) for part in example if isinstance(part, str))
        if characters > CHARACTERS:
            break
    return taken


def _inputs(rows: Rows, places: Int[np.ndarray, "P"], planned: Planned, pad_id: int) -> list[Int[np.ndarray, "B ..."]]:
    """The rows of a batch, padded to its shape."""
    batch, shape = rows.batch, (planned.rows, planned.length)
    columns = [
        _padded(column[places, : planned.length], shape, fill)
        for column, fill in ((batch.input_ids, pad_id), (batch.attention_mask, 0), (batch.token_type_ids, 0))
    ]
    if rows.positions is None:
        return columns
    its = [rows.positions[place] for place in places]
    sizes = [bucket_width(size) for size in np.max([x.shape for x in its], axis=0).tolist()]
    return [*columns, _padded(np.stack([_padded(x, sizes, 0) for x in its]), (planned.rows, *sizes), 0)]


def _padded(x: Int[np.ndarray, "..."], shape: Sequence[int], fill: int) -> Int[np.ndarray, "..."]:
    padding = [(0, wanted - size) for wanted, size in zip(shape, x.shape, strict=True)]
    return np.pad(x, padding, constant_values=fill)


def _one_late(items: Iterator[Item]) -> Iterator[Item]:
    """Each item once the next has been made."""
    held: list[Item] = []
    for item in items:
        yield from held
        held = [item]
    yield from held


def _results(task: Pipeline[Result], chunk: _Chunk) -> Iterator[Result | InputError]:
    batch, errors = chunk.rows.batch, chunk.rows.errors
    rows: dict[int, list[Row]] = {number: [] for number in range(len(chunk.examples))}
    lengths = batch.attention_mask.sum(1).tolist()
    for place, (source, length) in enumerate(zip(batch.sources.tolist(), lengths, strict=True)):
        if source not in errors:
            its = slice(length)
            rows[source].append(
                Row(
                    batch.input_ids[place, its],
                    batch.offsets[place, its],
                    batch.sequence_ids[place, its],
                    chunk.outputs[place],
                )
            )
    for number, example in enumerate(chunk.examples):
        yield errors[number] if number in errors else task.read(example, rows[number])
