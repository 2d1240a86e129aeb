"""Files and folders: atomic writing, JSON, and locks."""

import errno
import io
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from deberta_jax.errors import InputError

# Values in a JSON file may be nested this deeply: later code visits them recursively.
MAX_JSON_DEPTH = 100
# Errors of file systems that have no locks: there, no process is kept out.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def make_folder(folder: str | Path) -> Path:
    """Create a folder and its parents if they do not exist; raises InputError if that fails."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create this folder ({error.strerror})") from None
    return folder


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file atomically: `write` writes a temporary file beside it, which then replaces `path`.

    On an error the previous file is unchanged, and an OSError is raised as an InputError. Returns `path`.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); the previous file, if any, is unchanged") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_all(file: io.RawIOBase, content: bytes) -> None:
    """Write all bytes to an unbuffered file; one call of `file.write` may write only some of them."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes atomically."""
    return replace_file(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str, *, errors: str = "strict") -> Path:
    """Write UTF-8 text atomically, with line ends as they are."""
    return write_bytes(path, text.encode("utf-8", errors))


def write_json(path: Path, value: Any) -> Path:
    """Write a value as indented JSON, atomically."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError with the file, and the position where it is not valid JSON.

    Values that are nested too deeply, and integers that Python does not convert (4,300 digits), are errors too.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(_too_deep(path)) from None
    except ValueError:
        raise InputError(f"{path}: contains an integer of thousands of digits; correct or download the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(values).__name__}")
    if not _is_shallow(values):
        raise InputError(_too_deep(path))
    return values


def _too_deep(path: str | Path) -> str:
    return f"{path}: its values are nested more than {MAX_JSON_DEPTH} levels deep; correct or download the file"


def _is_shallow(values: Any) -> bool:
    """Whether a JSON value is nested at most `MAX_JSON_DEPTH` levels deep; checked level by level."""
    level = [values]
    for _ in range(MAX_JSON_DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [item for part in parts for item in part if isinstance(item, (dict, list))]
        if not level:
            return True
    return False


def is_file_name(name: Any) -> bool:
    """Whether a name from a file or the Hub is that of a file in the same folder, on every system."""
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable():
        return False
    return name not in (".", "..") and not any(character in name for character in "/\\:")


@contextmanager
def lock_folder(folder: Path) -> Generator[None, None, None]:
    """Create a folder and lock it for this process; raises InputError if another process holds the lock.

    The lock ends with the process, even if it is killed. A folder that is still empty at the end is removed, together
    with the parents that were created for it.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with _lock(folder, created, f"{folder}: another process is using this folder; wait for it, or use another folder"):
        yield


@contextmanager
def lock_output(path: Path, suffix: str) -> Generator[Path, None, None]:
    """Lock a file or folder that this process will write; raises InputError if another process holds the lock.

    Yields a folder beside it for unfinished content, with this suffix, which contains the lock. It is removed at the
    end if it is empty, together with the parents that were created for it.
    """
    folder = path.with_name(path.name + suffix)
    created = [folder, *(parent for parent in folder.parents if not parent.exists())]
    make_folder(path.parent)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    with _lock(folder, created, f"{path}: another process is writing this; wait for it, or choose another output"):
        yield folder


@contextmanager
def _lock(folder: Path, created: list[Path], conflict: str) -> Generator[None, None, None]:
    """Create a folder and lock it; `created` are the folders to remove at the end if they are empty."""
    make_folder(folder)
    lock = filelock.FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(conflict) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        # Removed before the lock is released: afterwards it may be the lock of another process.
        if created and folder.is_dir() and {path.name for path in folder.iterdir()} <= {".lock"}:
            (folder / ".lock").unlink(missing_ok=True)
            for path in created:
                with suppress(OSError):
                    path.rmdir()
        lock.release()
