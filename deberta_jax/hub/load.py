"""A model from the tensors of a file. Each parameter goes straight to its devices; one is in host memory at a time."""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, DTypeLike, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.hub.layout import DECODER, TIED, Entry, entries, masked_lm_prefix, may_be_ignored, model_paths
from deberta_jax.hub.tensors import Tensor
from deberta_jax.model import shardings as model_shardings

Build = Callable[[PRNGKeyArray], Any]
# Stacked layers up to this number of bytes are put together on the host: a program that fills them takes longer to
# compile than they take to copy.
_SMALL = 2**20
_log = logging.getLogger(__name__)


def load_model(
    build: Build,
    config: DebertaConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str | Path,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> Any:
    """The model that `build` makes, with its parameters from `tensors`.

    `tensors` have current names (`canonical_tensors`); `source` is the file that messages name. With `key` the parts of
    a head that the file does not contain are initialized randomly, and their names logged; without it they are errors.
    On a `mesh` each parameter is sharded by its logical axes. Parameters have `dtype`, by default the one `build`
    gives them.

    Raises `InputError` that lists all tensors that are missing, unknown, of another shape or not floating point, before
    any of them is read.
    """
    shardings = None if mesh is None else model_shardings.shardings(_abstract(build), mesh)
    model, initialized = import_tensors(
        build, config, tensors, source=source, key=key, shardings=shardings, dtype=dtype
    )
    if initialized and jax.process_index() == 0:
        _log.warning("%s: not in the file, initialized randomly: %s", source, list_names(initialized))
    return model


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
    """As `load_model`, with a tree of shardings; also returns the names of the tensors that `key` initialized."""
    abstract = _abstract(build)
    leaves = model_paths(abstract)
    sharding_of = dict.fromkeys(leaves) if shardings is None else model_paths(shardings)
    stored, missing = _check(leaves, config, tensors, source, may_be_missing=key is not None)
    arrays: dict[str, Array] = {}
    for entry in stored:
        # Of layers that share parameters, the first.
        names = _names(entry, range(0, config.num_hidden_layers, config.num_hidden_layers // config.num_groups))
        arrays |= zip(entry.paths, _load_entry(entry, names, leaves, tensors, sharding_of, dtype), strict=True)
    if missing and key is not None:
        arrays |= _initialize(build, {path for entry in missing for path in entry.paths}, key, sharding_of, dtype)
    model = jax.tree.unflatten(jax.tree.structure(abstract), [arrays[path] for path in leaves])
    return model, [entry.name for entry in missing]


def check_tensors(build: Build, config: DebertaConfig, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Raise InputError as `load_model` does if tensors do not fit; only tied copies are read."""
    _check(model_paths(_abstract(build)), config, tensors, source, may_be_missing=False)


def floating_dtype(name: str, dtype: DTypeLike) -> Any:
    """The dtype of the argument `name`; raises InputError unless JAX supports it for parameters."""
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise InputError(f"{name} is {dtype!r}; expected a floating-point type such as float32 or bfloat16")
    if jax.dtypes.canonicalize_dtype(known) != known:
        raise InputError(f"{name} is {known}, which JAX supports only with jax_enable_x64")
    return known


def _abstract(build: Build) -> Any:
    return jax.eval_shape(build, jax.random.key(0))


def _check(
    leaves: Mapping[str, Any],
    config: DebertaConfig,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    *,
    may_be_missing: bool,
) -> tuple[list[Entry], list[Entry]]:
    """The entries to read, and those to initialize."""
    table = entries(config, leaves, lm_prefix=masked_lm_prefix(tensors, config) or "lm_predictions", prefixed=True)
    present = {_part(entry) for entry in table if entry.name in tensors} | {"deberta"}
    missing = [entry for entry in table if may_be_missing and _part(entry) not in present]
    stored = [entry for entry in table if entry not in missing]
    if problems := _problems(stored, config, leaves, tensors):
        raise InputError(f"{source}: {len(problems)} tensors do not fit the model: {list_names(problems, '; ')}")
    names = [entry.name for entry in stored]
    if any(name.startswith("cls.") for name in names) and DECODER not in names:
        _check_tied(tensors, source)
    return stored, missing


def _problems(
    table: list[Entry], config: DebertaConfig, leaves: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[str]:
    problems = []
    used: set[str] = set()
    for entry in table:
        expected = entry.shape(_shapes(entry, leaves))
        for name in _names(entry, range(config.num_hidden_layers)):
            used.add(name)
            if name not in tensors:
                problems.append(f"{name} is missing")
            elif tensors[name].shape != expected:
                problems.append(f"{name} has shape {tensors[name].shape}, {expected} in the model")
            elif not jnp.issubdtype(tensors[name].dtype, jnp.floating):
                problems.append(f"{name} has dtype {tensors[name].dtype}, expected floating point")
    parts = {entry.name.partition(".")[0] for entry in table}
    unknown = [name for name in sorted(tensors) if name not in used and not may_be_ignored(name, parts)]
    return problems + [f"{name} is unknown" for name in unknown]


def _check_tied(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    for copy, original in TIED.items():
        present = tensors.keys() >= {copy, original}
        if present and not np.array_equal(tensors[copy].read(), tensors[original].read(), equal_nan=True):
            raise InputError(f"{source}: {copy} differs from {original}, but the model ties them")


def _part(entry: Entry) -> str:
    """The encoder, or the part of a head, of an entry; the decoder's positions have a name of the encoder in files."""
    first = entry.paths[0].partition(".")[0]
    return first if first == "decoder" or not entry.name.startswith("deberta.") else "deberta"


def _names(entry: Entry, layers: Iterable[int]) -> list[str]:
    return [entry.name.format(layer=n) for n in layers] if "{layer}" in entry.name else [entry.name]


def _shapes(entry: Entry, leaves: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(leaves[path].shape["{layer}" in entry.name :]) for path in entry.paths]


def _load_entry(
    entry: Entry,
    names: list[str],
    leaves: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    sharding_of: Mapping[str, Any],
    dtype: Any,
) -> list[Array]:
    """The arrays of an entry; large stacks of layers are filled in place, layer by layer."""
    shapes = _shapes(entry, leaves)
    dtypes = [leaves[path].dtype if dtype is None else dtype for path in entry.paths]
    shardings = [sharding_of[path] for path in entry.paths]
    if "{layer}" not in entry.name:
        parts = entry.read(tensors[names[0]].read(), shapes)
        return [_put(*part) for part in zip(parts, dtypes, shardings, strict=True)]
    sizes = [
        len(names) * math.prod(shape) * jnp.dtype(kind).itemsize for shape, kind in zip(shapes, dtypes, strict=True)
    ]
    if max(sizes) <= _SMALL:
        layers = zip(*(entry.read(tensors[name].read(), shapes) for name in names), strict=True)
        return [_put(np.stack(parts), *rest) for parts, *rest in zip(layers, dtypes, shardings, strict=True)]
    stacks = [
        _zeros((len(names), *shape), jnp.dtype(kind), sharding)
        for shape, kind, sharding in zip(shapes, dtypes, shardings, strict=True)
    ]
    for layer, name in enumerate(names):
        parts = entry.read(tensors[name].read(), shapes)
        for number, (part, kind, sharding) in enumerate(zip(parts, dtypes, shardings, strict=True)):
            stacks[number] = _fill(stacks[number], _put(part, kind, _of_one_layer(sharding)), np.int32(layer))
    return stacks


def _of_one_layer(sharding: Sharding | None) -> Sharding | None:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


def _put(array: np.ndarray, dtype: Any, sharding: Sharding | None) -> Array:
    whole = np.ascontiguousarray(array, dtype).reshape(array.shape)
    if sharding is None:
        # Not committed to a device, so that it can be combined with arrays of any other.
        return jax.device_put(whole)
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape: tuple[int, ...], dtype: jnp.dtype, sharding: Sharding | None) -> Array:
    zeros = jnp.zeros(shape, dtype)
    return zeros if sharding is None else jax.lax.with_sharding_constraint(zeros, sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _fill(stack: Array, layer: Array, number: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, number, 0)


def _initialize(
    build: Build, paths: set[str], key: PRNGKeyArray, sharding_of: Mapping[str, Any], dtype: Any
) -> dict[str, Array]:
    """The parameters at these paths as `build` initializes them; nothing else is computed."""

    def initialize(key: PRNGKeyArray) -> dict[str, Array]:
        parameters = model_paths(build(key))
        return {path: parameters[path].astype(dtype or parameters[path].dtype) for path in sorted(paths)}

    return jax.jit(initialize, out_shardings={path: sharding_of[path] for path in sorted(paths)})(key)
