"""The text files in a folder, and those of a data set that Hugging Face `datasets` saved."""

import os
from pathlib import Path

from deberta_jax.errors import InputError, list_names
from deberta_jax.files import read_json


def folder_files(folder: str) -> list[str]:
    """All files below a folder, without hidden ones; of a saved data set, its arrow files.

    Raises InputError for an empty folder, and for a data set with several splits.
    """
    files = _files(Path(folder), {os.path.realpath(folder)})
    if not files:
        raise InputError(f"{folder}: no files in this folder; name a folder or a pattern with text files")
    return files


def _files(folder: Path, visited: set[str]) -> list[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    names = {path.name for path in entries}
    if "state.json" in names:
        return _saved_data_set(folder)
    if "dataset_dict.json" in names:
        return _only_split(folder, visited)
    if "dataset_info.json" in names:
        return _cached_data_set(folder, entries)
    files = []
    for path in entries:
        # Names such as .DS_Store and _SUCCESS are not text.
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            # A link may lead to a folder above it.
            if (real := os.path.realpath(path)) not in visited:
                files += _files(path, visited | {real})
        else:
            files.append(str(path))
    return files


def _saved_data_set(folder: Path) -> list[str]:
    """The files that `Dataset.save_to_disk` lists in state.json."""
    state = read_json(folder / "state.json")
    entries = state.get("_data_files") or []
    names = [str(entry.get("filename")) if isinstance(entry, dict) else str(entry) for entry in entries]
    if not names or not all((folder / name).is_file() for name in names):
        raise InputError(
            f"{folder}: state.json lists no arrow files, or missing ones ({list_names(names)}); save the data set "
            "again with save_to_disk"
        )
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(
            f"{folder}: the data set is a selection of rows (indices files in state.json); save it again after "
            "flatten_indices()"
        )
    return [str(folder / name) for name in names]


def _only_split(folder: Path, visited: set[str]) -> list[str]:
    """The files of a `DatasetDict` with one split."""
    splits = read_json(folder / "dataset_dict.json").get("splits")
    names = sorted(map(str, splits)) if isinstance(splits, list) else []
    if len(names) != 1:
        example = f", such as {folder / _example(names)}" if names else ""
        raise InputError(f"{folder}: a data set with the splits {list_names(names)}; name the folder of one{example}")
    return _files(folder / names[0], visited)


def _cached_data_set(folder: Path, entries: list[Path]) -> list[str]:
    """The arrow files in a folder of the cache of `datasets`, without those of transformed data sets."""
    splits = read_json(folder / "dataset_info.json").get("splits")
    names = sorted(splits) if isinstance(splits, dict) else []
    files = [path for path in entries if path.suffix == ".arrow" and not path.name.startswith(("cache-", "tmp"))]
    if not files:
        raise InputError(f"{folder}: a data set without arrow files; save it again with save_to_disk")
    if len(names) > 1:
        raise InputError(
            f"{folder}: a data set with the splits {list_names(names)} in one folder; name the files of one, such as "
            f"'{folder}/*-{_example(names)}*.arrow'"
        )
    return [str(path) for path in files]


def _example(splits: list[str]) -> str:
    return "train" if "train" in splits else splits[0]
