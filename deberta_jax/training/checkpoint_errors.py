"""The reason of a failed save or load, in one line."""

import asyncio
import errno
import os

# Errors of the system whose text Orbax's errors contain, among much else.
LIMITS = [os.strerror(number) for number in (errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)]


def one_line(error: BaseException) -> str:
    """The error of the system or of Orbax's storage that stopped a save or a load."""
    while inner := _inner(error):
        error = inner
    if "No space left" in str(error):
        return "no space left on the disk"
    if limit := next((limit for limit in LIMITS if limit in str(error)), None):
        return limit
    if isinstance(error, asyncio.CancelledError):
        return "a write failed; check whether the disk is full"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """The error that another one reports: Orbax wraps errors in others about what it was doing.

    An OSError is itself the reason; its context is an error that was handled before, for example that a folder did not
    exist yet.
    """
    handled = error.__suppress_context__ or isinstance(error, OSError)
    return error.__cause__ or (None if handled else error.__context__)
