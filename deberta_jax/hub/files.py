"""Files that are written whole or not at all, in folders that are made for them."""

import os
from collections.abc import Callable
from pathlib import Path

from deberta_jax.errors import InputError


def make_folder(folder: str | Path) -> Path:
    """The folder, made if it is not there; raises InputError where it cannot be."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder could be made ({error.strerror})") from None
    return folder


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write another file and put it in the place of `path`, which on an error stays as it was."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error}); what stood there is unchanged") from None
    finally:
        partial.unlink(missing_ok=True)
