"""The description of a folder of shards, `manifest.json`."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.files import read_json, write_json

MANIFEST = "manifest.json"
# Part of every shard's digest: shards of another version are made again.
FORMAT_VERSION = 4


@dataclass(frozen=True)
class Shard:
    """A file of packed sequences."""

    name: str
    source: str
    """A digest of the text, the vocabulary and the length of the sequences."""
    sequences: int
    tokens: int
    """Tokens of the text, with the [CLS] and [SEP] of each piece; padding is not counted."""
    documents: int
    bytes: int
    """Bytes of the text in UTF-8."""
    file_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of a folder of shards."""

    length: int
    """T, the tokens of a sequence."""
    vocabulary_sha256: str
    vocab_size: int
    sources: tuple[str, ...]
    """The text files, as absolute paths."""
    shards: tuple[Shard, ...]
    selection: Mapping[str, object] = field(default_factory=dict)
    """The filter and the removal of duplicates; empty if all documents are kept."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """The number of documents that were dropped, by reason."""

    @property
    def sequences(self) -> int:
        """Sequences in all shards."""
        return sum(shard.sequences for shard in self.shards)

    @property
    def sha256(self) -> str:
        """A digest of everything that determines the sequences: text, number of shards, vocabulary and length."""
        return hashlib.sha256(json.dumps([shard.source for shard in self.shards]).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens in all shards, without padding."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of text in all shards."""
        return sum(shard.bytes for shard in self.shards)

    def paths(self, folder: Path) -> list[str]:
        """The shards that contain sequences, in order."""
        return [str(folder / shard.name) for shard in self.shards if shard.sequences]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder atomically."""
    fields = dataclasses.asdict(manifest)
    for name in ("selection", "dropped"):
        if not fields[name]:
            del fields[name]
    write_json(folder / MANIFEST, {"format": FORMAT_VERSION, **fields})


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None if there is none that this version reads."""
    try:
        fields = read_json(folder / MANIFEST)
        if fields.pop("format") != FORMAT_VERSION:
            return None
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        return Manifest(**{**fields, "sources": tuple(fields["sources"])})
    except (InputError, TypeError, KeyError):
        return None


def read_manifest(folder: Path, vocabulary_sha256: str | None = None) -> Manifest:
    """The manifest of a folder; raises InputError if it or a shard is missing, or for another vocabulary."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder}: no shards, or no {MANIFEST} that this version reads; create it with `deberta-jax prepare`"
        )
    if vocabulary_sha256 not in (None, manifest.vocabulary_sha256):
        raise InputError(
            f"{folder}: shards of vocabulary {manifest.vocabulary_sha256[:12]}, but the tokenizer has vocabulary "
            f"{vocabulary_sha256[:12]}; use the tokenizer of the shards, or prepare the shards again"
        )
    for name in (shard.name for shard in manifest.shards):
        if not (folder / name).exists():
            raise InputError(f"{folder}: shard {name} is missing; restore it, or prepare the shards again")
    return manifest


def write_shard_record(path: Path, shard: Shard) -> None:
    """Write the record of the shard at `path` beside it; a shard is complete once its record exists."""
    write_json(path.with_suffix(".json"), dataclasses.asdict(shard))


def find_shard(path: Path, source: str) -> Shard | None:
    """The record of the shard at `path`, or None if the shard is incomplete or has another source."""
    try:
        shard = Shard(**read_json(path.with_suffix(".json")))
    except (InputError, TypeError):
        return None
    return shard if shard.source == source and path.exists() and path.stat().st_size == shard.file_bytes else None
