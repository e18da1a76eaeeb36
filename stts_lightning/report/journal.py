"""Metrics on their way to MLflow: in a file until MLflow has them.

MLflow has asynchronous logging of its own (`synchronous=False`); but what it fails to send it drops with an error in
the log, and what it has not sent yet dies with the process.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

POINTS_A_CALL = 1000  # MLflow's limit
MOST_IN_MEMORY = 100_000  # points that a full disk did not take: about 20 MiB


class Point(NamedTuple):
    key: str
    value: float
    timestamp_ms: int
    step: int


class _Batch(NamedTuple):
    points: list[Point]
    end: int | None  # where they end in the file; None for those that are in memory


class Journal:
    """A run's points that MLflow does not have yet, oldest first; `add` and `send` may be called from two threads.

    MLflow takes a point that it has already for the same one. So it does no harm that a batch is sent again of which
    nobody knows whether it arrived, nor that a killed process had sent a part of its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._sent = 0  # bytes of the file that MLflow has
        self._in_memory: list[Point] = []  # what the disk did not take
        self._lent = False  # those in memory are being sent, and must stay where they are
        self._cut_half_a_line()

    def add(self, points: Iterable[Point]) -> None:
        """On return they are on disk. A disk that is full is tried again with the next ones, and said once."""
        with self._lock:
            before = len(self._in_memory)
            self._in_memory += points
            if not self._lent:
                self._save(said=before > 0)

    def send(self, write: Callable[[list[Point]], None]) -> None:
        """Hand all points to ``write``, a batch at a time. What it raises ends this; what it did not get stays."""
        while (batch := self._next()) is not None:
            try:
                if batch.points:
                    write(batch.points)
                with self._lock:
                    if batch.end is not None:
                        self._sent = batch.end
                    else:
                        del self._in_memory[: len(batch.points)]
            finally:
                self._lent = False

    def mark(self) -> None:
        """Let the file exist: there is something to tell MLflow, if no points then the run's end."""
        with suppress(OSError):  # a full disk: there is nothing to be done here
            self.path.touch()

    def clear(self) -> None:
        """Remove the file if MLflow has all of it."""
        with self._lock:
            if not self._in_memory and self.path.is_file() and self.path.stat().st_size <= self._sent:
                self.path.unlink()
                self._sent = 0

    @property
    def empty(self) -> bool:
        return not self._in_memory and not self.path.is_file()

    def count(self) -> tuple[int, int]:
        """How many points are left, in the file and in memory."""
        with self._lock:
            with suppress(FileNotFoundError), self.path.open("rb") as file:
                file.seek(self._sent)
                return sum(1 for _ in file), len(self._in_memory)
            return 0, len(self._in_memory)

    def _next(self) -> _Batch | None:
        with self._lock:
            with suppress(FileNotFoundError), self.path.open("rb") as file:
                file.seek(self._sent)
                lines = list(islice(file, POINTS_A_CALL))
                if lines:
                    points = [point for line in lines if (point := self._parsed(line)) is not None]
                    return _Batch(points, self._sent + sum(map(len, lines)))
            self._lent = bool(self._in_memory)
            return _Batch(self._in_memory[:POINTS_A_CALL], None) if self._lent else None

    def _parsed(self, line: bytes) -> Point | None:
        try:
            return Point(*json.loads(line))
        except (ValueError, TypeError):
            log.warning("%s: a line that makes no sense was not sent to MLflow: %r", self.path, line)
            return None

    def _save(self, said: bool) -> None:
        if not self._in_memory:
            return
        lines = "".join(json.dumps(point) + "\n" for point in self._in_memory)
        try:
            start = _append(self.path, lines.encode())
        except OSError as error:
            if not said:
                log.warning("%s: %s. What is logged stays in memory until there is room, or MLflow.", self.path, error)
            if (over := len(self._in_memory) - MOST_IN_MEMORY) > 0:
                del self._in_memory[:over]
                log.warning("%s: the oldest %d values in memory are lost: no room for more.", self.path, over)
        else:
            self._in_memory = []
            self._sent = min(self._sent, start)  # a file that was removed begins anew

    def _cut_half_a_line(self) -> None:
        with suppress(FileNotFoundError), self.path.open("r+b") as file:
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                file.truncate(whole)
                log.warning("%s: it ended within a line, which is lost: %r", self.path, text[whole:])


def _append(path: Path, data: bytes) -> int:
    """Write all of it through to the disk, or nothing; where it begins."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        start = os.fstat(handle).st_size
        try:
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, start)
            raise
        return start
    finally:
        os.close(handle)
