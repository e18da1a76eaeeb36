"""MLflow taken away for real: a server that is killed, a database that a process holds, a disk that is full."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# MLflow's own application on a database and a folder of artifacts, without the job runner that `mlflow server` adds.
# Importing it takes seconds: a parent does that once, and each start is a fork of it.
SERVE = """
import os, signal, sys
from werkzeug.serving import run_simple
from mlflow.server import app
served = None
for command in sys.stdin:
    if command == "start\\n":
        served = os.fork()
        if served == 0:
            run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
    elif served is not None:
        os.kill(served, signal.SIGKILL)
        os.waitpid(served, 0)
        served = None
    print("done", flush=True)
if served is not None:  # the test's own process was killed
    os.kill(served, signal.SIGKILL)
"""
HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Server:
    """A process that can be killed and started again on the same port and the same database."""

    def __init__(self, database: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri, self._log = f"http://127.0.0.1:{port}", (folder / "server.txt").open("wb")
        environment = {
            **os.environ,
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        self._parent = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(port)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip

    def start(self) -> None:
        self._tell("start")
        wait_until(self._answers)

    def kill(self) -> None:
        self._tell("kill")

    def close(self) -> None:
        self.kill()
        self._parent.communicate(timeout=30)
        self._log.close()

    def _tell(self, command: str) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(command + "\n")
        self._parent.stdin.flush()
        assert self._parent.stdout.readline() == "done\n", Path(self._log.name).read_text()

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


class Holder:
    """A process that locks an SQLite database."""

    def __init__(self, uri: str) -> None:
        self._path = uri.removeprefix("sqlite:///")
        self._process: subprocess.Popen[str] | None = None

    def hold(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, self._path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=30)
            self._process = None


@dataclass
class Patience:
    milliseconds: int


@contextmanager
def patience(milliseconds: int) -> Iterator[Patience]:
    """Let MLflow wait less than its 20 s for a database that somebody holds; the wait may be changed meanwhile."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    patience = Patience(milliseconds)

    def shorten(connection, cursor, statement, parameters, context, many):
        return statement.replace("busy_timeout = 20000", f"busy_timeout = {patience.milliseconds}"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    try:
        yield patience
    finally:
        event.remove(Engine, "before_cursor_execute", shorten)


_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000


def on_a_small_disk(megabytes: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a test the argument ``disk``: a folder with a file system of its own that has so much room.

    The test runs in a child process, for which alone it is mounted; that takes no rights where user namespaces are
    allowed, and the test is skipped where they are not.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def forked(tmp_path: Path, **fixtures: Any) -> None:
            disk = tmp_path / "disk"
            disk.mkdir()
            wanted = inspect.signature(test).parameters
            arguments = {**fixtures, "disk": disk, **({"tmp_path": tmp_path} if "tmp_path" in wanted else {})}
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(
                    writing, _outcome(lambda: _mount(disk, megabytes), lambda: test(**arguments)).encode()[-60000:]
                )
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading, encoding="utf-8") as pipe:
                outcome = pipe.read()
            os.waitpid(child, 0)
            if outcome.startswith("skip"):
                pytest.skip(outcome)
            assert outcome == "passed", outcome

        fixtures = [p for p in inspect.signature(test).parameters.values() if p.name not in ("disk", "tmp_path")]
        path = inspect.Parameter("tmp_path", inspect.Parameter.KEYWORD_ONLY)
        forked.__signature__ = inspect.Signature([*(p.replace(kind=path.kind) for p in fixtures), path])  # type: ignore
        return forked

    return decorate


def _outcome(prepare: Callable[[], None], body: Callable[[], None]) -> str:
    try:
        prepare()
    except OSError as error:
        return f"skipped: no file system can be mounted here ({error})"
    try:
        body()
    except BaseException:
        return traceback.format_exc()
    return "passed"


def _mount(folder: Path, megabytes: int) -> None:
    user, group = os.getuid(), os.getgid()
    _checked(_LIBC.unshare(_NEW_USER | _NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _checked(_LIBC.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={megabytes}m".encode()))


def _checked(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fill(disk: Path) -> Path:
    """Leave no byte of a disk; the file to remove."""
    filler = disk / "filler"
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 16, 1 << 10, 1):
        with suppress(OSError):
            while True:
                os.write(handle, b"x" * size)
    os.close(handle)
    return filler
