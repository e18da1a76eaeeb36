"""Videos that look strange and are whole: they must be read, and rightly. Each tells what it shows when."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from broken_videos import FASTSTART, FPS, FRAMES, clip, clip_bytes, put


class Odd(NamedTuple):
    """A file, the number that its first frame shows, and the seconds at which its frames appear."""

    path: Path
    number: int = 0
    starts_s: tuple[float, ...] = tuple(i / FPS for i in range(FRAMES))
    quarter_turns: int = 0  # counter-clockwise, which the metadata ask for

    def shown(self, times_s: np.ndarray) -> list[int]:
        """The numbers of the frames on the screen at those times."""
        last = [max(i for i, start in enumerate(self.starts_s) if start <= at + 1e-6) for at in times_s.tolist()]
        return [(self.number + i) % 256 for i in last]


def plain(folder: Path, variant: int) -> Odd:
    return Odd(clip(folder / f"plain-{variant}.mp4", variant), variant)


def rotated(folder: Path, variant: int) -> Odd:
    turns = variant % 3 + 1
    path = clip(folder / f"rotated-{variant}.mp4", variant, rotation=90 * turns)
    return Odd(path, variant, quarter_turns=turns)


def edit_list(folder: Path, variant: int) -> Odd:
    """Packets copied from a clip with its first frames before time 0, as cutters do that do not encode."""
    hidden, path = variant % 4 + 1, folder / f"edit_list-{variant}.mp4"
    source = clip(folder / f"source-{variant}.mp4", variant, options={"x264-params": "keyint=9:bframes=2:scenecut=0"})
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy, shift = new.add_stream_from_template(stream), int(Fraction(hidden, FPS) / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    source.unlink()
    return Odd(path, variant + hidden, tuple(i / FPS for i in range(FRAMES - hidden)))


def variable_rate(folder: Path, variant: int) -> Odd:
    rng = np.random.default_rng(variant)
    times_ms = np.cumsum([0, *rng.choice([40, 80, 300, 420], FRAMES - 1)]).tolist()
    path = clip(folder / f"variable-{variant}.mp4", variant, times_ms=times_ms)
    return Odd(path, variant, tuple(ms / 1000 for ms in times_ms))


def av1(folder: Path, variant: int) -> Odd:
    how = {"codec": "libsvtav1", "size": (64, 64), "options": {"preset": "10", "svtav1-params": "lp=1"}}
    return Odd(clip(folder / f"av1-{variant}.mp4", variant, **how), variant)


def ten_bit(folder: Path, variant: int) -> Odd:
    codec = ("libx264", "libx265")[variant % 2]
    options = {"preset": "ultrafast"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
    path = clip(folder / f"ten_bit-{variant}.mp4", variant, codec=codec, pix_fmt="yuv420p10le", options=options)
    return Odd(path, variant)


def one_frame(folder: Path, variant: int) -> Odd:
    return Odd(clip(folder / f"one_frame-{variant}.mp4", variant, frames=1), variant, (0.0,))


def wrong_extension(folder: Path, variant: int) -> Odd:
    """WebM and Matroska under mp4's name, and mp4 under others."""
    suffix, name = [("webm", "mp4"), ("mkv", "mp4"), ("mp4", "avi"), ("mp4", "txt"), ("mp4", "jpg")][variant % 5]
    how = {"codec": "libvpx-vp9", "options": None} if suffix == "webm" else {}
    path = clip(folder / f"named-{variant}.{suffix}", variant, **how)
    return Odd(path.rename(folder / f"wrong_extension-{variant}.{name}"), variant)


NAMES = ["my video (1)", "Größe ünïcode", "猫 が 走る", "%d", "a:b?c*d", "quote's \"", "-rf", "#?", "🎬", "n" * 240]


def strange_name(folder: Path, variant: int) -> Odd:
    path = clip(folder / f"source-{variant}.mp4", variant)
    return Odd(path.rename(folder / f"{NAMES[variant % len(NAMES)]} {variant}.mp4"), variant)


def lying_size(folder: Path, variant: int) -> Odd:
    """The container says 30000 pixels a side; H.264's own header, which counts, says 64 x 48."""
    path = folder / f"lying_size-{variant}.mp4"
    path.write_bytes(put(clip_bytes(folder, variant), b"avc1", 28, 30000 << 16 | 30000 - variant))
    return Odd(path, variant)


def lying_count(folder: Path, variant: int) -> Odd:
    """The table of times counts more frames than there are."""
    path = folder / f"lying_count-{variant}.mp4"
    path.write_bytes(put(clip_bytes(folder, variant), b"stts", 12, FRAMES * (variant + 2)))
    return Odd(path, variant)


def sparse_tail(folder: Path, variant: int) -> Odd:
    """A terabyte of nothing behind the video, which nobody must read."""
    path = clip(folder / f"sparse-{variant}.mp4", variant, **FASTSTART)
    with path.open("r+b") as file:
        file.truncate(2**40 + variant)
    return Odd(path, variant)


ODD: dict[str, Callable[[Path, int], Odd]] = {
    "rotated": rotated,
    "edit list": edit_list,
    "variable rate": variable_rate,
    "AV1": av1,
    "10-bit": ten_bit,
    "one frame": one_frame,
    "wrong extension": wrong_extension,
    "strange name": strange_name,
    "lying size": lying_size,
    "lying count": lying_count,
    "sparse tail": sparse_tail,
}
