"""A folder that one process at a time writes."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import filelock

from deberta_jax.errors import InputError

# What a file system answers that has no locks: there nothing is kept out.
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Make a folder and keep other processes out until the end, a violent one included; raises InputError if held."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder}: another process works in this folder; wait for it, or name another") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
