"""Splits of a training set: a share that is held out, or folds; stratified, by groups, and reproducible from a seed."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError, list_names
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.strata import Stratification
from deberta_jax.processes.first_process import print_once
from deberta_jax.tasks.catalogue import UNLABELLED, separate_unlabelled
from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task

Strata = Sequence[tuple[Hashable, ...]]
# Units with more examples than this share of the smallest part are assigned before the others.
_LARGE = 0.1


class HeldOut(NamedTuple):
    """The examples for training, those that are held out, and what was done, in words."""

    train: list[Any]
    dev: list[Any]
    notes: tuple[str, ...]


class Divided(NamedTuple):
    """The splits, and the fold of each training example if there are folds."""

    splits: dict[str, Examples]
    folds: Int[np.ndarray, "B"] | None


def divide(
    task: Task,
    kind: Kind,
    paths: Mapping[str, Sequence[Path]],
    splits: Mapping[str, Examples],
    *,
    share: float,
    folds: int,
    seed: int,
) -> Divided:
    """The labelled splits, and what is only predicted; `folds` of the training set, or a dev set if there is none.

    The share of the training set that becomes the dev set, and what is done, are printed and noted in the report.
    """
    groups = groups_of(task, paths, splits)
    separated = separate_unlabelled(splits)
    train, reports = separated["train"]
    if "dev" in separated and (note := common_groups_note(groups, groups_of(task, paths, splits, "dev"))):
        print_once(f"warning: {note}")
    for split in separated.keys() - {"train", UNLABELLED}:
        if common := common_inputs(train, separated[split].examples):
            total = len(separated[split].examples)
            print_once(f"warning: {common:,} of {total:,} examples of {split} are also in the training set")
    if folds:
        return Divided(separated, fold_numbers(train, folds, seed, kind.stratification, groups))
    if "dev" in separated:
        return Divided(separated, None)
    train, dev, notes = hold_out(train, share, seed, kind.stratification, groups)
    for note in notes:
        reports[0].note(note)
        print_once(note)
    others = {split: examples for split, examples in separated.items() if split != "train"}
    return Divided({"train": Examples(train, reports), "dev": Examples(dev, []), **others}, None)


def hold_out(
    examples: Sequence[Any],
    share: float,
    seed: int,
    stratification: Stratification,
    groups: Sequence[str] | None = None,
) -> HeldOut:
    """Hold out a share of labelled examples, with the same share of each stratum.

    Examples with equal inputs, and those with the same group that is not empty, are on one side. One example of each
    label stays in training. Raises InputError if nothing can be held out.
    """
    random = np.random.default_rng(seed)
    strata, units = stratification.strata(examples), units_of(examples, groups)
    members = _members(units)
    reserved = _one_unit_per_stratum(strata, units, random)
    parts = assign(strata, members, (1 - share, share), random, dict.fromkeys(reserved, 0))
    if not (parts == 1).any():
        free = [unit for unit in random.permutation(len(members)).tolist() if unit not in reserved]
        if not free:
            unit = "distinct example" if groups is None else "group of examples"
            why = f"each label has only one {unit}" if strata and any(strata) else f"there is only one {unit}"
            raise InputError(
                f"none of the {len(examples):,} training examples can be held out, because {why}; add a dev file"
            )
        parts[members[min(free, key=lambda unit: len(members[unit]))]] = 1
    train, dev = ([example for example, part in zip(examples, parts, strict=True) if part == side] for side in (0, 1))
    how = [f"stratified by {stratification.name}"] if stratification.name else []
    how += [f"{len(set(groups)):,} groups"] if groups is not None else []
    first = f"held out {len(dev):,} of {len(examples):,} examples as dev ({', '.join([*how, f'seed {seed}'])})"
    return HeldOut(train, dev, (first, *_single_notes(strata, stratification)))


def fold_numbers(
    examples: Sequence[Any],
    folds: int,
    seed: int,
    stratification: Stratification,
    groups: Sequence[str] | None = None,
) -> Int[np.ndarray, "B"]:
    """The fold of each labelled example, from 0; equal inputs and groups stay together, as in `hold_out`.

    Raises InputError if there are fewer groups of examples than folds.
    """
    random = np.random.default_rng(seed)
    members = _members(units_of(examples, groups))
    if len(members) < folds:
        noun = "different examples" if groups is None else "groups of examples"
        raise InputError(f"folds is {folds}, but the training set has only {len(members)} {noun}")
    parts = assign(stratification.strata(examples), members, (1 / folds,) * folds, random)
    sizes = np.bincount(parts, minlength=folds)
    for empty in np.flatnonzero(sizes == 0).tolist():
        # With few large groups a fold may be left without any.
        fold = int(np.bincount([parts[unit[0]] for unit in members], minlength=folds).argmax())
        parts[next(unit for unit in members if parts[unit[0]] == fold)] = empty
    return parts


def assign(
    strata: Strata,
    members: Sequence[Sequence[int]],
    shares: Sequence[float],
    random: np.random.Generator,
    fixed: Mapping[int, int] | None = None,
) -> Int[np.ndarray, "B"]:
    """The part of each example, so that each part has its share of each stratum.

    The iterative stratification of Sechidis et al. (2011), for units of examples that stay together: the units of the
    rarest stratum first, each to the part that lacks most of this stratum. `fixed` units have their part. Unlike
    scikit-learn's StratifiedGroupKFold it takes any shares and several strata per example, in linear time.
    """
    counts = Counter(stratum for row in strata for stratum in row)
    rank = {stratum: number for number, stratum in enumerate(sorted(counts, key=lambda s: (counts[s], str(s))))}
    missing = {stratum: [share * count for share in shares] for stratum, count in counts.items()}
    total = [share * len(strata) for share in shares]
    choices = range(len(shares))
    parts = np.zeros(len(strata), np.int64)
    fixed = fixed or {}
    unit_strata = [[stratum for example in unit for stratum in strata[example]] for unit in members]
    rarest = [min(unit, key=rank.__getitem__) for unit in unit_strata]

    def put(unit: int, part: int) -> None:
        parts[members[unit]] = part
        total[part] -= len(members[unit])
        for stratum in unit_strata[unit]:
            missing[stratum][part] -= 1

    for unit, part in fixed.items():
        put(unit, part)
    large = max(_LARGE * min(total), 1)
    order = random.permutation(len(members)).tolist()
    order.sort(key=lambda unit: (-size if (size := len(members[unit])) > large else 0, rank[rarest[unit]]))
    for unit in order:
        if unit not in fixed:
            lacks = missing[rarest[unit]]
            # Of equal values only the rounding errors differ.
            put(unit, max(choices, key=lambda part: (round(lacks[part], 6), round(total[part], 6))))
    return parts


def units_of(examples: Sequence[Any], groups: Sequence[str] | None = None) -> Int[np.ndarray, "B"]:
    """The unit of each example: those with equal inputs, or with the same group that is not empty, share one."""
    keys: dict[Hashable, int] = {}
    by_inputs = np.asarray([keys.setdefault(example.inputs, len(keys)) for example in examples], np.int64)
    if groups is None:
        return by_inputs
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # A graph of inputs and groups, with an edge for each example.
    by_group = np.asarray([keys.setdefault(group, len(keys)) for group in groups], np.int64)
    edges = [(unit, group) for unit, group, name in zip(by_inputs, by_group, groups, strict=True) if name]
    rows, columns = np.asarray(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), (len(keys), len(keys)))
    components = connected_components(graph, directed=False)[1]
    return np.unique(components[by_inputs], return_inverse=True)[1]


def groups_of(
    task: Task, paths: Mapping[str, Sequence[Path]], splits: Mapping[str, Examples], split: str = "train"
) -> list[str] | None:
    """The group of each labelled example of a split; None if the table has no column of groups."""
    if task.source_rows is None or split not in paths:
        return None
    groups: list[str] = []
    for path in paths[split]:
        part = task.source_rows.groups(path, split)
        if part is None:
            return None
        groups += part
    examples = splits[split].examples
    return [group for group, example in zip(groups, examples, strict=True) if example.answer is not None]


def common_groups_note(train: Sequence[str] | None, dev: Sequence[str] | None) -> str | None:
    """A warning if groups are both in the training set and in the dev set of the user; None if there are none."""
    in_dev = set(dev or ()) - {""}
    common = in_dev & set(train or ())
    return f"{len(common):,} of {len(in_dev):,} groups of the dev set are also in the training set" if common else None


def common_inputs(train: Sequence[Any], others: Sequence[Any]) -> int:
    """The number of other examples whose inputs are those of a training example."""
    inputs = {example.inputs for example in train}
    return sum(example.inputs in inputs for example in others)


def _members(units: Int[np.ndarray, "B"]) -> list[list[int]]:
    """The examples of each unit."""
    members: list[list[int]] = [[] for _ in range(int(units.max(initial=-1)) + 1)]
    for example, unit in enumerate(units.tolist()):
        members[unit].append(example)
    return members


def _one_unit_per_stratum(strata: Strata, units: Int[np.ndarray, "B"], random: np.random.Generator) -> list[int]:
    """A random unit with an example of each stratum; one unit may be that of several."""
    by_stratum: dict[Hashable, list[int]] = defaultdict(list)
    for unit, row in zip(units.tolist(), strata, strict=True):
        for stratum in row:
            by_stratum[stratum].append(unit)
    chosen: dict[int, None] = {}
    for candidates in sorted(by_stratum.values(), key=len):
        if not chosen.keys() & set(candidates):
            chosen[candidates[int(random.integers(len(candidates)))]] = None
    return list(chosen)


def _single_notes(strata: Strata, stratification: Stratification) -> list[str]:
    """Which labels have one example, which stays in training."""
    counts = Counter(stratum for row in strata for stratum in row)
    single = [stratum for stratum, count in counts.items() if count == 1]
    if not single or stratification.name not in ("label", "tag"):
        return []
    names = list_names(sorted(map(str, single)))
    noun, verb = (f"{stratification.name}s", "have") if len(single) > 1 else (stratification.name, "has")
    return [f"{len(single):,} {noun} {verb} only one example, which stays in training: {names}"]
