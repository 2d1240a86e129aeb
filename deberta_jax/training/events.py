"""TensorBoard events of a run, written at once and in the calling thread.

The writer of tensorboardX has a queue and a thread. On a full disk the thread dies with a stack trace, and the next
steps wait for it forever.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.files import make_folder, write_all


class EventFile:
    """A new file of events in a folder; events of other files after step `start` are hidden by TensorBoard.

    Its methods raise OSError if the file cannot be written.
    """

    def __init__(self, folder: Path, start: int):
        # Imported late because the import is slow.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = event_pb2.Event, summary_pb2.Summary, masked_crc32c
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = (make_folder(folder) / name).open("ab", buffering=0)
        self._write(file_version="brain.Event:2")
        self._write(step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        values = [self._summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in metrics.items()]
        self._write(step=step, summary=self._summary(value=values))

    def flush(self) -> None:
        """Wait until the events are on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        content = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(content))
        record = [length, self._pack_checksum(length), content, self._pack_checksum(content)]
        write_all(self._file, b"".join(record))

    def _pack_checksum(self, content: bytes) -> bytes:
        return struct.pack("<I", self._checksum(content))
