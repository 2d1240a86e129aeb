"""The processes of one run: they meet at an address, agree on values, and end together when one of them fails.

Process 0 listens at the address, and the others connect to it. Every process sends a heartbeat every second, so that
each notices within a stated time that another one is dead, suspended or unreachable. A thread of each process watches
the connections. When another process fails, it prints one line and ends this process, whatever the main thread is
waiting for.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NamedTuple

from deberta_jax.errors import InputError, PeerError
from deberta_jax.processes.connection import Connection, Message, connect, listen
from deberta_jax.processes.exit import exit_process
from deberta_jax.processes.reasons import RESTART, absence, difference

# The time between two heartbeats of a process, in seconds.
_INTERVAL = 1.0
# How long a process that fails waits until the others know.
_FAREWELL_SECONDS = 5.0


class Verdict(NamedTuple):
    """Why a run ends, the exit code of every process, and the process that failed."""

    message: str
    code: int
    origin: int


class ProcessGroup:
    """This process's connections to the others of its run.

    Args:
        index: the index of this process; process 0 listens at `address`.
        count: the number of processes.
        address: HOST:PORT.
        timeout: seconds after which a process that does not appear or does not respond is given up.
        end: called by the watching thread with a message and an exit code when another process has failed; by default
            it prints the message and exits.
    """

    def __init__(
        self, index: int, count: int, address: str, timeout: float, end: Callable[[str, int], None] | None = None
    ):
        self.index, self.count, self.address, self.timeout = index, count, address, timeout
        self._end = end or (lambda message, code: exit_process(code, message))
        self._hosts = {index: socket.gethostname()}
        self._peers: dict[int, Connection] = {}
        self._strangers: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._selector = DefaultSelector()
        self._changed = threading.Condition()
        self._values: dict[int, Mapping[str, Any]] = {}
        self._answers: list[Any] = []
        self._done: set[int] = set()
        self._is_released = self._is_closed = False
        self._verdict: Verdict | None = None
        self._suspicion: tuple[Verdict, float] | None = None
        self._end_by = 0.0
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._watcher = threading.Thread(target=self._watch, name="process group", daemon=True)

    def connect(self) -> None:
        """Listen for the others, or connect to the first process.

        Raises InputError for a wrong address, and PeerError if the first process does not answer.
        """
        if self.index:
            connection = connect(self.address, self.timeout)
            host = self._hosts[self.index]
            connection.send({"kind": "hello", "index": self.index, "count": self.count, "host": host})
            self._peers[0], self._hosts[0] = connection, self.address
            self._selector.register(connection, EVENT_READ)
        else:
            self._listener = listen(self.address)
            self._selector.register(self._listener, EVENT_READ)
        self._watcher.start()

    def meet(self) -> None:
        """Connect, and wait for all processes; raises PeerError also if one does not appear."""
        self.connect()
        if self.index == 0:
            self._wait(self._is_complete, self.timeout)
            if not self._is_complete():
                raise PeerError(absence(self._hosts, self.count, self.address, self.timeout))

    def agree(self, values: Mapping[str, Any]) -> None:
        """Wait until every process is here; the run ends, naming the values that differ, if they are not the same.

        All processes call `agree` and `from_first` in the same order.
        """
        if self.index:
            self._broadcast({"kind": "values", "values": dict(values)})
        else:
            self._wait(lambda: len(self._values) == self.count - 1)
            everyone, self._values = {0: values, **self._values}, {}
            if differences := difference(everyone, self._name):
                raise InputError(differences)
        self.from_first(lambda: None)

    def from_first(self, action: Callable[[], Any]) -> Any:
        """The result of `action` on the first process, a JSON value; the others wait for it.

        If it raises there, the others are ended when that process calls `fail`.
        """
        if self.index:
            self._wait(lambda: bool(self._answers))
            return self._answers.pop(0)
        answer = action()
        self._broadcast({"kind": "answer", "answer": answer})
        return answer

    def fail(self, message: str, code: int, *, suspected: bool = False) -> None:
        """End the run with an error of this process, which exits next, as soon as the others know.

        An error is `suspected` if another process may have caused it: a process that is dead, or turns out to be within
        the timeout, is then the reason, and this process ends as the others do.
        """
        if not self._watcher.is_alive():
            return  # not connected: there is nobody to tell
        with self._changed:
            verdict = Verdict(f"{self._name(self.index)}: {message}", code, self.index)
            self._suspect(verdict) if suspected else self._judge(verdict)
            if self.index:
                self._broadcast({"kind": "failed", "suspected": suspected, **verdict._asdict()})
            if suspected:
                self._changed.wait_for(lambda: self._verdict is not None, self.timeout + _FAREWELL_SECONDS)
        if self._verdict and self._verdict.origin != self.index:
            self._ended.wait(self.timeout + _FAREWELL_SECONDS)
            return
        with self._changed:
            self._changed.wait_for(self._others_know, max(0.0, self._end_by - time.monotonic()))

    def leave(self) -> None:
        """Wait until all processes are complete, and close the connections."""
        if self.index:
            self._broadcast({"kind": "done"})
            self._wait(lambda: self._is_released)
        else:
            self._wait(lambda: len(self._done) == self.count - 1)
            self._is_released = True
            self._broadcast({"kind": "released"})
            with self._changed:
                self._changed.wait_for(lambda: not self._peers, _FAREWELL_SECONDS)
        self._is_closed = True
        self._watcher.join(2 * _INTERVAL)
        for connection in (*self._peers.values(), *self._strangers):
            connection.close()
        if self._listener:
            self._listener.close()

    # Waiting, in the main thread.

    def _wait(self, condition: Callable[[], bool], limit: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._ended.is_set(), limit)
            if self._ended.is_set() and self._verdict:
                raise PeerError(self._verdict.message)

    def _is_complete(self) -> bool:
        return len(self._hosts) == self.count

    def _name(self, index: int) -> str:
        return f"process {index} ({self._hosts.get(index, 'unknown')})"

    # Watching, in a thread.

    def _watch(self) -> None:
        last_sent = 0.0
        while not self._is_closed:
            ready = [key.fileobj for key, _ in self._selector.select(_INTERVAL / 4)]
            now = time.monotonic()
            with self._changed:
                for source in ready:
                    self._read(source)
                if now - last_sent >= _INTERVAL:
                    last_sent = now
                    self._broadcast({"kind": "alive"})
                self._check_silence(now)
                if self._suspicion and now > self._suspicion[1] and self.index == 0:
                    self._judge(self._suspicion[0])
                must_end = self._verdict and self._verdict.origin != self.index
                is_over = must_end and (self.index or self._others_know() or now > self._end_by)
                self._changed.notify_all()
            if is_over and self._verdict:
                self._end(self._verdict.message, self._verdict.code)
                self._ended.set()
                with self._changed:
                    self._changed.notify_all()
                return

    def _read(self, source: Any) -> None:
        if self._listener and source is self._listener:
            with contextlib.suppress(OSError):
                connection = Connection(self._listener.accept()[0])
                self._strangers.add(connection)
                self._selector.register(connection, EVENT_READ)
            return
        try:
            for message in source.receive():
                self._handle(source, message)
        except (OSError, KeyError, TypeError):
            # The connection has ended, or carries something else.
            self._lose(source)

    def _handle(self, connection: Connection, message: Message) -> None:
        kind = message["kind"]
        if connection in self._strangers:
            self._introduce(connection, message)
            return
        index = next((index for index, peer in self._peers.items() if peer is connection), None)
        if index is None:
            return  # closed after an earlier message
        if kind == "values":
            self._values[index] = message["values"]
        elif kind == "answer":
            self._answers.append(message["answer"])
        elif kind == "done":
            self._done.add(index)
        elif kind == "released":
            self._is_released = True
        elif kind == "failed":
            verdict = Verdict(message["message"], message["code"], message["origin"])
            self._suspect(verdict) if message.get("suspected") else self._judge(verdict)
            if self.index:
                # The first process waits until the others have closed their connections.
                del self._peers[index]
                self._drop(connection)

    def _introduce(self, connection: Connection, hello: Message) -> None:
        """Make a new connection one of the run, or refuse it."""
        self._strangers.remove(connection)
        index, count, host = hello.get("index"), hello.get("count"), str(hello.get("host"))[:100]
        if hello["kind"] != "hello" or not isinstance(index, int):
            self._drop(connection)
            return
        if not self._is_complete() and not self._verdict:
            if count != self.count:
                self._judge(Verdict(f"--processes.count is {self.count} in process 0 and {count} on {host}", 2, -1))
            elif index in self._hosts:
                self._judge(Verdict(f"two processes have index {index}: {self._name(index)} and one on {host}", 2, -1))
            elif 0 < index < count:
                self._hosts[index], self._peers[index] = host, connection
                return
        if self._verdict:
            self._hosts.setdefault(index, host)
        refusal = Verdict(f"the run at {self.address} has {self.count} processes already", 2, -1)
        connection.send({"kind": "failed", **(self._verdict or refusal)._asdict()})
        self._drop(connection)

    def _check_silence(self, now: float) -> None:
        for index, connection in list(self._peers.items()):
            if now - connection.last_heard > self.timeout and not self._verdict:
                self._judge(Verdict(f"{self._name(index)} did not respond for {self.timeout:g} s; {RESTART}", 1, index))
        for connection in [stranger for stranger in self._strangers if now - stranger.last_heard > self.timeout]:
            self._strangers.remove(connection)
            self._drop(connection)

    def _lose(self, connection: Connection) -> None:
        """A connection has ended."""
        self._strangers.discard(connection)
        self._drop(connection)
        for index, peer in list(self._peers.items()):
            if peer is connection:
                del self._peers[index]
                if not (self._verdict or self._is_released or index in self._done):
                    self._judge(Verdict(f"{self._name(index)} ended or lost its connection; {RESTART}", 1, index))

    def _drop(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()

    def _broadcast(self, message: Message) -> None:
        for connection in list(self._peers.values()):
            connection.send(message)

    def _suspect(self, verdict: Verdict) -> None:
        if self._suspicion is None:
            self._suspicion = verdict, time.monotonic() + self.timeout

    def _judge(self, verdict: Verdict) -> None:
        """Decide why the run ends; the first process tells the others, also those that are not here yet."""
        if self._verdict is None:
            self._verdict = verdict
            absent = 0.0 if self._is_complete() else self._started + self.timeout - time.monotonic()
            self._end_by = time.monotonic() + max(absent, _FAREWELL_SECONDS)
            if self.index == 0:
                self._broadcast({"kind": "failed", **verdict._asdict()})

    def _others_know(self) -> bool:
        is_late = time.monotonic() > self._started + self.timeout
        return not self._peers and (self.index > 0 or self._is_complete() or is_late)
