"""Messages between the processes of a run: JSON objects, one per line, over TCP."""

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from deberta_jax.errors import InputError, PeerError

_MAX_LINE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_SEND_SECONDS = 5.0
_RETRY_SECONDS = 0.2

Message = dict[str, Any]
_log = logging.getLogger(__name__)


class Connection:
    """A TCP connection that carries messages; `last_heard` is the time of the latest one (`time.monotonic`)."""

    def __init__(self, connected: socket.socket):
        connected.settimeout(_SEND_SECONDS)
        self.last_heard = time.monotonic()
        self._socket = connected
        self._received = b""
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """The file descriptor, for `selectors`."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a broken connection is noticed by `receive`."""
        with suppress(OSError), self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Iterator[Message]:
        """The messages that have arrived; raises ConnectionError at the end of the connection and for other content."""
        chunk = self._socket.recv(_CHUNK_BYTES)
        if not chunk:
            raise ConnectionError("the connection was closed")
        self.last_heard = time.monotonic()
        *lines, self._received = (self._received + chunk).split(b"\n")
        if len(self._received) > _MAX_LINE_BYTES:
            raise ConnectionError("the line is too long")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                raise ConnectionError("not JSON") from None
            if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
                raise ConnectionError("not a message")
            yield message

    def close(self) -> None:
        """Close the connection; the peer still receives what was sent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()


def connect(address: str, timeout: float) -> Connection:
    """A connection to the first process, which listens, or will listen, at HOST:PORT.

    Raises InputError for a malformed address, and PeerError after the timeout.
    """
    host, port = parse_address(address)
    limit = time.monotonic() + timeout
    while True:
        remaining = limit - time.monotonic()
        try:
            return Connection(socket.create_connection((host, port), timeout=max(remaining, _RETRY_SECONDS)))
        except OSError as error:
            if remaining < _RETRY_SECONDS:
                raise PeerError(
                    f"process 0 did not answer at {address} within {timeout:g} s ({error.strerror or error}); start "
                    "all processes"
                ) from None
            time.sleep(_RETRY_SECONDS)


def listen(address: str) -> socket.socket:
    """A socket of the first process that listens at HOST:PORT; port 0 is any free one.

    If the address is none of this machine, because it is translated on the way, the socket listens on all interfaces,
    with a warning. Raises InputError if the host is unknown or the port is in use.
    """
    host, port = parse_address(address)
    try:
        for family, _, _, _, candidate in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _bind(family, candidate)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        _log.warning("warning: %s is no address of this machine: process 0 listens on all interfaces", host)
        return _bind(socket.AF_INET, ("", port))
    except OSError as error:
        raise InputError(
            f"processes: cannot listen at {address} ({error.strerror or error}); choose another address or port"
        ) from None


def parse_address(address: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT or [IPV6]:PORT; raises InputError."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) >= 1 << 16:
        raise InputError(f"processes: coordinator is {address!r}; expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _bind(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
