"""Files that stand where videos should, of many kinds: what is wrong with them, and what should become of them.

Each kind has as many variants as one asks for: another seed, place of the cut, or clip underneath.
"""

from __future__ import annotations

import glob
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numbered_videos import make_video
from PIL import Image

from stts_lightning.video.write import write_h264

FRAMES, FPS = 10, 5
QUICK = {"frames": FRAMES, "fps": FPS, "size": (64, 48), "options": {"preset": "ultrafast", "threads": "1"}}
FASTSTART = {"container_options": {"movflags": "faststart"}}  # the index stands before the pictures


class Kind(NamedTuple):
    """``write(folder, variant)`` makes one file and returns its path; ``error`` is the kind of its VideoError."""

    write: Callable[[Path, int], Path]
    error: str


def clip(path: Path, number: int = 0, **changes: object) -> Path:
    """Two seconds of which frame i shows the number ``number`` + i."""
    return make_video(path, first=number, **{**QUICK, **changes})


def clip_bytes(folder: Path, variant: int, suffix: str = "mp4", **changes: object) -> bytearray:
    path = clip(folder / f"whole-{variant}.{suffix}", variant, **changes)
    data = bytearray(path.read_bytes())
    path.unlink()
    return data


def put(data: bytearray, box: bytes, offset: int, *values: int) -> bytearray:
    """Overwrite 32-bit numbers behind the name of the first box of that kind."""
    at = data.index(box) + offset
    data[at : at + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    return data


def made_of(content: Callable[[Path, int], bytes]) -> Callable[[Path, int], Path]:
    def write(folder: Path, variant: int) -> Path:
        path = folder / f"{content.__name__}-{variant}.mp4"
        path.write_bytes(content(folder, variant))
        return path

    return write


# ---- cut, empty, damaged -----------------------------------------------------------------------------------


def cut(folder: Path, variant: int) -> bytes:
    data = clip_bytes(folder, variant, **FASTSTART)
    pictures = data.index(b"mdat")
    return data[: pictures + (len(data) - pictures) * (variant % 10 + 1) // 12]


def cut_inside_the_index(folder: Path, variant: int) -> bytes:
    data = clip_bytes(folder, variant, **FASTSTART)
    return data[: data.index(b"moov") + (data.index(b"mdat") - data.index(b"moov")) * (variant % 10 + 1) // 12]


def cut_before_the_index(folder: Path, variant: int) -> bytes:
    data = clip_bytes(folder, variant)
    return data[: data.index(b"moov") * (variant % 10 + 2) // 12]


def index_alone(folder: Path, variant: int) -> bytes:
    data = clip_bytes(folder, variant, **FASTSTART)
    return data[: data.index(b"mdat") - 4]


def zero_bytes(folder: Path, variant: int) -> bytes:
    return b""


def flipped(folder: Path, variant: int) -> bytes:
    """20 bytes of the pictures, behind the encoder's text of 600 bytes, which no decoder reads."""
    rng, path = np.random.default_rng(variant), folder / f"blocks-{variant}.mp4"
    blocks = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_h264(path, (np.roll(blocks, 4 * i, axis=1) for i in range(FRAMES)), FPS)
    data = bytearray(path.read_bytes())
    path.unlink()
    for place in rng.choice(np.arange(data.index(b"mdat") + 700, data.index(b"moov") - 4), 20, replace=False):
        data[place] ^= 0xFF
    return data


def never_filled(folder: Path, variant: int) -> bytes:
    """A copy that was given its length and no content, the first bytes aside."""
    data = clip_bytes(folder, variant)
    return data[: 40 + variant] + bytes(len(data) - 40 - variant)


# ---- no pictures, no times, no sense -----------------------------------------------------------------------


def audio_only(folder: Path, variant: int) -> Path:
    path = folder / f"audio_only-{variant}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for at in range(4 + variant):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def zero_duration(folder: Path, variant: int) -> bytes:
    """Every frame lasts no time, so that all appear at once."""
    return put(clip_bytes(folder, variant), b"stts", 16, 0)


def too_many_frames(folder: Path, variant: int) -> bytes:
    """The index counts more frames than it lists."""
    return put(clip_bytes(folder, variant), b"stsz", 12, FRAMES * (variant + 10))


def too_few_frames(folder: Path, variant: int) -> bytes:
    """The index lists fewer frames than the video is long."""
    return put(clip_bytes(folder, variant), b"stsz", 12, variant % 4 + 1)


def html(folder: Path, variant: int) -> bytes:
    return f"<!DOCTYPE html>\n<html><body><h1>{variant + 400} Error</h1></body></html>\n".encode() * (variant + 1)


def text(folder: Path, variant: int) -> bytes:
    return "keine Filme hier, nur Wörter\n".encode() * (variant + 1)


def random_bytes(folder: Path, variant: int) -> bytes:
    return b"\xff" + random.Random(variant).randbytes(1000 * (variant + 1))


def picture(folder: Path, variant: int) -> Path:
    path = folder / f"picture-{variant}.mp4"
    Image.new("RGB", (64 + variant, 48), (200, variant, 10)).save(path, format=("JPEG", "PNG")[variant % 2])
    return path


# ---- declares what it has not ------------------------------------------------------------------------------


def huge_index(folder: Path, variant: int) -> bytes:
    """An index of up to four thousand million frames."""
    return put(clip_bytes(folder, variant), b"stsz", 12, 0xFFFFFFFF - variant)


def huge_box(folder: Path, variant: int) -> bytes:
    """The pictures are said to take gigabytes."""
    return put(clip_bytes(folder, variant), b"mdat", -4, 0xFFFFFFFF - variant)


def huge_header(folder: Path, variant: int) -> bytes:
    """An AVI header of 16000 pixels a side, which FFV1 believes."""
    data = clip_bytes(folder, variant, suffix="avi", codec="ffv1", options=None)
    at = data.index(b"strf") + 12
    data[at : at + 8] = struct.pack("<II", 16000, 15000 + variant)
    return data


def huge_pictures(folder: Path, variant: int) -> bytes:
    """VP8's pictures claim 16000 pixels a side, and the file's header 64 x 48."""
    data = clip_bytes(folder, variant, suffix="webm", codec="libvpx", options=None)
    at = -1
    while (at := data.find(b"\x9d\x01\x2a", at + 1)) >= 0:  # the mark of a key frame; its sides follow
        data[at + 3 : at + 7] = struct.pack("<HH", 16000, 15000 + variant)
    return data


# ---- no regular file, or none that may be read -------------------------------------------------------------


def missing(folder: Path, variant: int) -> Path:
    return folder / f"missing-{variant}.mp4"


def directory(folder: Path, variant: int) -> Path:
    path = folder / f"directory-{variant}.mp4"
    path.mkdir()
    return path


def pipe(folder: Path, variant: int) -> Path:
    path = folder / f"pipe-{variant}.mp4"
    os.mkfifo(path)
    return path


def broken_link(folder: Path, variant: int) -> Path:
    path = folder / f"broken_link-{variant}.mp4"
    path.symlink_to(folder / f"gone-{variant}.mp4")
    return path


def ring_of_links(folder: Path, variant: int) -> Path:
    path = folder / f"ring-{variant}.mp4"
    path.symlink_to(path.name)
    return path


def too_long_a_name(folder: Path, variant: int) -> Path:
    return folder / f"{'n' * (300 + variant)}.mp4"


WRITE_ONLY = sorted(glob.glob("/sys/bus/*/drivers_probe"))  # files that the kernel lets nobody read, the superuser too


def locked(folder: Path, variant: int) -> Path:
    """A file without permission to read; that does not stop the superuser, who gets a link to one that does."""
    path = folder / f"locked-{variant}.mp4"
    if os.geteuid() == 0:
        path.symlink_to(WRITE_ONLY[variant % len(WRITE_ONLY)])
    else:
        clip(path).chmod(0)
    return path


def never_returns(folder: Path, variant: int) -> bytes:
    """A list of files for FFmpeg to join; the first is a pipe that nobody writes to, and opening it waits for ever."""
    os.mkfifo(folder / f"silence-{variant}")
    return f"ffconcat version 1.0\nfile silence-{variant}\n".encode()


BROKEN = {
    "cut": Kind(made_of(cut), "truncated"),
    "cut inside the index": Kind(made_of(cut_inside_the_index), "truncated"),
    "cut before the index": Kind(made_of(cut_before_the_index), "truncated"),
    "index alone": Kind(made_of(index_alone), "truncated"),
    "zero bytes": Kind(made_of(zero_bytes), "empty"),
    "bytes flipped": Kind(made_of(flipped), "unreadable"),
    "never filled": Kind(made_of(never_filled), "truncated"),
    "audio only": Kind(audio_only, "no_video_stream"),
    "zero duration": Kind(made_of(zero_duration), "no_frames"),
    "more frames counted than listed": Kind(made_of(too_many_frames), "no_frames"),
    "fewer frames listed than shown": Kind(made_of(too_few_frames), "truncated"),
    "HTML": Kind(made_of(html), "not_a_video"),
    "text": Kind(made_of(text), "not_a_video"),
    "random bytes": Kind(made_of(random_bytes), "not_a_video"),
    "picture": Kind(picture, "not_a_video"),
    "huge index": Kind(made_of(huge_index), "truncated"),
    "huge box": Kind(made_of(huge_box), "truncated"),
    "huge header": Kind(made_of(huge_header), "too_large"),
    "huge pictures": Kind(made_of(huge_pictures), "unreadable"),
    "missing": Kind(missing, "missing"),
    "directory": Kind(directory, "not_a_file"),
    "pipe": Kind(pipe, "not_a_file"),
    "broken link": Kind(broken_link, "missing"),
    "ring of links": Kind(ring_of_links, "unreadable"),
    "name too long": Kind(too_long_a_name, "unreadable"),
}
if os.geteuid() != 0 or WRITE_ONLY:
    BROKEN["unreadable file"] = Kind(locked, "unreadable")
NEVER_RETURNS = Kind(made_of(never_returns), "timeout")
