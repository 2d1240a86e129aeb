"""Runs the jobs of `prepare` on several workers, with dask.distributed."""

import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar

from deberta_jax.errors import InputError

_TIMEOUT_SECONDS = 20

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_on_workers(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, scheduler: str | None
) -> Generator[Result, None, None]:
    """The result of each job, in order of completion, from local worker processes or the workers of a `scheduler`.

    A job whose worker dies is repeated on another worker. Raises InputError if no worker survives a job, if the cluster
    cannot be reached, and whatever `function` raises.
    """
    try:
        from distributed import CancelledError, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise InputError("several workers require dask.distributed; pip install 'deberta-jax[prep]'") from None
    with ExitStack() as stack:
        client, count = _connect(stack, workers, scheduler)
        queue = iter(jobs)
        # A job contains the tokenizer, so only a few are sent at a time.
        pending = as_completed(client.submit(function, job, pure=False) for job in islice(queue, 2 * count))
        for future in pending:
            try:
                result = future.result()
            except KilledWorker as error:
                raise InputError(
                    f"a shard killed every worker that tried it ({error}); give the workers more memory, or use one "
                    "worker"
                ) from None
            except CancelledError:
                raise InputError(
                    f"{scheduler or 'dask'}: lost the connection to the scheduler; run the same command again to "
                    "continue with the remaining shards"
                ) from None
            yield result
            for job in islice(queue, 1):
                pending.add(client.submit(function, job, pure=False))


def _connect(stack: ExitStack, workers: int, scheduler: str | None) -> tuple[Any, int]:
    """A dask client, closed by the stack, and its number of workers."""
    import dask
    from distributed import Client, LocalCluster

    log = logging.getLogger("distributed")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.WARNING)
    # This process reports the errors of workers; they would also log them, with a stack trace.
    quiet = {"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical"}
    stack.enter_context(dask.config.set(quiet))
    if scheduler is None:
        # A cluster whose start is interrupted cannot be closed.
        with _signals_deferred():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                # Without a dashboard the scheduler still has an HTTP server: on any free port, not on a fixed one.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        # The first callback at the end: dask logs errors about workers that end before it does.
        stack.callback(log.setLevel, logging.CRITICAL)
        return client, workers
    try:
        client = stack.enter_context(Client(scheduler, timeout=_TIMEOUT_SECONDS))
        client.wait_for_workers(1, timeout=_TIMEOUT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{scheduler}: cannot connect to a dask scheduler with workers ({error}); check the address"
        ) from None
    return client, max(workers, sum(client.nthreads().values()))


@contextmanager
def _signals_deferred() -> Generator[None, None, None]:
    """Handle SIGINT and SIGTERM at the end, provided that Python handles them."""
    pending: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Python allows only the main thread to set signal handlers.
    in_main_thread = threading.current_thread() is threading.main_thread()
    replaced = [number for number, handler in handlers.items() if in_main_thread and callable(handler)]
    for number in replaced:
        signal.signal(number, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, handlers[number])
        # Also in place of an error: workers that got the same signal do not start.
        for received in pending[:1]:
            signal.raise_signal(received)
