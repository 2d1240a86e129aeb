"""Reserves part of a folder of shards as held-out text."""

import dataclasses
import os
from pathlib import Path

from deberta_jax.data.manifest import read_manifest, write_manifest
from deberta_jax.errors import InputError
from deberta_jax.files import make_folder

# One shard in this many is held out.
INTERVAL = 20
_MAX_HELD_OUT_SHARE = 0.25


def split_held_out(shards: Path, folder: Path, vocabulary_sha256: str | None = None) -> tuple[Path, Path]:
    """Create two folders in `folder`, "train" and "held_out", whose manifests refer to the shards; no file is copied.

    One shard in twenty is held out. Shards end between documents, so no document is in both folders. Raises InputError
    if there are so few shards that more than a quarter of the sequences would be held out.
    """
    manifest = read_manifest(shards, vocabulary_sha256)
    filled = [shard for shard in manifest.shards if shard.sequences]
    held_out = filled[INTERVAL // 2 :: INTERVAL] or filled[-1:]
    train = [shard for shard in filled if shard not in held_out]
    if sum(shard.sequences for shard in held_out) > _MAX_HELD_OUT_SHARE * manifest.sequences:
        raise InputError(
            f"{shards}: {len(filled)} shards are too few to hold out one in {INTERVAL}; name held-out files with "
            "--data.held-out, or prepare more and smaller shards (from plain text: a compressed or parquet file gives "
            "one shard)"
        )
    folders = folder / "train", folder / "held_out"
    for target, part in zip(folders, (train, held_out), strict=True):
        make_folder(target)
        relative = Path(os.path.relpath(shards.absolute(), target.absolute()))
        moved = tuple(dataclasses.replace(shard, name=str(relative / shard.name)) for shard in part)
        write_manifest(target, dataclasses.replace(manifest, shards=moved))
    return folders
