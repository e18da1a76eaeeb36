"""Read clips in a process that can be killed, for decoders hang and crash on bad files.

`ClipReader` owns one child process, started at the first read. It is no `multiprocessing` child, as DataLoader
workers may not have any, and it imports neither Lightning nor Transformers.
"""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from stts_lightning.video.types import Clip, VideoError, video_error
from stts_lightning.video.worker import LENGTHS, pack, write_all


class _Died(Exception):
    """The child ended before its answer was complete."""


class ClipReader:
    """Reads clips with a time limit. Close it, or use it in a `with` block; reading again starts a new child.

    `timeout_s`: for one attempt at one clip. `start_timeout_s`: for the child to import torch, which a cold network
    disk makes slow. A copy that is pickled, or inherited by a forked process, starts a child of its own.
    """

    def __init__(self, timeout_s: float = 30.0, start_timeout_s: float = 120.0):
        for name, value in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
            if not value > 0:
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        self.timeout_s = timeout_s
        self.start_timeout_s = start_timeout_s
        self._forget()

    def read(
        self,
        path: str | os.PathLike,
        *,
        size: int,
        max_frames: int,
        max_fps: float | None,
        start: float | None = None,
        end: float | None = None,
        decoder: str = "auto",
    ) -> Clip:
        """`decode.decode_clip` in the child. With "auto", a decoder that hangs or crashes is killed and the clip is
        read once more by PyAV alone, which `Clip.note` tells.

        Raises VideoError (kinds "timeout" and "decoder_crash" too), ValueError for wrong arguments, and
        RuntimeError if the child cannot start.
        """
        path = os.path.abspath(os.fspath(path))
        request = {"path": path, "size": size, "max_frames": max_frames, "max_fps": max_fps}
        request |= {"start": start, "end": end, "decoder": decoder}
        if self._owner != os.getpid():
            self.close()  # inherited through a fork: before the lock, which may be held for ever in the copy
        with self._lock:
            try:
                return self._ask(request)
            except VideoError as error:
                if decoder != "auto" or error.kind not in ("timeout", "decoder_crash"):
                    raise
                clip = self._ask(request | {"decoder": "pyav"})
                note = f"first attempt: {error.kind}"
                return clip._replace(note="; ".join(filter(None, [note, clip.note])))

    def close(self) -> None:
        """End the child, if any. In a forked copy only the copy's ends of the pipes are closed."""
        process, owner = self._process, self._owner
        if process is None:
            return self._forget()
        if owner == os.getpid():
            process.kill()  # it holds nothing worth saving, and may be stuck
            process.wait()
        else:
            process.returncode = 0  # not ours to wait for
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._forget()

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the interpreter anything may be gone
            self.close()

    def __getstate__(self) -> dict[str, float]:
        return {"timeout_s": self.timeout_s, "start_timeout_s": self.start_timeout_s}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(**state)

    def _forget(self) -> None:
        old = getattr(self, "_lock", None)
        self._process: subprocess.Popen | None = None
        keep = old is not None and self._owner == os.getpid()
        self._lock = old if keep else threading.Lock()
        self._owner = os.getpid()

    def _ask(self, request: dict[str, Any]) -> Clip:
        """One attempt. Whatever interrupts it, the child is ended, or its late answer would be the next one's."""
        path, process = request["path"], self._running()
        try:
            write_all(process.stdin.fileno(), pack(request))
            header, frames = _receive(process.stdout.fileno(), time.monotonic() + self.timeout_s)
        except TimeoutError:
            self.close()
            raise video_error(path, "timeout", f"no frames after {self.timeout_s:g} s") from None
        except (_Died, BrokenPipeError):
            self.close()
            raise video_error(path, "decoder_crash", f"the decoder ended {_cause(process)}") from None
        except BaseException:
            self.close()
            raise
        if header["status"] == "clip":
            return Clip(**header["clip"] | {"frames": frames.reshape(header["shape"])})
        if header["status"] == "video_error":
            raise header["error"]
        if header["status"] == "value_error":
            raise ValueError(header["text"])
        raise RuntimeError(f"{path}: decoding failed in an unforeseen way:\n{header['text']}")

    def _running(self) -> subprocess.Popen:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        package_parent = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "stts_lightning.video.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # ffmpeg's chatter; errors travel in the answers
            bufsize=0,
            env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        )
        try:
            header, _ = _receive(process.stdout.fileno(), time.monotonic() + self.start_timeout_s)
            reason = header.get("text", "")
        except (TimeoutError, _Died):
            header, reason = {}, f"it was silent for {self.start_timeout_s:g} s, or died: {sys.executable}"
        except BaseException:
            self.close()
            raise
        if header.get("status") != "ready":
            self.close()
            raise RuntimeError(f"the video decoding process did not start: {reason}")
        return process


def _receive(fd: int, deadline: float) -> tuple[dict[str, Any], np.ndarray]:
    """The next message's header and payload. Raises TimeoutError at the deadline, _Died at the end of the pipe."""
    lengths = bytearray(LENGTHS.size)
    _fill(fd, memoryview(lengths), deadline)
    header_bytes, payload_bytes = LENGTHS.unpack(lengths)
    header, payload = bytearray(header_bytes), np.empty(payload_bytes, dtype=np.uint8)
    _fill(fd, memoryview(header), deadline)
    _fill(fd, memoryview(payload), deadline)
    return pickle.loads(header), payload


def _fill(fd: int, view: memoryview, deadline: float) -> None:
    poll = select.poll()  # unlike select, it takes file numbers above 1023
    poll.register(fd, select.POLLIN)
    while view:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError
        count = os.readv(fd, [view])
        if count == 0:
            raise _Died
        view = view[count:]


def _cause(process: subprocess.Popen) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"by the signal {signal.Signals(-code).name}"
    return f"with the code {code}"
