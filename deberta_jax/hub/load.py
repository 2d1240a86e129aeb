"""A model out of the tensors of a file, each put straight where it lives: one is in host memory at a time."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import TIED, Entry, entries, head_for_masks, may_be_left, model_paths
from deberta_jax.hub.tensors import Tensor

Build = Callable[[PRNGKeyArray], Any]


def import_tensors(
    build: Build,
    config: DebertaConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str | Path,
    key: PRNGKeyArray | None = None,
    shardings: Any = None,
    dtype: Any = None,
) -> tuple[Any, list[str]]:
    """The model that `build` makes, with its parameters out of `tensors`, and the names of those that are new.

    A part of the head of which the file has nothing is initialised by `key`; without one it is missed. `tensors` have
    present-day names (`canonical`). `shardings` is a tree like the model, one device without; `dtype` is the
    parameters' (by default what `build` makes). Raises `InputError` that lists all tensors that are missing, not known,
    of another shape or not of numbers, before any is read; `source` names the file in it.
    """
    abstract = jax.eval_shape(build, jax.random.key(0))
    leaves = model_paths(abstract)
    places = dict.fromkeys(leaves) if shardings is None else model_paths(shardings)
    table, fresh = _checked(leaves, config, tensors, source, may_be_new=key is not None)
    arrays: dict[str, Array] = {}
    for entry in table:
        arrays |= zip(entry.paths, _placed(entry, leaves, tensors, places, dtype), strict=True)
    if fresh and key is not None:
        arrays |= _initialised(build, {path for entry in fresh for path in entry.paths}, key, places, dtype)
    model = jax.tree.unflatten(jax.tree.structure(abstract), [arrays[path] for path in leaves])
    return model, [entry.name for entry in fresh]


def check_tensors(build: Build, config: DebertaConfig, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Raise InputError, as `import_tensors` does, where tensors do not fit; none is read but tied copies."""
    _checked(model_paths(jax.eval_shape(build, jax.random.key(0))), config, tensors, source, may_be_new=False)


def _checked(
    leaves: Mapping[str, Any],
    config: DebertaConfig,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    *,
    may_be_new: bool,
) -> tuple[list[Entry], list[Entry]]:
    """What to read, and what to initialise."""
    head = head_for_masks(tensors, config) or "lm_predictions"
    table = entries(config, leaves, head=head, prefixed=True)
    kept = {_part(entry) for entry in table if entry.name in tensors} | {"deberta"}
    fresh = [entry for entry in table if may_be_new and _part(entry) not in kept]
    table = [entry for entry in table if entry not in fresh]
    problems = []
    used: set[str] = set()
    for entry in table:
        wanted = entry.shape(_shapes(entry, leaves))
        for name in _names(entry, leaves):
            used.add(name)
            if name not in tensors:
                problems.append(f"{name} is missing")
            elif tensors[name].shape != wanted:
                problems.append(f"{name} has shape {tensors[name].shape}, {wanted} in the model")
            elif not jnp.issubdtype(tensors[name].dtype, jnp.floating):
                problems.append(f"{name} is of type {tensors[name].dtype}, a floating one is wanted")
    built = {entry.name.partition(".")[0] for entry in table}
    problems += [
        f"{name} is not known" for name in sorted(tensors) if name not in used and not may_be_left(name, built)
    ]
    if problems:
        raise InputError(f"{source}: {len(problems)} tensors do not fit the model: {'; '.join(problems)}")
    repeated = TIED if "cls" in built else {}
    for copy, original in repeated.items():
        there = tensors.keys() >= {copy, original}
        if there and not np.array_equal(tensors[copy].read(), tensors[original].read(), equal_nan=True):
            raise InputError(f"{source}: {copy} differs from {original}, which it must repeat")
    return table, fresh


def _part(entry: Entry) -> str:
    """The encoder, or the part of a head, that an entry belongs to; a decoder's positions have the former's name."""
    first = entry.paths[0].partition(".")[0]
    return first if first == "decoder" or not entry.name.startswith("deberta.") else "deberta"


def _names(entry: Entry, leaves: Mapping[str, Any]) -> list[str]:
    stacked = "{layer}" in entry.name
    return [entry.name.format(layer=n) for n in range(leaves[entry.paths[0]].shape[0])] if stacked else [entry.name]


def _shapes(entry: Entry, leaves: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(leaves[path].shape["{layer}" in entry.name :]) for path in entry.paths]


def _placed(
    entry: Entry, leaves: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Mapping[str, Any], dtype: Any
) -> list[Array]:
    """The arrays of an entry; those of stacked layers are filled in place, layer by layer."""
    names, shapes = _names(entry, leaves), _shapes(entry, leaves)
    dtypes = [leaves[path].dtype if dtype is None else dtype for path in entry.paths]
    sharded = [places[path] for path in entry.paths]
    if "{layer}" not in entry.name:
        parts = entry.read(tensors[names[0]].read(), shapes)
        return [_put(part, *rest) for part, *rest in zip(parts, dtypes, sharded, strict=True)]
    stacks = [
        _zeros((len(names), *shape), jnp.dtype(kind), place)
        for shape, kind, place in zip(shapes, dtypes, sharded, strict=True)
    ]
    for layer, name in enumerate(names):
        parts = entry.read(tensors[name].read(), shapes)
        for number, (part, kind, place) in enumerate(zip(parts, dtypes, sharded, strict=True)):
            stacks[number] = _fill(stacks[number], _put(part, kind, _of_one_layer(place)), np.int32(layer))
    return stacks


def _of_one_layer(place: Sharding | None) -> Sharding | None:
    if isinstance(place, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec(*place.spec[1:]))
    return place


def _put(array: np.ndarray, dtype: Any, place: Sharding | None) -> Array:
    whole = np.ascontiguousarray(array, dtype).reshape(array.shape)
    # Without a place the array is bound to no device, so that it goes with any other.
    return jnp.asarray(whole) if place is None else jax.make_array_from_callback(whole.shape, place, whole.__getitem__)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape: tuple[int, ...], dtype: jnp.dtype, place: Sharding | None) -> Array:
    zeros = jnp.zeros(shape, dtype)
    return zeros if place is None else jax.lax.with_sharding_constraint(zeros, place)


@functools.partial(jax.jit, donate_argnums=0)
def _fill(stack: Array, layer: Array, number: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, number, 0)


def _initialised(build: Build, paths: set[str], key: PRNGKeyArray, places: Mapping[str, Any], dtype: Any) -> dict:
    """Those parameters as `build` makes them; nothing else is computed."""

    def chosen(key: PRNGKeyArray) -> dict[str, Array]:
        made = model_paths(build(key))
        return {path: made[path].astype(dtype or made[path].dtype) for path in sorted(paths)}

    return jax.jit(chosen, out_shardings={path: places[path] for path in sorted(paths)})(key)
