"""The limit of open files, raised as far as the system allows."""

from contextlib import suppress

from deberta_jax.errors import InputError

# With fewer, the libraries behind JAX fail in unpredictable ways.
MIN_OPEN_FILES = 256
# A run keeps every shard open; more than this many files are not expected.
_ENOUGH = 65_536


def raise_open_files() -> None:
    """Raise the soft limit to the hard limit; raises InputError if the result is below `MIN_OPEN_FILES`."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < target:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        raise InputError(
            f"the limit of open files is {soft}, but at least {MIN_OPEN_FILES} are required; raise it with "
            f"`ulimit -n {MIN_OPEN_FILES}`"
        )
