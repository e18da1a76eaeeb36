"""The process that decodes: reads requests from stdin, answers on stdout, ends when stdin closes.

A message is two lengths of 8 bytes, a pickled header and raw bytes. Run by `reader.ClipReader` only.
"""

import os
import pickle
import select
import signal
import struct
import threading
import traceback
from typing import Any

LENGTHS = struct.Struct(">QQ")  # bytes of the header, bytes of the payload


def pack(header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """The start of a message; `payload_bytes` raw bytes are to follow it."""
    body = pickle.dumps(header)
    return LENGTHS.pack(len(body), payload_bytes) + body


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main() -> None:
    requests, answers = _take_pipes()
    _end_with_parent(requests)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    try:
        import torch

        from stts_lightning.video.complaints import listen
        from stts_lightning.video.decode import decode_clip
        from stts_lightning.video.decoders import load_decoders

        load_decoders()
    except Exception:
        write_all(answers, pack({"status": "broken", "text": traceback.format_exc()}))
        return
    listen()
    torch.set_num_threads(1)  # one such process stands beside each DataLoader worker
    write_all(answers, pack({"status": "ready"}))
    while request := _next_request(requests):
        try:
            clip = decode_clip(**request)
        except Exception as error:
            write_all(answers, pack(_describe(error)))
            continue
        rest = clip._asdict()
        frames = rest.pop("frames")
        write_all(answers, pack({"status": "clip", "shape": frames.shape, "clip": rest}, frames.nbytes))
        write_all(answers, frames.reshape(-1).data)


def _take_pipes() -> tuple[int, int]:
    """Keep the pipes to ourselves: what a decoder prints must neither reach the answers nor block."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    return requests, answers


def _end_with_parent(requests: int) -> None:
    """End this process when the parent's end of the pipe closes, even while a decoder hangs."""

    def watch() -> None:
        poll = select.poll()
        poll.register(requests, 0)  # waits for a hang-up only, which is always reported
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _next_request(fd: int) -> dict[str, Any] | None:
    lengths = _read_exactly(fd, LENGTHS.size)
    return pickle.loads(_read_exactly(fd, LENGTHS.unpack(lengths)[0])) if lengths else None


def _read_exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(fd, count - len(data))
        if not part:
            return b""
        data += part
    return data


def _describe(error: Exception) -> dict[str, Any]:
    from stts_lightning.video.clip import VideoError

    if isinstance(error, VideoError):
        return {"status": "video_error", "error": error}
    if isinstance(error, ValueError):
        return {"status": "value_error", "text": str(error)}
    return {"status": "bug", "text": "".join(traceback.format_exception(error))}


if __name__ == "__main__":
    main()
