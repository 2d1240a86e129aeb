"""Prepared shards as they are named on the command line: one folder, or sources with names, weights and lengths."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.data.manifest import MANIFEST, read_manifest
from deberta_jax.data.mixture import Shards, Source, temperature_weights
from deberta_jax.errors import InputError, list_names
from deberta_jax.pretraining.curriculum import Stage

# NAME=VALUE.
_NAMED = re.compile(r"([\w.-]+)=(.+)")
# Folders of shards by the name of their source, "" for the only one.
Sources = Mapping[str, Path]


def find_sources(words: Sequence[str], lengths: Sequence[int], vocabulary_sha256: str) -> dict[int, Sources]:
    """For each length, the folders of all sources.

    A word is a folder of shards, NAME=FOLDER, or a folder that contains folders of shards, which are then named after
    their folders. A source has a folder for each length. Raises InputError for shards that are missing, of another
    vocabulary, or of other lengths.
    """
    sources: dict[int, dict[str, Path]] = defaultdict(dict)
    for name, folder in _folders(words):
        manifest = read_manifest(folder, vocabulary_sha256)
        previous = sources[manifest.length].setdefault(name, folder)
        if previous != folder:
            raise InputError(
                f"{previous} and {folder} both have sequences of {manifest.length} tokens of "
                f"{f'source {name}' if name else 'a source without a name'}; name them NAME=FOLDER NAME=FOLDER"
            )
    missing = [length for length in lengths if length not in sources]
    if missing:
        available = " and ".join(map(str, sorted(sources)))
        raise InputError(
            f"{list_names(words)}: sequences of {available} tokens, but data.length is {missing[0]}; set --data.length "
            f"{available.split(' and ')[0]}, or prepare new shards"
        )
    first = sources[lengths[0]]
    for length in lengths[1:]:
        if differing := first.keys() ^ sources[length].keys():
            raise InputError(
                f"{list_names(words)}: source {list_names(sorted(differing))} has no shards of "
                f"{length if differing & first.keys() else lengths[0]} tokens; each source needs shards of each length"
            )
    return {length: sources[length] for length in lengths}


def check_same_split(sources: Mapping[int, Sources]) -> None:
    """Raise InputError if the shards of a source differ in number between lengths.

    The held-out shards are then not the same text, and held-out text would be trained on at another length.
    """
    for name in next(iter(sources.values())):
        counts = {length: len(read_manifest(folders[name]).shards) for length, folders in sources.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} of {length} tokens" for length, count in counts.items())
            raise InputError(
                f"{next(iter(sources.values()))[name]}: the lengths have different numbers of shards ({listed}), so "
                "their held-out text differs; prepare both with the same --shards, or set --data.held-out"
            )


def make_mixture(sources: Sources, weights: Sequence[str], exponent: float | None) -> Shards:
    """The only folder, or the sources with the shares of `weights` (NAME=WEIGHT), or size^`exponent`, by default 1.

    Raises InputError if the weights are not those of the sources.
    """
    if list(sources) == [""]:
        if weights or exponent is not None:
            raise InputError(
                "data.mixture and data.temperature need several sources; name them with --data.shards NAME=FOLDER"
            )
        return sources[""]
    shares = _parse_weights(weights)
    if not shares:
        sizes = {name: read_manifest(folder).sequences for name, folder in sources.items()}
        shares = temperature_weights(sizes, 1.0 if exponent is None else exponent)
    if differing := shares.keys() ^ sources.keys():
        raise InputError(
            f"data.mixture has weights of {list_names(sorted(shares))}, but the sources are "
            f"{list_names(sorted(sources))} (different: {list_names(sorted(differing))})"
        )
    return tuple(Source(name, sources[name], shares[name]) for name in sorted(sources))


def stage_lines(stages: Sequence[Stage], shards: Sequence[Shards]) -> list[str]:
    """The steps of each stage, and share and epochs of each source; none for one length and one folder."""
    lines = []
    for stage, mixture in zip(stages, shards, strict=True):
        if len(stages) > 1:
            lines.append(
                f"  steps {stage.start + 1:,} to {stage.end:,}: {stage.batch_size:,} sequences of {stage.length} tokens"
            )
        if isinstance(mixture, Path):
            continue
        drawn, total = (stage.end - stage.start) * stage.batch_size, sum(source.weight for source in mixture)
        for source in mixture:
            sequences, share = read_manifest(source.folder).sequences, source.weight / total
            lines.append(
                f"  {source.name}: {share:.2%}, {drawn * share / sequences:.2f} epochs of {sequences:,} sequences"
            )
    return lines


def shards_sha256(shards: Sequence[Shards]) -> str:
    """A digest of the sequences of all stages, and of the shares of their sources."""

    def content(stage: Shards) -> object:
        if isinstance(stage, Path):
            return read_manifest(stage).sha256
        return [[source.name, source.weight, read_manifest(source.folder).sha256] for source in stage]

    if len(shards) == 1 and isinstance(shards[0], Path):
        return read_manifest(shards[0]).sha256
    return hashlib.sha256(json.dumps([content(stage) for stage in shards]).encode()).hexdigest()


def _folders(words: Sequence[str]) -> list[tuple[str, Path]]:
    """The name and the path of each folder of shards."""
    folders = []
    for word in words:
        match = None if Path(word).exists() else _NAMED.fullmatch(word)
        name, folder = (match[1], Path(match[2])) if match else ("", Path(word))
        nested = (
            []
            if (folder / MANIFEST).exists()
            else sorted([*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*/*/{MANIFEST}")])
        )
        for manifest in nested:
            inner = manifest.relative_to(folder).parts[0]
            folders.append((name or inner, manifest.parent))
        if not nested:
            folders.append((name, folder))
    return folders


def _parse_weights(words: Sequence[str]) -> dict[str, float]:
    weights = {}
    for word in words:
        match = _NAMED.fullmatch(word)
        try:
            weight = float(match[2]) if match else 0.0
        except ValueError:
            weight = 0.0
        if match is None or not 0 < weight < float("inf"):
            raise InputError(f"data.mixture: {word!r} is no weight; write NAME=WEIGHT with a positive number")
        if match[1] in weights:
            raise InputError(f"data.mixture names {match[1]} twice; give one weight per source")
        weights[match[1]] = weight
    return weights
