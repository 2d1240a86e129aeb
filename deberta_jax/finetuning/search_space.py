"""The published values of each option, and the combinations of values that a random search draws."""

import dataclasses
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.published import DEFAULT_VALUES, PUBLISHED, SMALL_MODEL_RATES
from deberta_jax.finetuning.recipes import preset_of, published_grid, similar_models, similar_task
from deberta_jax.finetuning.search_options import SEARCHED, parse_search

Options = dict[str, float | None]
# The position of each option in `Published`; the learning rate depends on the model, the others on the task.
_FIELDS = {"epochs": "epochs", "warmup": "warmup", "batch-size": "batch_size", "dropout": "head_dropout"}


def search_values(task: str, model: str, search: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """The values of each searched option, sorted: those of the command line, or the published ones."""
    return {
        name: tuple(sorted(values or published_values(name, task, model)))
        for name, values in parse_search(search).items()
    }


def published_values(name: str, task: str, model: str) -> tuple[float, ...]:
    """The published values of an option.

    Learning rates are those of the model for all tasks, the others those of the task for all models. A task without
    published settings has the grid of the model, if one was published, and the default values, which were published for
    other tasks.
    """
    grid, defaults = published_grid(task, model), DEFAULT_VALUES.get(name, ())
    if name == "rate":
        return grid.learning_rates if grid else _published_rates(preset_of(model))
    if grid and name in ("batch-size", "warmup"):
        least, most = grid.batch_size if name == "batch-size" else grid.warmup
        return tuple(value for value in defaults if least <= value <= most)
    rows = PUBLISHED.get(similar_task(task), {}).values()
    values = {getattr(row, _FIELDS[name]) for row in rows} if name in _FIELDS else set()
    values = {float(value) for value in values if value is not None}
    # One value leaves nothing to search.
    return tuple(sorted(values if len(values) > 1 else values | set(defaults)))


def _published_rates(preset: str | None) -> tuple[float, ...]:
    """The learning rates of a model; those of the nearest models too, if fewer than three were published."""
    models = similar_models(preset)
    rates: set[float] = set()
    for model in (*models, "v1-base") if models else ():
        if len(rates) < 3:
            rates |= {rows[model].learning_rate for rows in PUBLISHED.values() if model in rows}
    return tuple(sorted(rates or SMALL_MODEL_RATES))


def options_of(config: FinetuneConfig, names: Mapping[str, object]) -> Options:
    """The values that the options of a run have now."""
    options: Options = {}
    for name in names:
        value: Any = config
        for field in SEARCHED[name].field:
            value = getattr(value, field)
        options[name] = None if value is None else float(value)
    return options


def with_options(config: FinetuneConfig, options: Mapping[str, float | None]) -> FinetuneConfig:
    """The options of a run with those of a trial."""
    for name, value in options.items():
        *outer, field = SEARCHED[name].field
        exact = int(value) if SEARCHED[name].is_integer and value is not None else value
        if outer:
            optimizer = dataclasses.replace(config.optimizer, **{field: exact})  # type: ignore[arg-type]
            config = dataclasses.replace(config, optimizer=optimizer)
        else:
            config = dataclasses.replace(config, **{field: exact})  # type: ignore[arg-type]
    return config


def draw_trials(
    first: Options,
    values: Mapping[str, tuple[float, ...]],
    trials: int,
    seed: int,
    effective: Callable[[Options], Hashable],
) -> list[Options]:
    """The options of the first `trials` trials: the given ones, then random combinations of `values`.

    No combination is repeated, and none with the same `effective` settings as an earlier one is drawn. A larger number
    of trials has the same first ones. There are fewer if `values` have fewer combinations.
    """
    drawn, seen = [first], {effective(first)}
    for options in _random_order(values, seed):
        if len(drawn) >= trials:
            break
        if (settings := effective(options)) not in seen:
            seen.add(settings)
            drawn.append(options)
    return drawn


def _random_order(values: Mapping[str, tuple[float, ...]], seed: int) -> Iterator[Options]:
    """All combinations, each once, in random order."""
    count, generator = math.prod(map(len, values.values())), random.Random(seed)
    swapped: dict[int, int] = {}
    # The shuffle of Fisher and Yates, which stores the positions that it has changed only.
    for position in range(count):
        other = generator.randrange(position, count)
        number = swapped.get(other, other)
        swapped[other] = swapped.pop(position, position)
        yield _combination(values, number)


def _combination(values: Mapping[str, tuple[float, ...]], number: int) -> Options:
    options: Options = {}
    for name, choices in values.items():
        number, index = divmod(number, len(choices))
        options[name] = choices[index]
    return options
