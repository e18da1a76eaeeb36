"""Read clips in a process that can be killed, for decoders hang and crash on bad files.

`ClipReader` owns one child process, started at the first read. It is not of `multiprocessing`, as DataLoader
workers may have no such children, and it imports neither Lightning nor Transformers.
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

from stts_lightning.video.clip import Clip, VideoError, video_error
from stts_lightning.video.worker import LENGTHS, pack, write_all


class ClipReader:
    """Reads clips with a time limit. Close it, or use it in a `with` block; reading again starts a new child.

    `timeout_s`: for one attempt at one clip. `start_timeout_s`: for the child to import torch, which a cold
    network disk makes slow. A copy that is pickled, or inherited through a fork, starts a child of its own.
    """

    def __init__(self, timeout_s: float = 30.0, start_timeout_s: float = 120.0):
        for name, value in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
            if not value > 0:
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        self.timeout_s = timeout_s
        self.start_timeout_s = start_timeout_s
        self._child: _Child | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        size: int,
        max_frames: int,
        max_fps: float | None,
        start: float | None = None,
        end: float | None = None,
        decoder: str = "auto",
        resize: str = "molmo2",
    ) -> Clip:
        """`decode.decode_clip` in the child. With "auto", a decoder that hangs or crashes is killed and the
        clip is read once more by PyAV alone; `Clip.note` then begins with "first attempt".

        Raises VideoError (kinds "timeout" and "decoder_crash" too), ValueError for wrong arguments, and
        RuntimeError if the child cannot start.
        """
        if self._owner != os.getpid():  # inherited through a fork, and the lock perhaps with it, held for ever
            self.close()
            self._owner, self._lock = os.getpid(), threading.Lock()
        request = {"path": os.path.abspath(os.fspath(path)), "size": size, "max_frames": max_frames}
        request |= {"max_fps": max_fps, "start": start, "end": end, "decoder": decoder, "resize": resize}
        with self._lock:
            try:
                return self._ask(request)
            except VideoError as error:
                if decoder != "auto" or error.kind not in ("timeout", "decoder_crash"):
                    raise
                clip = self._ask(request | {"decoder": "pyav"})
                return clip._replace(note="; ".join(filter(None, [f"first attempt: {error.kind}", clip.note])))

    @property
    def child_pid(self) -> int | None:
        """The process that decodes, for those who watch its memory; None while there is none."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """End the child, if any. In a forked copy only the copy's ends of the pipes are closed."""
        child, self._child = self._child, None
        if child is not None:
            child.end(is_ours=self._owner == os.getpid())

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
        ClipReader.__init__(self, **state)

    def _ask(self, request: dict[str, Any]) -> Clip:
        """One attempt. Whatever interrupts it ends the child, or the late answer would be the next one's."""
        path = request["path"]
        if self._child is None or self._child.has_ended():
            self.close()
            self._child = _Child(self.start_timeout_s)
        child = self._child
        try:
            child.send(request)
            header, frames = child.receive(self.timeout_s)
        except TimeoutError:
            self.close()
            raise video_error(path, "timeout", f"no frames after {self.timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            self.close()
            raise video_error(path, "decoder_crash", f"the decoder ended {child.cause()}") from None
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


class _Child:
    """A running `worker` and the two pipes to it."""

    def __init__(self, start_timeout_s: float):
        package_parent = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stts_lightning.video.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # ffmpeg's chatter; errors travel in the answers
            bufsize=0,
            env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        try:
            greeting, _ = self.receive(start_timeout_s)
            if greeting["status"] != "ready":
                raise RuntimeError(f"the video decoding process did not start:\n{greeting['text']}")
        except (TimeoutError, EOFError) as error:
            self.end(is_ours=True)
            how = f"after {start_timeout_s:g} s" if isinstance(error, TimeoutError) else f": ended {self.cause()}"
            raise RuntimeError(f"the video decoding process ({sys.executable}) was not ready {how}") from None
        except BaseException:
            self.end(is_ours=True)
            raise

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, is_ours: bool) -> None:
        if is_ours:
            self.process.kill()  # it holds nothing worth saving, and may be stuck
            self.process.wait()
        else:
            self.process.returncode = 0  # the process that started it waits for it
        self.stdin.close()
        self.stdout.close()

    def cause(self) -> str:
        code = self.process.returncode
        return f"by the signal {signal.Signals(-code).name}" if code < 0 else f"with the code {code}"

    def send(self, request: dict[str, Any]) -> None:
        write_all(self.stdin.fileno(), pack(request))  # far smaller than a pipe's buffer: cannot block

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], np.ndarray]:
        """The next message's header and payload. Raises TimeoutError, or EOFError if the child ends first."""
        deadline, lengths = time.monotonic() + timeout_s, bytearray(LENGTHS.size)
        self._fill(memoryview(lengths), deadline)
        header_bytes, payload_bytes = LENGTHS.unpack(lengths)
        header, payload = bytearray(header_bytes), np.empty(payload_bytes, dtype=np.uint8)
        self._fill(memoryview(header), deadline)
        self._fill(payload.data, deadline)
        return pickle.loads(header), payload

    def _fill(self, view: memoryview, deadline: float) -> None:
        poll = select.poll()  # unlike select, it takes file numbers above 1023
        poll.register(self.stdout, select.POLLIN)
        while view:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            count = os.readv(self.stdout.fileno(), [view])
            if count == 0:
                raise EOFError
            view = view[count:]
