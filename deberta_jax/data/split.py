"""A part of prepared shards kept for evaluation."""

import dataclasses
import os
from pathlib import Path

from deberta_jax.data.prepare import read_manifest, write_manifest
from deberta_jax.errors import InputError

SHARE = 20
# More than this part held out is no sample but a loss.
_MOST = 0.25


def hold_out(shards: Path, folder: Path, vocabulary_sha256: str | None = None) -> tuple[Path, Path]:
    """Two folders in `folder`, "train" and "held_out", whose manifests share the shards: one in twenty is held out.

    Shards are cut between documents, so no document is on both sides; no file is copied.
    """
    manifest = read_manifest(shards, vocabulary_sha256)
    filled = [shard for shard in manifest.shards if shard.rows]
    chosen = filled[SHARE // 2 :: SHARE] or filled[-1:]
    rest = [shard for shard in filled if shard not in chosen]
    if sum(shard.rows for shard in chosen) > _MOST * manifest.rows:
        raise InputError(
            f"{shards}: {len(filled)} shards, too few to hold out one in {SHARE}: name files with --data.held-out, or "
            "prepare more and smaller shards (of a compressed or parquet file there is one, plain text is cut)"
        )
    folders = folder / "train", folder / "held_out"
    for target, part in zip(folders, (rest, chosen), strict=True):
        target.mkdir(parents=True, exist_ok=True)
        where = Path(os.path.relpath(shards.absolute(), target.absolute()))
        moved = tuple(dataclasses.replace(shard, name=str(where / shard.name)) for shard in part)
        write_manifest(target, dataclasses.replace(manifest, shards=moved))
    return folders
